# SPDX-License-Identifier: GPL-2.0-or-later
"""The VFIO API against a model of the kernel: calls, answers, errors, and no descriptor left."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error
from mlxtrace import devices, vfio_open
from mlxtrace.vfio import (
    Device,
    End,
    MigrationFlags,
    PrecopyInfo,
    ResumingStream,
    SavingStream,
    State,
    VfioError,
)
from mlxuapi import vfio as uapi

from .fake_kernel import BDF, OTHER_BDF, FakeKernel, open_descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    before = open_descriptors()
    yield FakeKernel(tmp_path, monkeypatch)
    monkeypatch.undo()
    assert open_descriptors() == before, "a file was left open"
    assert not vfio_open._groups


def refused(name: str = BDF) -> Error:
    """Return the error that opening ``name`` gives."""
    with pytest.raises(Error) as caught:
        Device.open(name)
    assert str(caught.value).startswith(name) or "/vfio" in str(caught.value)
    assert "\n" not in str(caught.value) + caught.value.hint
    return caught.value


def test_opening_by_group_makes_the_calls_in_order(kernel: FakeKernel) -> None:
    with Device.open(BDF) as device:
        assert device.driver == "mlx5_vfio_pci"
        assert device.ids == {"vendor": "0x15b3"}
        assert [request for _, request in kernel.requests] == [
            uapi.VFIO_GET_API_VERSION,
            uapi.VFIO_CHECK_EXTENSION,
            uapi.VFIO_GROUP_GET_STATUS,
            uapi.VFIO_GROUP_SET_CONTAINER,
            uapi.VFIO_SET_IOMMU,
            uapi.VFIO_GROUP_GET_DEVICE_FD,
        ]
        assert [path for path, _ in kernel.requests] == [
            "dev/vfio/vfio",
            "dev/vfio/vfio",
            "dev/vfio/7",
            "dev/vfio/7",
            "dev/vfio/vfio",
            "dev/vfio/7",
        ]
    device.close()


def test_two_devices_of_one_group_share_it(kernel: FakeKernel) -> None:
    kernel.add(OTHER_BDF, 7, "mlx5_vfio_pci", "vfio1")
    with Device.open(BDF) as one:
        with Device.open(OTHER_BDF):
            opened = [request for _, request in kernel.requests]
            assert opened.count(uapi.VFIO_GROUP_SET_CONTAINER) == 1
            assert opened.count(uapi.VFIO_GROUP_GET_DEVICE_FD) == 2
        assert one.state() is State.RUNNING


def test_opening_by_character_device(kernel: FakeKernel) -> None:
    kernel.add("0000:02:00.1", 9, "mlx5_vfio_pci", "vfio5", cdev=True)
    with Device.open("0000:02:00.1") as device:
        assert kernel.requests == [("dev/vfio/devices/vfio5", uapi.VFIO_DEVICE_BIND_IOMMUFD)]
        assert device.migration_flags() == MigrationFlags(7)


def test_a_device_that_is_not_there(kernel: FakeKernel) -> None:
    driver = kernel.sysfs / "bus/pci/drivers/mlx5_vfio_pci"
    (driver / BDF).symlink_to(kernel.sysfs / "bus/pci/devices" / BDF)
    error = refused("0000:ff:1f.7")
    assert str(error) == "0000:ff:1f.7: there is no such device"
    assert error.hint == f"bound to mlx5_vfio_pci: {BDF}"


def test_a_device_without_driver_gets_the_commands_that_bind_it(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "module_available", lambda _: True)
    kernel.add("0000:03:00.1", 9, None, None)
    error = refused("0000:03:00.1")
    assert str(error) == "0000:03:00.1: no driver is bound to it"
    assert f"echo mlx5_vfio_pci > {kernel.sysfs}/bus/pci/devices/0000:03:00.1/driver" in error.hint
    assert f"echo 0000:03:00.1 > {kernel.sysfs}/bus/pci/drivers_probe" in error.hint
    assert "unbind" not in error.hint


def test_a_device_of_another_driver_is_unbound_first(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "module_available", lambda _: True)
    kernel.add("0000:03:00.1", 9, "mlx5_core", None)
    error = refused("0000:03:00.1")
    assert str(error) == "0000:03:00.1: it is bound to mlx5_core, not to a VFIO driver"
    assert "driver/unbind" in error.hint


def test_a_pf_is_not_to_be_taken_from_its_driver(kernel: FakeKernel) -> None:
    kernel.add("0000:03:00.0", 9, "mlx5_core", None, is_vf=False)
    pf = kernel.sysfs / "bus/pci/devices/0000:03:00.0"
    (pf / "virtfn0").symlink_to("../0000:03:00.1")
    hint = refused("0000:03:00.0").hint
    assert hint == "it is not a virtual function, and only those migrate; its VFs: 0000:03:00.1"


def test_a_kernel_without_the_module_is_told(
    kernel: FakeKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "MODULES", tmp_path)
    kernel.add("0000:03:00.1", 9, None, None)
    assert "has no mlx5-vfio-pci module" in refused("0000:03:00.1").hint


@pytest.mark.parametrize("spelling", ["mlx5-vfio-pci.ko.xz", "mlx5_vfio_pci.ko"])
def test_modules_are_found_as_modprobe_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    home = tmp_path / os.uname().release
    home.mkdir()
    (home / "modules.dep").write_text(f"kernel/drivers/vfio/{spelling}: kernel/vfio.ko\n")
    monkeypatch.setattr(devices, "MODULES", tmp_path)
    monkeypatch.setattr(devices, "SYSFS", tmp_path)
    assert devices.module_available("mlx5_vfio_pci")
    assert not devices.module_available("vfio_pci")


def test_no_iommu_group(kernel: FakeKernel) -> None:
    kernel.add("0000:03:00.1", None, "mlx5_vfio_pci", "vfio9")
    error = refused("0000:03:00.1")
    assert "it is in no IOMMU group" in str(error)
    assert "intel_iommu=on" in error.hint


def test_no_group_file_and_no_character_device(kernel: FakeKernel) -> None:
    (kernel.dev / "vfio/7").unlink()
    assert "modprobe" in refused().hint


def test_no_container_file(kernel: FakeKernel) -> None:
    (kernel.dev / "vfio/vfio").unlink()
    error = refused()
    assert "VFIO is not there" in str(error)
    assert "ENOENT" in str(error)
    assert error.hint == "modprobe -a vfio vfio_iommu_type1"


def test_a_group_that_is_not_viable_names_who_is_in_the_way(kernel: FakeKernel) -> None:
    kernel.viable = False
    member = kernel.sysfs / "kernel/iommu_groups/7/devices/0000:01:00.0"
    member.mkdir()
    (member / "driver").symlink_to("/sys/bus/pci/drivers/mlx5_core")
    assert str(refused()) == (
        f"{BDF}: IOMMU group 7 is not viable: it also has 0000:01:00.0 (mlx5_core)"
    )


@pytest.mark.parametrize(
    ("number", "message", "hint"),
    [
        (errno.EBUSY, "another process has it", "held by "),
        (errno.EACCES, "EACCES: permission denied", "run it as root"),
        (errno.EMFILE, "EMFILE (Too many open files)", ""),
    ],
)
def test_a_group_file_that_does_not_open(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, number: int, message: str, hint: str
) -> None:
    real = os.open
    group = kernel.dev / "vfio/7"
    held = real(group, os.O_RDWR)  # this very process is the holder that is named

    def fake(path: object, flags: int, *rest: int) -> int:
        if path == group:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", fake)
    error = refused()
    os.close(held)
    assert message in str(error)
    assert error.hint.startswith(hint)


@pytest.mark.parametrize(
    ("request_number", "number", "text"),
    [
        (uapi.VFIO_SET_IOMMU, errno.EPERM, "allow_unsafe_interrupts"),
        (uapi.VFIO_GROUP_SET_CONTAINER, errno.EINVAL, "attaching IOMMU group 7"),
        (uapi.VFIO_GROUP_GET_DEVICE_FD, errno.EINVAL, "VF token"),
        (uapi.VFIO_GROUP_GET_DEVICE_FD, errno.ENODEV, "ENODEV"),
    ],
)
def test_a_call_on_the_way_that_fails(
    kernel: FakeKernel, request_number: int, number: int, text: str
) -> None:
    kernel.errors[request_number] = number
    error = refused()
    assert isinstance(error, VfioError)
    assert error.errno == number
    assert text in str(error) + error.hint


def test_a_character_device_that_is_busy(kernel: FakeKernel) -> None:
    kernel.add("0000:02:00.1", 9, "mlx5_vfio_pci", "vfio5", cdev=True)
    kernel.errors[uapi.VFIO_DEVICE_BIND_IOMMUFD] = errno.EBUSY
    assert "EBUSY" in str(refused("0000:02:00.1"))


@pytest.mark.usefixtures("kernel")
def test_features() -> None:
    with Device.open(BDF) as device:
        assert device.migration_flags() == (
            MigrationFlags.STOP_COPY | MigrationFlags.P2P | MigrationFlags.PRE_COPY
        )
        assert device.offers(uapi.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE)
        assert not device.offers(
            uapi.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, uapi.VFIO_DEVICE_FEATURE_SET
        )
        assert not device.offers(uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_START)
        assert device.stop_copy_bytes() == 1 << 33
        with pytest.raises(VfioError) as caught:
            device.get_feature(
                uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
                uapi.vfio_device_feature_dma_logging_report,
            )
        assert caught.value.errno == errno.ENOTTY


def test_a_device_without_migration_says_so(kernel: FakeKernel) -> None:
    kernel.migration_flags = 0
    with Device.open(BDF) as device:
        assert device.migration_flags() == MigrationFlags(0)
        with pytest.raises(Error, match=r"its driver \(mlx5_vfio_pci\) offers no migration"):
            device.require_migration()


@pytest.mark.usefixtures("kernel")
def test_states_and_data_files() -> None:
    with Device.open(BDF) as device:
        stream = device.save(State.PRE_COPY)
        assert device.state() is State.PRE_COPY
        assert not os.get_blocking(stream.fileno())
        assert stream.precopy_info() == PrecopyInfo(100, 20)
        assert stream.precopy_info().pending_bytes == 120
        device.set_state(State.RUNNING)
        with device.resume() as resuming:
            resuming.write_all(b"abc")
        device.set_state(State.STOP_COPY)  # the data file is not wanted: it must not leak
        assert device.change_state(State.RUNNING) == -1
        device.reset()
        assert device.state() is State.RUNNING


@pytest.mark.usefixtures("kernel")
def test_a_state_that_does_not_exist() -> None:
    with Device.open(BDF) as device:
        with pytest.raises(VfioError) as caught:
            device.change_state(99)
        assert str(caught.value) == f"{BDF}: setting state 99: EINVAL (Invalid argument)"
        with pytest.raises(VfioError, match="setting state ERROR: EINVAL"):
            device.set_state(State.ERROR)


def test_a_saving_state_without_data_file(kernel: FakeKernel) -> None:
    kernel.gives_data_fd = False
    with Device.open(BDF) as device, pytest.raises(VfioError, match="the data file of state PRE_"):
        device.save(State.PRE_COPY)


def test_the_ends_of_a_stream_are_answers(kernel: FakeKernel) -> None:
    with Device.open(BDF) as device:
        stream = device.save(State.PRE_COPY)
        kernel.reads.extend([b"abcdef", errno.ENOMSG, errno.EAGAIN, b"", errno.ENODEV])
        answers = [stream.read(4) for _ in range(5)]
        assert answers == [b"abcd", b"ef", End.TEMPORARY, End.NOT_YET, End.FINAL]
        with pytest.raises(VfioError) as caught:
            stream.read(4)
        assert caught.value.errno == errno.ENODEV
        assert "dmesg" in caught.value.hint


def test_an_ioctl_that_a_signal_interrupts_is_issued_again(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted = iter([True, True, False])
    real = kernel.ioctl

    def fake(fd: int, request: int, argument: object = 0, mutate: bool = True) -> int:
        if request == uapi.VFIO_MIG_GET_PRECOPY_INFO:
            raise InterruptedError(errno.EINTR, "")
        if request == uapi.VFIO_DEVICE_RESET and next(interrupted):
            raise InterruptedError(errno.EINTR, "")
        return real(fd, request, argument, mutate)

    with Device.open(BDF) as device:
        stream = device.save(State.PRE_COPY)
        monkeypatch.setattr("fcntl.ioctl", fake)
        device.reset()
        # All but the question, which may wait as long as a SAVE takes.
        with pytest.raises(VfioError, match="EINTR"):
            stream.precopy_info()


def test_streams_wait_and_write_on_a_real_file() -> None:
    ours, theirs = socket.socketpair()
    with ours, SavingStream(BDF, theirs.detach()) as stream:
        assert stream.read(10) is End.NOT_YET
        assert not stream.wait(0.01)
        ours.send(b"12345")
        assert stream.wait(5)
        assert stream.read(3) == b"123"
    assert stream.fileno() == -1
    stream.close()


def test_a_write_that_fails_names_the_device() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with (
        ResumingStream(BDF, theirs.detach()) as stream,
        pytest.raises(VfioError, match=f"{BDF}: writing migration data: EPIPE"),
    ):
        stream.write(b"x")


def test_states_are_those_of_the_header() -> None:
    assert len(State) == uapi.VFIO_DEVICE_STATE_NR
    for state in State:
        assert getattr(uapi, f"VFIO_DEVICE_STATE_{state.name}") == state
    assert ctypes.sizeof(uapi.vfio_precopy_info) == 24


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("01:00.1", "0000:01:00.1"),
        ("0000:AF:1f.7", "0000:af:1f.7"),
        ("10001:01:00.0", "10001:01:00.0"),
        ("83B8F4F2-509F-382F-3C1E-E6BFE0FA1001", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"),
    ],
)
def test_names(text: str, name: str) -> None:
    assert devices.parse_name(text) == name


@pytest.mark.parametrize(
    "text", ["", "0000:01:00", "0000:01:20.0", "0000:01:00.8", "eth0", "1:0.0", "../../etc"]
)
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(Error) as caught:
        devices.parse_name(text)
    assert caught.value.status == 2
