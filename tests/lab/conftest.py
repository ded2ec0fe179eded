# SPDX-License-Identifier: GPL-2.0-or-later
"""What the lab's tests share: the kernel sources, and few boots for all tests."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlxlab import kept, lock
from mlxpatch import kernels
from mlxpatch.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REPOSITORY = Path(__file__).resolve().parent.parent.parent
GUEST = Path(__file__).resolve().parent / "guest"
KERNEL = "upstream-6.12"
STOCK = "stock-6.1"
CARRIED = "carried-6.1"
# Nothing may be left behind; the next test finds everything as after a boot.
UNLOAD = "sh $MLXLAB_GUEST/vfs down && sh $MLXLAB_GUEST/vfs up"


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
    """All scenarios, run on one kernel."""

    kernel: str
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
    """Boot a lab of its own and run ``command`` in it; its $MLXLAB_OUT is ``out``.

    The caller has asked for the fixture ``no_lab``.
    """
    words = mlxlab("run", "--kernel", KERNEL, "--timeout", str(timeout_s), "--out", out, "--")
    return subprocess.run(
        [*words, *map(str, command)], cwd=REPOSITORY, capture_output=True, text=True
    )


@dataclass(frozen=True)
class Lab:
    """A lab that is kept while tests use it."""

    kernel: str
    out: Path

    def run(
        self, name: str, *command: str | Path, options: Sequence[str] = (), timeout_s: int = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run ``command`` in it; its $MLXLAB_OUT is the folder ``name`` of the lab's."""
        folder = self.out / name
        folder.mkdir()
        words = mlxlab("exec", "--timeout", str(timeout_s), "--env", f"MLXLAB_OUT={folder}")
        return subprocess.run(
            [*words, *options, "--", *map(str, command)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )


class Labs:
    """The labs that tests share, one at a time. What comes up at the end of one fails the run."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._lab: Lab | None = None

    def on(self, kernel: str) -> Lab:
        """Return a lab on ``kernel``: the one that is there, or a new one."""
        if self._lab and self._lab.kernel == kernel and kept.note().exists():
            return self._lab
        self.stop()
        out = self._folders.mktemp(kernel)
        words = mlxlab("run", "--keep", "--idle", "10", "--kernel", kernel, "--out", out)
        done = subprocess.run([*words, "--", "true"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self._lab = Lab(kernel, out)
        return self._lab

    def stop(self) -> None:
        """End the lab that is there."""
        if self._lab:
            self._lab = None
            done = subprocess.run(mlxlab("stop"), capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


def _wait_for_other_vms(config: pytest.Config) -> None:
    """Wait until no VM runs: of a lab that somebody keeps, until it was idle for long enough."""
    captured = config.pluginmanager.getplugin("capturemanager")
    assert captured

    def say(who: str) -> None:
        with captured.global_and_fixture_disabled():
            print(f"\nwaiting for {who}", flush=True)

    with lock.one_vm(say):
        pass


@pytest.fixture(scope="session")
def labs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Labs]:
    """The labs that tests share. A lab that is kept outside the tests is not found by them."""
    _wait_for_other_vms(request.config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLXLAB_KEPT", str(tmp_path_factory.mktemp("kept") / "kept.json"))
        shared = Labs(tmp_path_factory)
        yield shared
        shared.stop()


@pytest.fixture
def lab(labs: Labs) -> Lab:
    """A lab on the kernel with PRE_COPY."""
    return labs.on(KERNEL)


@pytest.fixture
def no_lab(labs: Labs) -> None:
    """No lab: the test boots its own, and only one can be there."""
    labs.stop()


@pytest.fixture(scope="session")
def linux_source() -> Path:
    """Return the kernel sources that the lab builds from, fetched if they are not cached."""
    return kernels.ensure_source("6.12", Progress("tests")).root


@pytest.fixture(scope="session")
def suites() -> dict[str, Suite]:
    """Return what ran already, by kernel: one run serves all tests."""
    return {}


@pytest.fixture(params=[KERNEL, CARRIED])
def suite(request: pytest.FixtureRequest, labs: Labs, suites: dict[str, Suite]) -> Suite:
    """Run guest/suite.sh on a kernel with PRE_COPY: on upstream's driver all of it."""
    kernel = request.param
    if kernel not in suites:
        lab = labs.on(kernel)
        words = ["driver"] if kernel != KERNEL else []
        # Its figures are those since the firmware was loaded.
        fresh = lab.run("suite-fresh", "sh", "-c", UNLOAD)
        assert fresh.returncode == 0, fresh.stderr
        done = lab.run("suite", "sh", GUEST / "suite.sh", *words)
        suites[kernel] = Suite(kernel, done, lab.out / "suite")
    return suites[kernel]


def is_on(item: pytest.Function, kernel: str) -> bool:
    """Return whether a test is on ``kernel``: by a parameter, or by its file's name."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return kernel in parameters or kernel.split("-")[0] in item.path.stem.split("_")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group what shares a boot: one kernel after the other, then what boots for itself."""

    def group(item: pytest.Item) -> int:
        if "lab" not in item.keywords or not isinstance(item, pytest.Function):
            return 0
        fixtures = set(item.fixturenames)
        if {"no_lab", "migrations"} & fixtures:
            return 5
        # Streams that cross kernels begin and end on the carried series: see test_cross_kernel.py.
        if is_on(item, CARRIED) or "on_carried" in fixtures:
            return 4
        if is_on(item, STOCK) or "on_stock" in fixtures:
            return 3
        return 1 if "carried_streams" in fixtures and "on_upstream" not in fixtures else 2

    items.sort(key=group)
