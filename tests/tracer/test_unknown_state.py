# SPDX-License-Identifier: GPL-2.0-or-later
"""A driver says that its device is in a state that there is not: that is the driver's mistake."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from mlxtrace import migrate
from mlxtrace.checks import Context, Status, all_checks, run
from mlxtrace.vfio import Device, State, UnknownStateError, VfioError

from .fake_device import FakeDevice
from .fake_driver import SOURCE, TARGET, DriverDevice, FakeDriver
from .fake_faults import Faults
from .fake_kernel import BDF, FakeKernel
from .migrate_pair import QUICK, pair

if TYPE_CHECKING:
    from pathlib import Path

CHECKS = {check.id: check for check in all_checks()}
SAID = "reading its migration state: 99, which is no state of the uAPI"


def test_it_is_an_error_of_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeKernel(tmp_path, monkeypatch)
    kernel.state = 99
    with Device.open(BDF) as device, pytest.raises(VfioError) as caught:
        device.state()
    assert isinstance(caught.value, UnknownStateError)
    assert str(caught.value) == f"{BDF}: {SAID}"
    assert (caught.value.number, caught.value.errno) == (99, errno.EPROTO)
    assert (caught.value.device, caught.value.hint.count("driver")) == (BDF, 1)


@pytest.mark.parametrize("name", ["C1", "C7"])
def test_the_rule_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It was "a mistake in the check itself"."""
    driver = FakeDriver(tmp_path, monkeypatch)
    monkeypatch.setattr(DriverDevice, "state", lambda _: 99)
    outcome = run(CHECKS[name], Context(SOURCE, TARGET, firmware=driver.firmware))
    assert outcome.status is Status.FAILED
    assert SAID in outcome.reason


def test_one_that_shows_up_later_is_not_kept_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch)
    monkeypatch.setattr(
        DriverDevice, "state", lambda self: 99 if self.current is State.STOP else self.current
    )
    outcome = run(CHECKS["C7"], Context(SOURCE, TARGET, firmware=driver.firmware))
    assert outcome.status is Status.FAILED
    assert SAID in outcome.reason


@pytest.mark.usefixtures("no_lab")
def test_a_migration_that_fails_resets_such_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = pair(Faults(read_error_at=3000))
    real = FakeDevice.state

    def state(self: FakeDevice) -> State:
        if self.current is State.PRE_COPY:
            raise UnknownStateError(self.name, 99)
        return real(self)

    monkeypatch.setattr(FakeDevice, "state", state)
    result = migrate.migrate_to_device(source, target, QUICK)
    assert "ENODEV" in str(result.error)
    assert result.source_state == (
        f"reset (RUNNING); it would not run again: {source.name}: {SAID}"
    )
    assert (source.current, target.current) == (State.RUNNING, State.RUNNING)
