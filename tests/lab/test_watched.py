# SPDX-License-Identifier: GPL-2.0-or-later
"""`mlxtrace validate` and the tracer watch the same run and agree on every count.

Validate counts the calls that it makes, the tracer what the driver was seen to do, the firmware
its commands. None knows of the others.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace import agreement
from mlxtrace.checks import all_checks
from mlxtrace.vfio_calls import KINDS
from tests.lab.conftest import CARRIED, GUEST, KERNEL, STOCK

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.conftest import Lab, Labs

pytestmark = pytest.mark.lab

VF0, VF1 = "0000:01:00.1", "0000:01:00.2"
# States, ioctls, reads, writes and resets, and what is refused of each.
SOME = frozenset(
    {"C5", "C6", "C7", "C8", "C9", "C13", "C15", "C21", "C28", "C29", "C31", "C33", "C34", "C36"}
)
# What else all_checks() has cannot be compared.
APART = {
    "C24": "VFIO's core answers for the driver",
    "C25": "the driver is not asked, or its answer gets lost",
    "C30.vector": "writev() is several calls for the driver",
    "C39": "calls are interrupted, and made again by the kernel; processes that count are killed",
    "C40": "the driver's answer gets lost",
}
# Nor can those that end a reader which the kernel's driver does not wake.
KILLING = {STOCK: {"C37"}}
# What the firmware has to say of a driver that starts what was not loaded.
ALLOWED = {KERNEL: ["--allow", "resume_incomplete"]}


def comparable(kernel: str) -> list[str]:
    """Return the checks whose calls all get to the driver, once, as --only takes them."""
    names = APART.keys() | KILLING.get(kernel, set())
    apart = {check.id for check in all_checks() if {check.id, check.statement} & names}
    # The name of a statement's first check stands for all of them.
    whole = {name.partition(".")[0] for name in apart}
    return [check.id for check in all_checks() if check.id not in apart | whole]


def counters(path: Path) -> dict[str, int]:
    lines = path.read_text().splitlines()
    return {name: int(value) for name, value in (line.split() for line in lines)}


def watch(lab: Lab, name: str, checks: list[str]) -> tuple[Path, dict[str, Any]]:
    """Run ``checks`` under the tracer; return where that wrote, and the last line of validate."""
    words = ("sh", GUEST / "watched.sh", ",".join(checks))
    done = lab.run(name, *words, options=ALLOWED.get(lab.kernel, ()))
    assert done.returncode == 0, done.stdout + done.stderr
    out = lab.out / name
    lines = [json.loads(line) for line in (out / "checks.jsonl").read_text().splitlines()]
    assert lines[-1]["event"] == "summary"
    return out, lines[-1]


def require_agreement(out: Path, summary: dict[str, Any]) -> None:
    events = agreement.traced_events(out / "trace.mlxrec")
    rows = agreement.compare_calls(summary["calls"], events)
    for bdf, name in ((VF0, "source"), (VF1, "target")):
        before, after = (counters(out / f"{name}.{when}") for when in ("before", "after"))
        grown = {key: after[key] - before[key] for key in after}
        rows += agreement.compare_firmware(bdf, grown, events)
    assert [row for row in rows if not row.agrees] == []


@pytest.mark.parametrize("kernel", [CARRIED])
def test_three_witnesses_agree(labs: Labs, kernel: str) -> None:
    out, summary = watch(labs.on(kernel), "watched", sorted(SOME))
    require_agreement(out, summary)
    # Nothing else of it is 0 since nothing was done, or nothing seen.
    assert [kind for kind in KINDS if not summary["calls"][kind]] == ["failed_estimates"]


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [KERNEL, STOCK, CARRIED])
def test_they_agree_on_all_checks_that_can_be_compared(labs: Labs, kernel: str) -> None:
    require_agreement(*watch(labs.on(kernel), "watched-all", comparable(kernel)))
    if kernel == STOCK:
        # Its sessions leave files behind, with which it cannot be unloaded.
        labs.stop()
