# SPDX-License-Identifier: GPL-2.0-or-later
"""C39.kill, C42: what a killed process or a race leaves, and what hides it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace.checks import Context, Outcome, Status, abrupt, all_checks, run
from mlxtrace.vfio import State

from .fake_driver import SOURCE, TARGET, DriverDevice, FakeDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CHECKS = {check.id: check for check in all_checks()}


class Wedged(DriverDevice):
    """A VF that can be stuck in PRE_COPY until it is reset."""

    stuck = False

    def _change(self, aim: State) -> str:
        if self.stuck and aim is not State.PRE_COPY:
            raise self.fail("leaving PRE_COPY", errno.EIO)
        return super()._change(aim)

    def get_stuck(self) -> None:
        self._change(State.PRE_COPY)
        self.stuck = True

    def reset(self) -> None:
        self.stuck = False
        super().reset()


class Child:
    """A process of the check that leaves the device stuck."""

    device: Wedged

    def __init__(self, _: Callable[[], object], **__: Sequence[int]) -> None:
        self.device.get_stuck()

    def kill(self, _: float) -> bool:
        """Be gone."""
        return True

    def result(self, _: float) -> dict[str, Any]:
        return {"said": {"state": {"0": 40}, "read": {"0": 3}}}


def judge(driver: FakeDriver, name: str) -> Outcome:
    return run(CHECKS[name], Context(SOURCE, TARGET, firmware=driver.firmware, cycles=8))


@pytest.mark.parametrize("name", ["C39.kill", "C42.race", "C42.reset"])
def test_a_device_that_only_a_reset_helps_is_not_brought_to_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch)
    stuck = driver.devices[SOURCE]
    stuck.__class__ = Wedged
    monkeypatch.setattr(Child, "device", stuck, raising=False)
    monkeypatch.setattr(abrupt, "Child", Child)
    outcome = judge(driver, name)
    assert outcome.status is Status.FAILED
    assert outcome.reason.startswith("PRE_COPY to RUNNING after "), outcome.reason
    assert outcome.reason.endswith(": EIO; the rule wants 0")


def test_a_device_goes_on_working_without_a_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a request whose answer could not be written."""
    driver = FakeDriver(tmp_path, monkeypatch)
    driver.devices[SOURCE].__class__ = Wedged
    monkeypatch.setattr(Wedged, "_enter", lambda self, state: enter(self, state))

    def enter(self: Wedged, state: State) -> None:
        self.stuck = state is State.PRE_COPY
        DriverDevice._enter(self, state)

    outcome = judge(driver, "C25.state")
    assert outcome.status is Status.FAILED
    assert outcome.reason == (
        "PRE_COPY to RUNNING after the answer to PRE_COPY could not be written: EIO; the rule "
        "wants 0"
    )


def test_a_killed_process_that_does_not_go_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who takes what it left for the end of it judges a device that is in use."""
    driver = FakeDriver(tmp_path, monkeypatch)
    monkeypatch.setattr(Child, "device", driver.devices[SOURCE], raising=False)
    driver.devices[SOURCE].__class__ = Wedged
    monkeypatch.setattr(Child, "kill", lambda *_: False)
    monkeypatch.setattr(abrupt, "Child", Child)
    outcome = judge(driver, "C39.kill")
    assert (outcome.status, outcome.hung) == (Status.FAILED, True)
    assert "is there still after 60 s" in outcome.reason


@pytest.mark.parametrize("state", [State.RESUMING, State.ERROR])
def test_what_a_killed_process_has_not_loaded_needs_a_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch)
    device = driver.devices[SOURCE]

    class Resuming(Child):
        def __init__(self, *_: object, **__: object) -> None:
            device._change(State.RESUMING)
            device._enter(state)

    monkeypatch.setattr(abrupt, "Child", Resuming)
    outcome = judge(driver, "C39.kill")
    assert outcome.status is Status.PASSED, outcome.reason


def test_nothing_is_in_the_way_of_one_thread_that_changes_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = judge(FakeDriver(tmp_path, monkeypatch, ["changes-fail-beside-others"]), "C42.race")
    assert outcome.status is Status.FAILED
    assert "what state said: EIO" in outcome.reason, outcome.reason


def test_beside_resets_a_change_of_state_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch)
    monkeypatch.setattr(
        abrupt, "_race", lambda *_, **__: {"said": {"state": {str(errno.EIO): 4, "0": 1}}}
    )
    outcome = judge(driver, "C42.reset")
    assert outcome.status is Status.PASSED, outcome.reason
