# SPDX-License-Identifier: GPL-2.0-or-later
"""Each check, on a driver that keeps all rules and on drivers that break one."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from mlxtrace import devices
from mlxtrace.checks import Check, Context, Outcome, Status, abrupt, all_checks, fsm, run, transfer
from mlxtrace.checks.child import Child
from mlxtrace.checks.limits import limits
from mlxtrace.vfio import MigrationFlags

from .fake_device import ALL_FLAGS
from .fake_driver import SOURCE, TARGET, FakeDriver

if TYPE_CHECKING:
    from pathlib import Path

CHECKS = {check.id: check for check in all_checks()}
# A forked child has a copy of the model, and does not see what its parent does to the device.
SHARED = {"C37", "C38"}
# Pipes are not called as the driver's files are, and have no 32-bit calls; sysfs is a folder.
REAL = {"C24.compat", "C35.held", "C35.unbind", "C46"}
ABSENT = {
    "C4": "all states",
    "C33.error": "to ERROR",
    "C35.sriov": "not allowed",
}
CYCLES = 8


class Judge(Protocol):
    """Runs a check on a driver that breaks the rules that are named."""

    def __call__(
        self, identifier: str, *breaks: str, flags: MigrationFlags = ALL_FLAGS
    ) -> Outcome: ...


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    def run_it(identifier: str, *breaks: str, flags: MigrationFlags = ALL_FLAGS) -> Outcome:
        driver = FakeDriver(tmp_path, monkeypatch, breaks, flags)
        context = Context(SOURCE, TARGET, firmware=driver.firmware, dma=driver.dma, cycles=CYCLES)
        return run(CHECKS[identifier], context)

    return run_it


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """MiB that this machine has to give, one for each look at it; the last one stays.

    What other processes take is not for these tests.
    """
    left = [4096]
    # Those of the model are too small for anything to be missed.
    monkeypatch.setattr(abrupt, "_stream_bytes", lambda _: 16 << 20)
    monkeypatch.setattr(
        abrupt, "_available", lambda: (left.pop(0) if len(left) > 1 else left[0]) << 20
    )
    return left


def told(outcome: Outcome) -> str:
    return "\n".join([outcome.reason, *map(str, outcome.steps)])


@pytest.mark.parametrize("name", [name for name in CHECKS if name not in SHARED | REAL])
def test_a_driver_that_keeps_the_rules_passes(judge: Judge, name: str) -> None:
    outcome = judge(name)
    if name in ABSENT:
        assert outcome.status is Status.NOT_OFFERED
        assert ABSENT[name] in outcome.reason
    else:
        assert outcome.status is Status.PASSED, told(outcome)
        assert outcome.steps


def test_memory_that_is_lost_once_was_taken_by_others(judge: Judge, memory: list[int]) -> None:
    memory[:] = [4096, 4000, 4000, 3990]
    outcome = judge("C41.memory")
    assert outcome.status is Status.PASSED, told(outcome)
    assert "96.0 MiB less; once more" in told(outcome)


def test_memory_that_is_lost_each_time_is_a_leak(judge: Judge, memory: list[int]) -> None:
    memory[:] = [4096, 4000, 4000, 3960, 3960, 3920]
    outcome = judge("C41.memory")
    assert outcome.status is Status.FAILED
    assert "40.0 MiB less; the rule wants no more than 32.0 MiB less" in outcome.reason


@pytest.mark.parametrize(
    ("size", "sessions", "allowed_mib"), [(16 << 20, 4, 32), (2 << 20, 32, 32), (1 << 30, 4, 2048)]
)
def test_there_are_enough_sessions_for_a_leak_to_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, sessions: int, allowed_mib: int
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch)
    monkeypatch.setattr(abrupt, "_stream_bytes", lambda _: size)
    left = itertools.count(1 << 20, -sessions * size >> 20)
    monkeypatch.setattr(abrupt, "_available", lambda: next(left) << 20)
    outcome = run(
        CHECKS["C41.memory"], Context(SOURCE, TARGET, firmware=driver.firmware, cycles=CYCLES)
    )
    assert outcome.status is Status.FAILED
    assert f"MemAvailable after {sessions} sessions of {size} bytes" in outcome.reason
    assert f"wants no more than {allowed_mib}.0 MiB less" in outcome.reason


def test_states_of_which_nothing_is_missed_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch)
    monkeypatch.setattr(abrupt, "_stream_bytes", lambda _: 96)
    outcome = run(CHECKS["C41.memory"], Context(SOURCE, TARGET, firmware=driver.firmware))
    assert outcome.status is Status.NOT_OFFERED
    assert "--cycles 2796204" in outcome.reason


def test_signals_that_meet_nothing_that_waits_prove_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeDriver(tmp_path, monkeypatch)
    outcome = run(CHECKS["C39"], Context(SOURCE, TARGET))
    assert (outcome.status, outcome.reason) == (
        Status.NOT_OFFERED,
        "no signal met a call that waited: nothing is slow here",
    )


def test_signals_meet_changes_of_state(judge: Judge) -> None:
    outcome = judge("C39")
    assert outcome.status is Status.PASSED, told(outcome)
    assert re.search(r"changes of state [1-9]", str(outcome.steps[-1]))


def test_what_a_mediated_device_was_left_in_is_another_rules_affair(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices.DeviceInfo, "is_mediated", True)
    outcome = judge("C1", "opens-stopped")
    assert outcome.status is Status.PASSED, told(outcome)
    assert "which was in: STOP" in told(outcome)


@pytest.mark.parametrize("name", ["C39", "C39.kill"])
def test_calls_that_are_to_wait_have_something_to_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch)
    run(CHECKS[name], Context(SOURCE, TARGET, firmware=driver.firmware, cycles=CYCLES))
    assert {device for device, _ in driver.slowed} == {SOURCE}


@pytest.mark.parametrize(
    ("name", "rounds"),
    [
        ("C41", CYCLES),
        ("C41.memory", 4),
        ("C41.open", len(fsm.STATES)),
        ("C41.resuming", 4),
        ("C41.stop", CYCLES // 2),
        ("C42.reset", abrupt.MEETINGS),
    ],
)
def test_a_check_that_repeats_itself_says_each_time_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rounds: int
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch)
    told: list[str] = []

    class Telling(Context):
        def goes_on(self) -> None:
            told.append(name)

    outcome = run(CHECKS[name], Telling(SOURCE, TARGET, firmware=driver.firmware, cycles=CYCLES))
    assert outcome.status is Status.PASSED
    assert told == [name] * rounds


def test_resets_have_their_limit_one_by_one(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Firmware that takes its time for each of them does not hang."""
    given: list[float] = []

    class Watched(Child):
        def result(self, timeout_s: float) -> Any:
            given.append(timeout_s)
            return super().result(timeout_s)

    monkeypatch.setattr(abrupt, "Child", Watched)
    assert judge("C42.reset").status is Status.PASSED
    assert given == [limits.answer_s] * (1 + abrupt.MEETINGS)


def simple(check: Check) -> bool:
    """Tell whether a check applies to a driver that offers STOP_COPY only."""
    return check.needs == MigrationFlags.STOP_COPY


@pytest.mark.parametrize(
    "name", [name for name in CHECKS if name not in SHARED | REAL and simple(CHECKS[name])]
)
def test_a_driver_without_optional_states_passes_too(judge: Judge, name: str) -> None:
    outcome = judge(name, flags=MigrationFlags.STOP_COPY)
    assert outcome.status is not Status.FAILED, told(outcome)


BROKEN = [
    ("opens-stopped", "C1"),
    ("opens-stopped", "C1.again"),
    ("close-keeps-session", "C35"),
    ("same-state-file", "C8"),
    ("nonsense-stops", "C7"),
    ("no-initial", "C12"),
    ("no-initial", "C12.peers"),
    ("always-dirty", "C13"),
    ("always-dirty", "C19"),
    ("initial-is-short", "C16"),
    ("initial-stays", "C13.initial"),
    ("initial-stays", "C15"),
    ("denies-announced", "C17.once"),
    ("zero-for-now", "C19"),
    ("info-everywhere", "C21"),
    ("info-of-any-size", "C23"),
    ("no-final-end", "C26"),
    ("no-final-end", "C27"),
    ("corrupts", "C29"),
    ("corrupts", "C30"),
    ("corrupts", "C30.bytes"),
    ("reset-keeps-session", "C34"),
    ("signal-ends-session", "C39"),
    ("tracks-for-ever", "C43"),
    ("takes-parts", "C31.absent"),
    ("takes-parts", "C31.truncated"),
    ("takes-parts", "C31.ways"),
    ("takes-parts", "C32"),
    ("flags-are-taken", "C24.flags"),
    ("feature-errno", "C24.feature"),
    ("probe-acts", "C24.probe"),
    ("argsz-by-one", "C24.argsz"),
    ("fault-leaks-file", "C25.state"),
    ("fault-loses-data", "C25.read"),
    ("fault-loses-data", "C25.partial"),
    ("empty-read-takes", "C11.empty"),
    ("resuming-reads", "C11"),
    ("read-sleeps", "C19.blocking"),
    ("poll-stays-silent", "C27.poll"),
    ("poll-lies", "C27.poll"),
    ("poll-lies", "C19"),
    ("flags-lose-data", "C20.given"),
    ("flags-are-echoed", "C20.optin"),
    ("initial-rises", "C14.peers"),
    ("refusal-ends-session", "C7.session"),
    ("second-file", "C5"),
    ("second-file", "C5.walk"),
    ("second-file", "C10"),
    ("keeps-old-file", "C5.session"),
    ("leaks", "C41"),
    ("leaks", "C41.stop"),
    ("leaks", "C35.file"),
    ("ranges-overlap", "C44.ranges"),
    ("log-twice", "C44"),
    ("report-clears", "C44.report"),
    ("last-page-missing", "C45"),
]


@pytest.mark.parametrize(("broken", "name"), BROKEN)
def test_a_driver_that_breaks_a_rule_fails_its_check(
    judge: Judge, broken: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "check_s", 1.5)
    outcome = judge(name, broken)
    assert outcome.status is Status.FAILED, told(outcome)
    assert "the rule wants" in outcome.reason or "not expected" in outcome.reason, told(outcome)


WRITING = (
    "C5",
    "C5.session",
    "C30",
    "C30.vector",
    "C31.truncated",
    "C31.ways",
    "C32",
    "C32.harmed",
)


@pytest.mark.parametrize("name", [*WRITING, "C33", "C33.harmed", "C41.resuming"])
def test_a_driver_that_takes_a_part_at_a_time_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch)
    for device in driver.devices.values():
        device.faults.short_write = 3000
    context = Context(SOURCE, TARGET, firmware=driver.firmware, cycles=CYCLES)
    outcome = run(CHECKS[name], context)
    assert outcome.status is Status.PASSED, told(outcome)


@pytest.mark.parametrize("name", ["C5", "C32", "C32.harmed"])
def test_a_driver_that_takes_nothing_and_says_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch)
    for device in driver.devices.values():
        device.faults.short_write = 0
    outcome = run(CHECKS[name], Context(SOURCE, TARGET, firmware=driver.firmware))
    assert outcome.status is Status.FAILED


def test_data_that_writev_loses_is_missed_in_the_state(judge: Judge) -> None:
    outcome = judge("C30.vector", "takes-parts", "writev-drops")
    assert outcome.status is Status.FAILED, told(outcome)
    assert "hashes of both states" in outcome.reason


@pytest.mark.parametrize("name", ["C30", "C30.vector"])
def test_where_states_cannot_be_compared_the_steps_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    FakeDriver(tmp_path, monkeypatch)
    monkeypatch.setattr(transfer, "state_hash", lambda _: None)
    outcome = run(CHECKS[name], Context(SOURCE, TARGET))
    assert outcome.status is Status.PASSED, told(outcome)
    assert "hashes of both states: there are none here: the states are not compared" in told(
        outcome
    )


def test_a_device_in_error_is_judged(judge: Judge) -> None:
    outcome = judge("C33.error", "enters-error")
    assert outcome.status is Status.PASSED, told(outcome)
