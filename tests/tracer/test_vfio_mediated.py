# SPDX-License-Identifier: GPL-2.0-or-later
"""Mediated devices against a model of the kernel: opened like VFs, explained as what they are."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error
from mlxtrace import devices, vfio_open
from mlxtrace.checks import Context, Level, Status, core
from mlxtrace.migrate_recover import retire_source
from mlxtrace.vfio import Device, State
from mlxuapi import vfio as uapi

from .fake_device import FakeDevice
from .fake_kernel import BDF, UUID, FakeKernel, open_descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


OTHER_UUID = UUID.replace("1001", "1002")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    """VFIO with two VFs, and a mediated device of mtty in group 9."""
    before = open_descriptors()
    fake = FakeKernel(tmp_path, monkeypatch)
    fake.add(UUID, 9, "mtty", "vfio2", is_vf=False)
    yield fake
    monkeypatch.undo()
    assert open_descriptors() == before, "a file was left open"
    assert not vfio_open._groups


def refused() -> Error:
    """Return the error that opening the mediated device gives."""
    with pytest.raises(Error) as caught:
        Device.open(UUID)
    assert str(caught.value).startswith(UUID)
    assert "VF" not in caught.value.hint
    return caught.value


def test_it_is_opened_by_its_group(kernel: FakeKernel) -> None:
    with Device.open(UUID.upper()) as device:
        assert (device.name, device.driver, device.ids) == (UUID, "mtty", {})
        assert device.info.is_mediated
        assert kernel.requests[-1] == ("dev/vfio/9", uapi.VFIO_GROUP_GET_DEVICE_FD)
        assert device.state() is State.RUNNING


def test_it_is_opened_by_its_character_device_where_there_are_no_groups(
    kernel: FakeKernel,
) -> None:
    (kernel.dev / "vfio/9").unlink()
    (kernel.dev / "vfio/devices/vfio2").touch()
    with Device.open(UUID):
        assert kernel.requests == [("dev/vfio/devices/vfio2", uapi.VFIO_DEVICE_BIND_IOMMUFD)]


def test_before_linux_6_1_only_the_bus_tells_that_its_driver_is_one_of_vfio(
    kernel: FakeKernel,
) -> None:
    (kernel.sysfs / "bus/mdev/devices" / UUID / "vfio-dev/vfio2").rmdir()
    with Device.open(UUID) as device:
        assert device.info.vfio_device is None


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"bus/mdev/devices/{UUID}", UUID),
        (f"bus/mdev/devices/{UUID}/", UUID),
        ("class/vfio-dev/vfio2/device", UUID),
        (f"bus/pci/devices/{BDF}", BDF),
    ],
)
def test_a_path_in_sysfs_is_a_name(kernel: FakeKernel, path: str, name: str) -> None:
    entry = kernel.sysfs / "class/vfio-dev/vfio2"
    entry.mkdir(parents=True)
    (entry / "device").symlink_to(kernel.sysfs / "bus/mdev/devices" / UUID)
    assert devices.parse_name(f"{kernel.sysfs}/{path}") == name


def test_a_path_elsewhere_is_none(kernel: FakeKernel) -> None:
    for text in (f"/tmp/{BDF}", f"{kernel.sysfs}/bus/pci", f"{kernel.sysfs}"):
        with pytest.raises(Error, match="is not a device address"):
            devices.parse_name(text)


def test_one_that_is_not_there(kernel: FakeKernel) -> None:
    (kernel.sysfs / "bus/mdev/devices" / UUID / "vfio-dev/vfio2").rmdir()
    with pytest.raises(Error, match="there is no such device") as caught:
        Device.open(UUID.replace("8", "9"))
    assert "mdev_supported_types/TYPE/create" in caught.value.hint


def test_one_without_driver_is_given_back_to_it(kernel: FakeKernel) -> None:
    kernel.add(UUID, None, None, None, is_vf=False)
    (kernel.sysfs / "bus/mdev/devices" / UUID / "vfio-dev/vfio2").rmdir()
    error = refused()
    assert str(error) == f"{UUID}: no driver is bound to it"
    assert error.hint == f"echo {UUID} > {kernel.sysfs}/bus/mdev/drivers_probe"


def test_its_group_is_not_the_iommus(kernel: FakeKernel) -> None:
    kernel.add(UUID, None, "mtty", "vfio2", is_vf=False)
    assert "drivers_probe" in refused().hint


@pytest.mark.parametrize("number", [errno.ENODEV, errno.EINVAL, errno.EBUSY])
def test_a_driver_that_refuses_is_named_and_no_pf_is(kernel: FakeKernel, number: int) -> None:
    kernel.errors[uapi.VFIO_GROUP_GET_DEVICE_FD] = number
    error = refused()
    assert "PF" not in error.hint
    assert ("mtty" in error.hint) is (number == errno.ENODEV)


def test_without_migration_there_is_nothing_to_bind(kernel: FakeKernel) -> None:
    kernel.migration_flags = 0
    with Device.open(UUID) as device, pytest.raises(Error, match=r"\(mtty\) offers no") as caught:
        device.require_migration()
    assert "up to its driver" in caught.value.hint


def test_what_its_last_user_left_is_reset(kernel: FakeKernel) -> None:
    kernel.state = int(uapi.VFIO_DEVICE_STATE_RESUMING)
    with Device.open(UUID) as device:
        assert device.make_running() is State.RESUMING
        assert device.state() is State.RUNNING
        requests = len(kernel.requests)
        assert device.make_running() is State.RUNNING
        assert len(kernel.requests) == requests + 1, "one that is RUNNING is not reset"


def test_a_check_finds_it_running_and_leaves_it_so(kernel: FakeKernel) -> None:
    kernel.add(OTHER_UUID, 10, "mtty", "vfio3", is_vf=False)
    kernel.state = int(uapi.VFIO_DEVICE_STATE_STOP)

    def function(context: Context) -> None:
        context.source.device.set_state(State.STOP_COPY)

    one = core.Check("C99", Level.MUST, "A rule.", function)
    outcome = core.run(one, Context(UUID, OTHER_UUID))
    assert outcome.status is Status.PASSED
    assert str(outcome.steps[0]) == f"opened and reset {UUID}, which was in: STOP"
    assert kernel.state == uapi.VFIO_DEVICE_STATE_RUNNING


@pytest.mark.usefixtures("kernel")
def test_rules_for_mlx5_are_not_offered_by_another_driver() -> None:
    def never(_: Context) -> None:
        raise AssertionError

    outcome = core.run(core.Check("C99", Level.DRIVER, "A rule.", never), Context(UUID, BDF))
    assert outcome.status is Status.NOT_OFFERED
    assert "mlx5-vfio-pci" in outcome.reason


@pytest.mark.parametrize(("name", "rest"), [(BDF, "closing it resets it"), (UUID, "reset it")])
def test_a_source_whose_state_has_moved_is_told_how_to_be_used_again(name: str, rest: str) -> None:
    assert rest in retire_source(FakeDevice(name))
