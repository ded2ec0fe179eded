# SPDX-License-Identifier: GPL-2.0-or-later
"""The uAPI's rules on each kernel: the checks of mlxtrace.checks, alone and under faults."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace.checks import Status, all_checks
from mlxtrace.vfio import MigrationFlags
from tests.lab.conftest import CARRIED, KERNEL, STOCK, UNLOAD
from tests.lab.guest.faulty import FAULTS

if TYPE_CHECKING:
    import subprocess

    from tests.lab.conftest import Lab, Labs

pytestmark = pytest.mark.lab

CHECKS = {check.id: check for check in all_checks()}
KERNELS = (KERNEL, STOCK, CARRIED)


@dataclass(frozen=True)
class Known:
    """What a kernel's driver is known not to do: by check or fault, the reason.

    Attributes:
        fails: what it does not keep.
        may_fail: what it keeps or not, as a race has it.
        lacks: what is not offered, besides all that needs PRE_COPY where there is none.
        spared: what would end the kernel, or spoil what runs after it, and is not run.
        allowed: assertions of the firmware that go with a failure.
    """

    fails: dict[str, str] = field(default_factory=dict)
    may_fail: dict[str, str] = field(default_factory=dict)
    lacks: dict[str, str] = field(default_factory=dict)
    spared: dict[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()


_TRUNCATED = "RESUMING to STOP does not look at what was loaded"
_FALSE_END = "a reader between its two looks at the session takes STOP_COPY's beginning for its end"
_LATE_READER = "a session that ends while a SAVE runs: read() says EAGAIN, or sleeps, for ever"
_NO_RECORDS = "its stream is one image"
_ALL_STATES = "the device has all states"

_PART_LOST = "a read() that meets the end of its buffer says EFAULT, and what it copied is lost"
_LEAK = "a session that ends as its SAVE does keeps its PD, its mkey and its file"
_FREED = "the data file's calls use memory that was freed"
_NO_LOG = "the stand-in has no log of what the device writes to"
_LACKS = {
    "C20.optin": "Linux 7.1 has the feature",
    "C33.error": "nothing brings the device to ERROR",
    **dict.fromkeys(("C44", "C44.ranges", "C44.report", "C44.stop", "C45"), _NO_LOG),
}

KNOWN = {
    CARRIED: Known(lacks={"C4": _ALL_STATES, **_LACKS}),
    KERNEL: Known(
        fails={
            "C17.once": "read() says ENOMSG while the SAVE that was announced still runs",
            "C25.partial": _PART_LOST,
            "C31.absent": _TRUNCATED,
            "C31.truncated": _TRUNCATED,
            "C31.ways": _TRUNCATED,
            "C32": _TRUNCATED,
            "C32.record": _TRUNCATED,
        },
        may_fail={"C38": _FALSE_END, "final-save-slow": _FALSE_END},
        lacks={"C4": _ALL_STATES, **_LACKS},
        spared={
            "C35.ioctl": "it oopses: the session is gone, the state is still PRE_COPY",
            **dict.fromkeys(("C35.held", "C35.unbind", "C35.sriov"), _FREED),
        },
        allowed=("resume_incomplete",),
    ),
    STOCK: Known(
        fails={
            "C5.session": _LATE_READER,
            "C25.partial": _PART_LOST,
            "C34": _LATE_READER,
            "C35": _LATE_READER,
            "C35.held": _LATE_READER,
            "C35.sriov": _LATE_READER,
            "C35.unbind": _LATE_READER,
            "C42": _LATE_READER,
            "initial-save-slow": _LATE_READER,
            "save-slow-close": _LATE_READER,
            "save-slow": "a reader that sleeps is not woken when the session ends",
        },
        may_fail={
            "C37": "as save-slow, if a reader happens to sleep",
            **dict.fromkeys(("C35.file", "C39.kill", "C42.race", "save-slow-kill"), _LEAK),
        },
        spared={"C41.stop": _LEAK},
        lacks={
            **_LACKS,
            "C30.optional": _NO_RECORDS,
            "C32.harmed": _NO_RECORDS,
            "C32.record": _NO_RECORDS,
            "C36": "Linux 6.2 has the feature",
        },
    ),
}


@dataclass(frozen=True)
class Ran:
    """How guest/contract.py ended on a kernel, and what it printed, by check or fault."""

    done: subprocess.CompletedProcess[str]
    results: dict[str, dict[str, Any]]
    unload: subprocess.CompletedProcess[str]


def run_on(lab: Lab) -> Ran:
    known = KNOWN[lab.kernel]
    done = lab.run(
        "contract",
        *("python", "-m", "tests.lab.guest.contract"),
        *(f"--without={name}" for name in known.spared),
        options=[word for name in known.allowed for word in ("--allow", name)],
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    results = {line["fault"] or line["id"]: line for line in lines}
    return Ran(done, results, lab.run("contract-unload", "sh", "-c", UNLOAD))


@pytest.fixture(scope="module")
def runs() -> dict[str, Ran]:
    """Return what ran already, by kernel: one run serves all tests."""
    return {}


@pytest.fixture
def ran(kernel: str, labs: Labs, runs: dict[str, Ran]) -> Ran:
    """Run every check and every fault on a kernel."""
    if kernel not in runs:
        runs[kernel] = run_on(labs.on(kernel))
    return runs[kernel]


# Every run asks the carried series. What others are known not to do takes minutes: --all has it.
each_kernel = pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(kernel, marks=[] if kernel == CARRIED else [pytest.mark.slow])
        for kernel in KERNELS
    ],
)


@each_kernel
def test_the_run_ends_well_and_leaves_nothing(ran: Ran, kernel: str) -> None:
    assert ran.done.returncode == 0, ran.done.stderr
    asked = [name for name in (*FAULTS, *CHECKS) if name not in KNOWN[kernel].spared]
    assert asked == [*ran.results]
    assert ran.unload.returncode == 0, ran.unload.stderr


@pytest.mark.parametrize("name", [*CHECKS, *FAULTS])
@each_kernel
def test_a_rule_holds_or_its_deviation_is_known(ran: Ran, kernel: str, name: str) -> None:
    known = KNOWN[kernel]
    if name in known.spared:
        return
    result = ran.results[name]
    steps = "\n".join(result["steps"])
    told = f"{result['reason']}\n{steps}"
    assert result["status"] in statuses(known, kernel, name), told
    if result["status"] == Status.FAILED:
        assert "the rule wants" in result["reason"]
    elif result["status"] == Status.PASSED and name in FAULTS:
        assert result["strikes"] > 0
        assert re.search(FAULTS[name].seen, steps), told


def statuses(known: Known, kernel: str, name: str) -> set[Status]:
    """Return what may come of a check or fault."""
    if name in known.lacks or (kernel == STOCK and needs_precopy(name)):
        return {Status.NOT_OFFERED}
    if name in known.fails:
        return {Status.FAILED}
    return {Status.PASSED, Status.FAILED} if name in known.may_fail else {Status.PASSED}


def needs_precopy(name: str) -> bool:
    """Return whether a check is about PRE_COPY."""
    check = CHECKS[FAULTS[name].check if name in FAULTS else name]
    return MigrationFlags.PRE_COPY in check.needs
