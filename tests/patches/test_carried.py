# SPDX-License-Identifier: GPL-2.0-or-later
"""The carried series goes through every command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlxpatch import kernels
from tests.patches import carried

SCRIPT = str(Path(sys.executable).parent / "mlxpatch")
CARRIED = Path(__file__).resolve().parents[2] / "kernel-patches/linux-6.1"


def mlxpatch(*words: str | Path) -> str:
    done = subprocess.run([SCRIPT, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def release() -> str:
    """Return the kernel that it is for, fetched if it is not cached."""
    return kernels.ensure("6.1", carried.PROGRESS)[0].release


def test_it_passes_every_gate(release: str) -> None:
    assert release
    mlxpatch("verify", CARRIED)


def test_it_builds_and_leaves_every_probe_its_function(release: str, tmp_path: Path) -> None:
    said = json.loads(mlxpatch("build", CARRIED, "--kernel", release, "-o", tmp_path, "--json"))
    assert "mlx5-vfio-pci" in {Path(path).stem for path in said["modules"]}
    gone = {
        probe["probe"] for probe in said["probes"] if probe["state"] not in ("present", "elsewhere")
    }
    assert gone == set()


def test_it_becomes_a_dkms_package(release: str, tmp_path: Path) -> None:
    package = tmp_path / "package"
    mlxpatch("dkms", CARRIED, "--kernel", release, "-o", package)
    text = (package / "dkms.conf").read_text()
    assert re.search(r'^BUILT_MODULE_NAME\[\d+\]="mlx5-vfio-pci"$', text, re.MULTILINE)


def test_it_compares_with_the_stock_drivers(release: str) -> None:
    found = json.loads(mlxpatch("compare", "stock", CARRIED, "--kernel", release, "--json"))
    assert {pair["kind"] for pair in found["patches"]} == {"added"}
    header = found["headers"]["include/uapi/linux/vfio.h"]
    assert header
    # User space that was built with the old header goes on working.
    assert not [change for change in header if change["abi"]]
