# SPDX-License-Identifier: GPL-2.0-or-later
"""The uAPI's rules on each kernel: the checks of mlxtrace.checks, alone and under faults."""

from __future__ import annotations

import json
from dataclasses import dataclass
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
    """What a kernel's driver is known not to do: by check or fault, the reason."""

    fails: dict[str, str]
    may_fail: dict[str, str]
    """Those that a race decides."""
    not_offered: dict[str, str]
    options: tuple[str, ...] = ()
    """Of guest/contract.py."""
    allowed: tuple[str, ...] = ()
    """Assertions of the firmware that its failures set off."""


KNOWN = {
    CARRIED: Known({}, {}, {}),
    KERNEL: Known({}, {}, {}),
    STOCK: Known({}, {}, {}),
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
        *("python", "-m", "tests.lab.guest.contract", *known.options),
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


each_kernel = pytest.mark.parametrize("kernel", KERNELS)


@each_kernel
def test_the_run_ends_well_and_leaves_nothing(ran: Ran) -> None:
    assert ran.done.returncode == 0, ran.done.stderr
    assert list(ran.results) == [*FAULTS, *CHECKS]
    assert ran.unload.returncode == 0, ran.unload.stderr


@pytest.mark.parametrize("name", [*CHECKS, *FAULTS])
@each_kernel
def test_a_rule_holds_or_its_deviation_is_known(ran: Ran, kernel: str, name: str) -> None:
    result, known = ran.results[name], KNOWN[kernel]
    wanted = Status.PASSED
    if name in known.fails:
        wanted = Status.FAILED
    elif name in known.not_offered or (kernel == STOCK and needs_precopy(name)):
        wanted = Status.NOT_OFFERED
    steps = "\n".join(result["steps"])
    if name not in known.may_fail:
        assert result["status"] == wanted, f"{result['reason']}\n{steps}"
    if result["status"] == Status.FAILED:
        assert "the rule wants" in result["reason"]
    elif result["status"] == Status.PASSED and name in FAULTS:
        assert result["strikes"] > 0
        assert FAULTS[name].seen in steps


def needs_precopy(name: str) -> bool:
    """Return whether a check is about PRE_COPY."""
    check = CHECKS[FAULTS[name].check if name in FAULTS else name]
    return MigrationFlags.PRE_COPY in check.needs


@pytest.mark.parametrize("kernel", [CARRIED])
def test_the_carried_series_keeps_every_rule(ran: Ran) -> None:
    assert {result["status"] for result in ran.results.values()} <= {"passed", "not offered"}
    not_offered = {name for name, each in ran.results.items() if each["status"] == "not offered"}
    assert not_offered == {"C4"}
