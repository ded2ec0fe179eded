# SPDX-License-Identifier: GPL-2.0-or-later
"""The uAPI's rules on each kernel: `mlxtrace validate`, and some of its checks under faults."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from mlxtrace.checks import Status, all_checks
from mlxtrace.validate.profiles import Kind, load
from mlxtrace.validate.results import Verdict
from mlxtrace.vfio import MigrationFlags
from tests.lab.conftest import CARRIED, GUEST, KERNEL, STOCK, UNLOAD
from tests.lab.guest.faulty import FAULTS

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.lab.conftest import Lab, Labs

pytestmark = pytest.mark.lab

CHECKS = {check.id: check for check in all_checks()}
KERNELS = (KERNEL, STOCK, CARRIED)
# The last steps of checks for which the firmware's SAVEs are slow enough.
PROVOKED = {
    "C37": "seen to sleep: 6 of",
    "C39": r"INFO [1-9]\d*, read\(\) [1-9]\d*, changes of state [1-9]",
}
PROFILES = {KERNEL: "upstream-6.12", STOCK: "stock-6.1", CARRIED: "carried"}


@dataclass(frozen=True)
class Known:
    """What a kernel's driver is known not to do under faults; the profiles have the rest.

    Attributes:
        fails: what it does not keep.
        may_fail: what it keeps or not, as a race has it.
        allowed: assertions of the firmware that go with a failure.
        stays: why the driver cannot be unloaded afterwards.
        may_stay: the same, if a race decides.
    """

    fails: dict[str, str] = field(default_factory=dict)
    may_fail: dict[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()
    stays: str = ""
    may_stay: str = ""


_KEPT = "a session that ends before its SAVE does keeps its PD, its mkey and its file"
_LATE_READER = "a session that ends while a SAVE runs: read() says EAGAIN, or sleeps, for ever"

KNOWN = {
    CARRIED: Known(),
    KERNEL: Known(
        may_fail={
            "final-save-slow": "a reader between its two looks at the session takes STOP_COPY's "
            "beginning for its end"
        },
        allowed=("resume_incomplete", "pd_busy", "left_at_exit"),
        may_stay="a session that a reset ends while its SAVE runs frees its PD before its mkey: "
        "both stay, and its file",
    ),
    STOCK: Known(
        fails={
            "initial-save-slow": _LATE_READER,
            "save-slow-close": _LATE_READER,
            "save-slow": "a reader that sleeps is not woken when the session ends",
        },
        may_fail={"save-slow-kill": _KEPT},
        stays=_KEPT,
    ),
}


@dataclass(frozen=True)
class Ran:
    """How guest/contract.sh ended on a kernel, and what it printed.

    Attributes:
        faults: by fault, what guest/contract.py said.
        meta: the first line of validate, ``summary`` the last one.
        checks: by check, what validate said.
        junit: the XML file.
    """

    done: subprocess.CompletedProcess[str]
    faults: dict[str, dict[str, Any]]
    meta: dict[str, Any]
    checks: dict[str, dict[str, Any]]
    summary: dict[str, Any]
    junit: Path
    unload: subprocess.CompletedProcess[str]


def faults_on(kernel: str) -> list[str]:
    """Return the faults to ask for: those of checks that are not left out on the kernel."""
    profile = load(PROFILES[kernel], CHECKS)

    def is_left_out(name: str) -> bool:
        known = profile.of(CHECKS[FAULTS[name].check])
        return known is not None and known.kind is Kind.SKIP

    return [name for name in FAULTS if not is_left_out(name)]


def run_on(lab: Lab) -> Ran:
    options = [word for name in KNOWN[lab.kernel].allowed for word in ("--allow", name)]
    faults = faults_on(lab.kernel)
    done = lab.run("contract", "sh", GUEST / "contract.sh", *faults, options=options)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def only(event: str) -> dict[str, Any]:
        return next((line for line in lines if line.get("event") == event), {})

    return Ran(
        done,
        {line["fault"]: line for line in lines if "fault" in line},
        only("meta"),
        {line["id"]: line for line in lines if line.get("event") == "check"},
        only("summary"),
        lab.out / "contract/validate.xml",
        lab.run("contract-unload", "sh", "-c", UNLOAD, options=options),
    )


@pytest.fixture(scope="module")
def runs() -> dict[str, Ran]:
    """Return what ran already, by kernel: one run serves all tests."""
    return {}


@pytest.fixture
def ran(kernel: str, labs: Labs, runs: dict[str, Ran]) -> Ran:
    """Run every check and every fault on a kernel."""
    if kernel not in runs:
        runs[kernel] = run_on(labs.on(kernel))
        if KNOWN[kernel].stays or KNOWN[kernel].may_stay:
            labs.stop()
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
    assert list(ran.faults) == faults_on(kernel)
    assert set(ran.checks) == set(CHECKS)
    assert (ran.meta["profile"], ran.meta["driver"]) == (PROFILES[kernel], "mlx5_vfio_pci")
    if KNOWN[kernel].stays or (KNOWN[kernel].may_stay and ran.unload.returncode):
        assert "mlx5_vfio_pci is in use" in ran.unload.stderr
    else:
        assert ran.unload.returncode == 0, ran.unload.stderr


@each_kernel
def test_the_sums_and_the_xml_agree_with_the_checks(ran: Ran) -> None:
    found = [Verdict(line["status"]) for line in ran.checks.values()]
    assert ran.summary["exit_status"] == 0
    assert [ran.summary[name] for name in ("passed", "known_deviations", "not_offered")] == [
        found.count(each) for each in (Verdict.PASSED, Verdict.KNOWN_DEVIATION, Verdict.NOT_OFFERED)
    ]
    suites = ElementTree.parse(ran.junit).getroot()
    assert sum(int(suite.get("tests", 0)) for suite in suites) == len(found)
    assert not any(int(suite.get("failures", 0)) for suite in suites)


@pytest.mark.parametrize("name", CHECKS)
@each_kernel
def test_a_rule_holds_or_its_deviation_is_known(ran: Ran, kernel: str, name: str) -> None:
    known = load(PROFILES[kernel], CHECKS).of(CHECKS[name])
    line = ran.checks[name]
    told = "\n".join([line["reason"], *line["steps"]])
    assert (
        line["status"]
        in {
            None: {Verdict.PASSED},
            Kind.FAILS: {Verdict.KNOWN_DEVIATION},
            Kind.MAY_FAIL: {Verdict.KNOWN_DEVIATION, Verdict.PASSED},
            Kind.LACKS: {Verdict.NOT_OFFERED},
            # The firmware of these runs has none of it; test_logging.py asks for one that has.
            Kind.FAILS_IF_OFFERED: {Verdict.NOT_OFFERED},
            Kind.SKIP: {Verdict.NOT_RUN},
        }[known.kind if known else None]
    ), told
    assert line["known"] == (known.reason if known else "")
    if line["status"] == Verdict.KNOWN_DEVIATION:
        assert "the rule wants" in line["reason"]


@pytest.mark.parametrize("name", PROVOKED)
@each_kernel
def test_a_check_meets_what_its_rule_is_about(ran: Ran, name: str) -> None:
    line = ran.checks[name]
    if line["status"] == Verdict.PASSED:
        assert re.search(PROVOKED[name], line["steps"][-1]), "\n".join(line["steps"])


@pytest.mark.parametrize("name", FAULTS)
@each_kernel
def test_a_rule_holds_under_a_fault_or_its_deviation_is_known(
    ran: Ran, kernel: str, name: str
) -> None:
    if name not in faults_on(kernel):
        assert name not in ran.faults
        return
    result = ran.faults[name]
    steps = "\n".join(result["steps"])
    told = f"{result['reason']}\n{steps}"
    assert result["status"] in statuses(KNOWN[kernel], kernel, name), told
    if result["status"] == Status.FAILED:
        assert "the rule wants" in result["reason"]
    elif result["status"] == Status.PASSED:
        assert result["strikes"] > 0
        assert re.search(FAULTS[name].seen, steps), told


def statuses(known: Known, kernel: str, name: str) -> set[Status]:
    """Return what may come of a check under a fault."""
    if kernel == STOCK and MigrationFlags.PRE_COPY in CHECKS[FAULTS[name].check].needs:
        return {Status.NOT_OFFERED}
    if name in known.fails:
        return {Status.FAILED}
    return {Status.PASSED, Status.FAILED} if name in known.may_fail else {Status.PASSED}
