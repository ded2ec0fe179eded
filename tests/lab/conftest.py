# SPDX-License-Identifier: GPL-2.0-or-later
"""What the lab's tests share: the kernel sources, and one boot for all scenarios."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlxpatch import kernels
from mlxpatch.progress import Progress

REPOSITORY = Path(__file__).resolve().parent.parent.parent
GUEST = Path(__file__).resolve().parent / "guest"
KERNEL = "upstream-6.12"


@dataclass(frozen=True)
class Scenario:
    """What one scenario of guest/suite.sh left behind."""

    folder: Path

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    @property
    def status(self) -> int:
        return int((self.folder / "status").read_text())

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    def counters(self, name: str) -> dict[str, int]:
        """Return a file of ``name value`` lines."""
        lines = (self.folder / name).read_text().splitlines()
        return {key: int(value) for key, value in (line.split() for line in lines)}


@dataclass(frozen=True)
class Suite:
    """One boot with all scenarios."""

    run: subprocess.CompletedProcess[str]
    out: Path

    def __getitem__(self, name: str) -> Scenario:
        scenario = Scenario(self.out / name)
        assert (scenario.folder / "status").exists(), f"{name} did not run:\n{self.run.stderr}"
        return scenario


def mlxlab(*arguments: str | Path) -> list[str]:
    """Return the command line of mlxlab in this environment."""
    return [str(Path(sys.executable).parent / "mlxlab"), *map(str, arguments)]


def lab_run(
    out: Path, *command: str | Path, timeout_s: int = 600
) -> subprocess.CompletedProcess[str]:
    """Boot the lab and run ``command`` in it; its $MLXLAB_OUT is ``out``."""
    words = mlxlab("run", "--kernel", KERNEL, "--timeout", str(timeout_s), "--out", out, "--")
    return subprocess.run(
        [*words, *map(str, command)], cwd=REPOSITORY, capture_output=True, text=True
    )


@pytest.fixture(scope="session")
def linux_source() -> Path:
    """Return the kernel sources that the lab builds from, fetched if they are not cached."""
    return kernels.ensure_source("6.12", Progress("tests")).root


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """Boot once and run every scenario of guest/suite.sh."""
    out = tmp_path_factory.mktemp("lab")
    return Suite(lab_run(out, "sh", GUEST / "suite.sh"), out)
