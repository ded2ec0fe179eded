# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking devices from their drivers and giving them back: sysfs, and the checks that do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error
from mlxtrace import binding
from mlxtrace.checks import Context, Outcome, Status, all_checks, removal, run
from mlxtrace.checks.core import DeviationError, NoAnswerError
from mlxtrace.checks.undo import bound_again, undone
from mlxtrace.devices import MLX5_DRIVER

from .fake_driver import SOURCE, TARGET, FakeDriver
from .fake_kernel import BDF
from .fake_sysfs import DRIVERS, NAMES, DriverSysfs

if TYPE_CHECKING:
    from pathlib import Path


CHECKS = {check.id: check for check in all_checks()}


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    return FakeDriver(tmp_path, monkeypatch)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> DriverSysfs:
    """Return the sysfs of the driver's VFs, which have no driver_override."""
    assert driver
    monkeypatch.setattr(removal, "HELD_S", 0.05)
    return DriverSysfs(tmp_path, monkeypatch)


def judge(driver: FakeDriver, name: str) -> Outcome:
    context = Context(
        SOURCE, TARGET, firmware=driver.firmware, may_rebind=True, may_destroy=True, cycles=4
    )
    return run(CHECKS[name], context)


def test_a_device_is_bound_by_its_override_which_is_left_as_it_was(host: DriverSysfs) -> None:
    (host.sysfs / DRIVERS / "mlx5_core").mkdir()
    binding.unbind(BDF)
    assert host.driver(BDF) is None
    binding.bind(BDF, MLX5_DRIVER)
    assert (host.driver(BDF), binding.override(BDF)) == (MLX5_DRIVER, "")
    binding.set_override(BDF, "vfio-pci")
    binding.unbind(BDF)
    binding.bind(BDF, MLX5_DRIVER)
    assert (host.driver(BDF), binding.override(BDF)) == (MLX5_DRIVER, "vfio-pci")


def test_a_driver_that_does_not_take_it_is_an_error_that_names_both(host: DriverSysfs) -> None:
    binding.unbind(BDF)
    with pytest.raises(Error, match=f"{BDF}: the driver qat_vf did not take it") as caught:
        binding.bind(BDF, "qat_vf")
    assert "dmesg" in caught.value.hint
    assert (host.driver(BDF), binding.override(BDF)) == (None, "")
    with pytest.raises(Error, match="cannot write"):
        binding.unbind(BDF)


def test_what_cannot_be_written_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "none/bind"
    with pytest.raises(Error, match=f"cannot write 'x' to {path}: No such file or directory"):
        binding.write(path, "x")


@pytest.mark.parametrize("name", ["C35.held", "C35.unbind", "C35.sriov"])
def test_a_check_gives_back_vfs_whose_override_was_cleared(
    driver: FakeDriver, host: DriverSysfs, name: str
) -> None:
    outcome = judge(driver, name)
    assert outcome.status is Status.PASSED, outcome.reason
    assert [host.driver(each) for each in NAMES] == [MLX5_DRIVER] * 2
    assert [host.override(each) for each in NAMES] == ["(null)"] * 2
    assert (host.pf / "sriov_drivers_autoprobe").read_text() == "1\n"


def test_vfs_that_are_made_again_have_their_overrides(
    driver: FakeDriver, host: DriverSysfs
) -> None:
    host.set_override(BDF, MLX5_DRIVER)
    (host.sysfs / DRIVERS / "mlx5_core").mkdir()
    assert judge(driver, "C35.sriov").status is Status.PASSED
    assert [host.driver(each) for each in NAMES] == [MLX5_DRIVER] * 2
    assert [host.override(each) for each in NAMES] == [MLX5_DRIVER, "(null)"]


@pytest.mark.parametrize("name", ["C35.held", "C35.unbind", "C35.sriov"])
def test_a_device_that_its_driver_does_not_take_again_breaks_the_rule(
    driver: FakeDriver, host: DriverSysfs, name: str
) -> None:
    host.refusing.add(MLX5_DRIVER)
    outcome = judge(driver, name)
    assert outcome.status is Status.FAILED
    assert "did not take it; the rule wants a device that works again" in outcome.reason


@pytest.mark.parametrize("name", ["C35.held", "C35.unbind"])
def test_a_driver_that_does_not_let_go_breaks_the_rule(
    driver: FakeDriver, host: DriverSysfs, name: str
) -> None:
    host.bind(BDF, None)
    outcome = judge(driver, name)
    assert outcome.status is Status.FAILED
    assert "unbind: No such file or directory; the rule wants" in outcome.reason


def test_nothing_is_touched_where_the_kernel_hangs(host: DriverSysfs) -> None:
    def hangs() -> None:
        with bound_again(BDF, MLX5_DRIVER):
            binding.unbind(BDF)
            host.written.clear()
            raise NoAnswerError("no answer")

    with pytest.raises(NoAnswerError):
        hangs()
    assert host.written == []


def test_a_failure_is_told_before_that_of_undoing_it() -> None:
    def fails() -> None:
        raise Error("it is gone")

    with pytest.raises(DeviationError, match="the first"), undone(fails):
        raise DeviationError("the first")
    with pytest.raises(DeviationError, match="it is gone; the rule wants"), undone(fails):
        pass
