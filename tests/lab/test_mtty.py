# SPDX-License-Identifier: GPL-2.0-or-later
"""A driver that is not of this project and not mlx5: the kernel's sample mtty.

The profile mtty has what it is known not to do, and why.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from mlxlab import mtty
from mlxpatch import build, kernels
from mlxpatch.progress import Progress
from mlxtrace.checks import all_checks
from mlxtrace.validate.profiles import Kind, load
from mlxtrace.validate.results import Verdict
from tests.lab.conftest import GUEST, KERNEL, REPOSITORY, Lab, Labs, mlxlab

if TYPE_CHECKING:
    from pathlib import Path

CHECKS = {check.id: check for check in all_checks()}
KNOWN = load("mtty", CHECKS).known
HEADER_BYTES, STREAM_BYTES = 24, 96
# Every run asks these, and what else their statements have, in a boot that is there; --all asks
# everything in a boot of mtty's own.
SOME = ["C5", "C10", "C30", "C31.truncated", "C34"]

pytestmark = pytest.mark.lab


def of_mtty(test: Any) -> Any:
    """Mark a test of what the boot with --device mtty has left."""
    return pytest.mark.slow(pytest.mark.usefixtures("no_lab")(test))


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Return what `mlxtrace validate` printed, by check; it took the profile mtty by itself."""
    meta, *lines, summary = [json.loads(line) for line in path.read_text().splitlines()]
    assert (meta["driver"], meta["profile"]) == ("mtty", "mtty")
    assert summary["exit_status"] == 0
    return {line["id"]: line for line in lines}


def told(line: dict[str, Any]) -> str:
    return "\n".join([f"{line['id']}: {line['reason']}", *line["steps"]])


def require_known(checks: dict[str, dict[str, Any]]) -> None:
    """Check that every rule holds, or does not for a reason that the profile has."""
    wanted = dict.fromkeys(CHECKS, Verdict.PASSED)
    wanted |= dict.fromkeys(KNOWN[Kind.FAILS], Verdict.KNOWN_DEVIATION)
    wanted |= dict.fromkeys(KNOWN[Kind.LACKS], Verdict.NOT_OFFERED)
    wrong = [told(line) for name, line in checks.items() if line["status"] != wanted[name]]
    assert not wrong, "\n".join(wrong)


def test_its_devices_migrate_beside_vfs(lab: Lab) -> None:
    kernel, source = kernels.ensure(lab.kernel.partition("-")[2], Progress("tests"))
    built = build.build(mtty.recipe(source.root, "6.12"), kernel.headers, Progress("tests"))
    done = lab.run("mtty", "sh", GUEST / "mtty_beside.sh", *built.modules, ",".join(SOME))
    assert done.returncode == 0, done.stderr
    checks = read(lab.out / "mtty/checks")
    assert set(SOME) <= set(checks)
    require_known(checks)


@pytest.fixture(scope="module")
def out(labs: Labs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run guest/mtty.sh in the lab with two devices; return what it wrote."""
    labs.stop()
    folder = tmp_path_factory.mktemp("mtty")
    words = mlxlab("run", "--device", "mtty", "--kernel", KERNEL, "--timeout", "300")
    done = subprocess.run(
        [*words, "--out", folder, "--", "sh", GUEST / "mtty.sh"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@of_mtty
def test_a_migration_needs_no_mlx5(out: Path) -> None:
    there = json.loads((out / "there.json").read_text())
    assert (there["result"], there["framing"], there["target_state"]) == ("done", "raw", "RUNNING")
    assert there["rounds"][0]["initial_bytes"] == HEADER_BYTES
    assert there["read_bytes"] == there["written_bytes"] == STREAM_BYTES


@of_mtty
def test_a_stream_that_it_refuses_leaves_both_devices_usable(out: Path) -> None:
    damaged = json.loads((out / "damaged.json").read_text())
    assert (out / "damaged").read_text() == "1\n"
    assert "EFAULT" in (out / "damaged.txt").read_text()
    assert damaged["source_state"].startswith("RUNNING")
    assert damaged["target_state"] == "reset (RUNNING)"


@of_mtty
def test_every_rule_holds_or_its_deviation_is_known(out: Path) -> None:
    checks = read(out / "checks")
    assert set(checks) == set(CHECKS)
    require_known(checks)


@of_mtty
def test_nothing_is_left_when_the_devices_are_removed(out: Path) -> None:
    assert (out / "left").read_text() == ""
