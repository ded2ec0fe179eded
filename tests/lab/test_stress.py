# SPDX-License-Identifier: GPL-2.0-or-later
"""The carried series under cancelling, faults, resets, races and signals: nothing breaks or stays.

A short run on the image, and the whole of it on the debug kernel, whose checkers fail a run by
themselves. `mlxlab run` fails of splats and of the firmware's assertions.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from mlxlab import debugkernel, table
from mlxpatch.progress import Progress
from tests.lab.conftest import CARRIED, REPOSITORY, UNLOAD, mlxlab

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.conftest import Labs

pytestmark = pytest.mark.lab

DEBUG = "debug-6.1"
SERIES = REPOSITORY / "kernel-patches/linux-6.1"
# Each boot's parts, with the counts that the cover letter names; a boot of all is too long to look
# into.
WHOLE = {
    "cycles": "--parts cycles,storm --cycles 500 --storm 2000",
    "faults, first half": "--parts knobs --knobs 1/2",
    "faults, second half": "--parts knobs --knobs 2/2",
    "allocations": "--parts allocations --allocations 1/1",
    "sessions": "--parts sessions,sriov --sessions 1/1 --sriov 1/1",
    "races": "--parts races,signals --races 100 --signals 20",
    "resets": "--parts resets --resets 10",
}


def script(result: Path, options: str) -> str:
    return f"python -m tests.lab.guest.stress {result} {options} && {UNLOAD}"


def check(result: Path) -> dict[str, Any]:
    """Check that nothing was wrong and nothing has grown; return what there is to know."""
    stressed: dict[str, Any] = json.loads(result.read_text())
    assert {name: part["wrong"] for name, part in stressed["parts"].items() if part["wrong"]} == {}
    before, after = stressed["before"], stressed["after"]
    assert after["objects"] == {"pds": 0, "mkeys": 0, "async": 0}
    assert after["fds"] == before["fds"]
    return stressed


# Every run has the checks and faults; this takes two minutes.
@pytest.mark.slow
@pytest.mark.parametrize("kernel", [CARRIED])
def test_a_little_of_everything(labs: Labs, kernel: str) -> None:
    lab = labs.on(kernel)
    result = lab.out / "stress" / "stress.json"
    done = lab.run("stress", "sh", "-c", script(result, ""))
    assert done.returncode == 0, done.stdout + done.stderr
    parts = check(result)["parts"]
    # Failing allocations is for the debug kernel: --all has that.
    assert set(parts) == {"cycles", "knobs", "sessions", "sriov", "races", "resets", "signals"}


@pytest.fixture(scope="module")
def debug_kernel() -> str:
    """Return the debug kernel with the series; the first time takes ten minutes."""
    return debugkernel.build(table.load()[DEBUG], SERIES, Progress("tests")).name


@pytest.mark.slow
@pytest.mark.usefixtures("no_lab")
@pytest.mark.parametrize("options", WHOLE.values(), ids=WHOLE)
def test_all_of_it_on_the_debug_kernel(tmp_path: Path, debug_kernel: str, options: str) -> None:
    result = tmp_path / "stress.json"
    words = mlxlab("run", "--kernel", debug_kernel, "--timeout", "3000", "--out", tmp_path)
    done = subprocess.run(
        [*words, "--", "sh", "-c", script(result, options)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    stressed = check(result)
    assert stressed["kernel"] == {"fault_injection": True, "kmemleak": True}
