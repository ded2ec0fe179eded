# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening a VFIO device: through its IOMMU group, or through its own character device.

Group (``/dev/vfio/GROUP`` and a container): every kernel with CONFIG_VFIO_GROUP. Character device
(``/dev/vfio/devices/vfioN`` bound to an iommufd): Linux 6.6 with CONFIG_VFIO_DEVICE_CDEV. No DMA
is mapped: migration data is moved by the PF's driver, so a device needs no address space here.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genbindings.errors import Error
from mlxtrace import devices
from mlxtrace.vfio_errors import VfioError, errno_name
from mlxtrace.vfio_ioctl import ioctl
from mlxuapi import vfio as uapi

DEV = Path("/dev")

Via = Literal["auto", "group", "cdev"]


@dataclass
class Handle:
    """An open device.

    Attributes:
        fd: the device's file descriptor.
        via: how it was opened.
        cleanup: closes ``fd`` and all that keeps it alive, in the right order.
    """

    fd: int
    via: Literal["group", "cdev"]
    cleanup: contextlib.ExitStack

    def close(self) -> None:
        """Close the device, then its group and container, or its iommufd. May be repeated."""
        self.cleanup.close()


def open_device(device: devices.DeviceInfo, via: Via = "auto") -> Handle:
    """Open ``device``, by its group where the host has one, else by its character device.

    Two devices of one IOMMU group can be open at once in one process.

    Raises:
        Error: no VFIO driver has it, VFIO is not there, the group is not viable, another process
            has it, or the privilege is missing; the message and its hint say which.
    """
    devices.require_vfio_driver(device)
    chosen = _choose(device) if via == "auto" else via
    with contextlib.ExitStack() as stack:
        fd = _by_group(device, stack) if chosen == "group" else _by_cdev(device, stack)
        return Handle(fd, chosen, stack.pop_all())


def _choose(device: devices.DeviceInfo) -> Literal["group", "cdev"]:
    """Return how this host lets ``device`` be opened."""
    if device.iommu_group is None:
        if device.is_mediated:
            # Its group is made when a driver takes it (VFIO_EMULATED_IOMMU), real IOMMU or none.
            raise Error(f"{device.name}: it is in no group", devices.bind_hint(device))
        raise Error(
            f"{device.name}: it is in no IOMMU group",
            "boot with intel_iommu=on or amd_iommu=on, with the IOMMU enabled in the firmware",
        )
    if (DEV / "vfio" / str(device.iommu_group)).exists():
        return "group"
    if device.vfio_device and (DEV / "vfio/devices" / device.vfio_device).exists():
        return "cdev"
    raise Error(
        f"{device.name}: neither {DEV}/vfio/{device.iommu_group} nor a device in "
        f"{DEV}/vfio/devices exists",
        "modprobe -a vfio vfio_iommu_type1, and see that it is bound to a VFIO driver",
    )


@dataclass
class _Group:
    """An IOMMU group in use by this process: the kernel lets it be opened once."""

    fd: int
    users: int
    cleanup: contextlib.ExitStack


_groups: dict[int, _Group] = {}


def _by_group(device: devices.DeviceInfo, stack: contextlib.ExitStack) -> int:
    """Open ``device`` through its group; what must be closed after it goes on ``stack``."""
    assert device.iommu_group is not None
    group = _acquire_group(device.name, device.iommu_group)
    stack.callback(_release_group, device.iommu_group)
    name = bytearray(device.name.encode("ascii") + b"\0")
    asked = f"opening it through {DEV}/vfio/{device.iommu_group}"
    try:
        fd = ioctl(group.fd, uapi.VFIO_GROUP_GET_DEVICE_FD, name)
    except OSError as error:
        raise _device_error(device, asked, error) from None
    stack.callback(os.close, fd)
    return fd


def _acquire_group(name: str, number: int) -> _Group:
    """Return group ``number`` with a container, opened now or earlier by this process."""
    if (group := _groups.get(number)) is not None:
        group.users += 1
        return group
    with contextlib.ExitStack() as stack:
        container = _open(name, DEV / "vfio/vfio", stack)
        version = ioctl(container, uapi.VFIO_GET_API_VERSION)
        if version != uapi.VFIO_API_VERSION:
            raise Error(f"{DEV}/vfio/vfio: API version {version}, not {uapi.VFIO_API_VERSION}")
        if not ioctl(container, uapi.VFIO_CHECK_EXTENSION, int(uapi.VFIO_TYPE1v2_IOMMU)):
            raise Error(
                f"{DEV}/vfio/vfio: the kernel has no type 1 IOMMU driver",
                "modprobe vfio_iommu_type1",
            )
        fd = _open(name, DEV / "vfio" / str(number), stack)
        _require_viable(name, number, fd)
        _attach(name, number, fd, container)
        group = _groups[number] = _Group(fd, 1, stack.pop_all())
    return group


def _release_group(number: int) -> None:
    """Give up one use of group ``number``; the last one closes it and its container."""
    group = _groups[number]
    group.users -= 1
    if group.users == 0:
        del _groups[number]
        group.cleanup.close()


def _require_viable(name: str, number: int, fd: int) -> None:
    """Check that no other driver holds a member of the group."""
    status = uapi.vfio_group_status()
    ioctl(fd, uapi.VFIO_GROUP_GET_STATUS, status)
    if status.flags & uapi.VFIO_GROUP_FLAGS_VIABLE:
        return
    others = ", ".join(devices.unviable_members(number)) or "a member that is not visible"
    raise Error(
        f"{name}: IOMMU group {number} is not viable: it also has {others}",
        "unbind that device or bind it to a VFIO driver; a slot with ACS gives each VF a group "
        "of its own",
    )


def _attach(name: str, number: int, fd: int, container: int) -> None:
    """Put the group in the container, with the type 1 (v2) IOMMU driver."""
    pointer = _int_in_memory(container)
    try:
        ioctl(fd, uapi.VFIO_GROUP_SET_CONTAINER, pointer)
        ioctl(container, uapi.VFIO_SET_IOMMU, int(uapi.VFIO_TYPE1v2_IOMMU))
    except OSError as error:
        hint = ""
        if error.errno == errno.EPERM:
            hint = (
                "the platform has no interrupt remapping: enable it, or accept the risk with "
                "vfio_iommu_type1.allow_unsafe_interrupts=1"
            )
        number_of_error = error.errno or errno.EIO
        asked = f"attaching IOMMU group {number} to a container"
        raise VfioError(name, asked, number_of_error, hint) from None


def _int_in_memory(value: int) -> bytearray:
    """Return a C ``int`` in memory, for the calls that take a pointer to one."""
    return bytearray(ctypes.c_int(value))


def _by_cdev(device: devices.DeviceInfo, stack: contextlib.ExitStack) -> int:
    """Open ``device`` by its character device; what must be closed goes on ``stack``."""
    if device.vfio_device is None:
        raise Error(f"{device.name}: it has no character device in {DEV}/vfio/devices")
    iommufd = _open(device.name, DEV / "iommu", stack)
    path = DEV / "vfio/devices" / device.vfio_device
    fd = _open(device.name, path, stack)
    bind = uapi.vfio_device_bind_iommufd()
    bind.iommufd = iommufd
    try:
        ioctl(fd, uapi.VFIO_DEVICE_BIND_IOMMUFD, bind)
    except OSError as error:
        raise _device_error(device, f"binding {path} to an iommufd", error) from None
    return fd


def _device_error(device: devices.DeviceInfo, asked: str, error: OSError) -> Error:
    """Explain why a device that exists and is bound would not open."""
    number = error.errno or errno.EIO
    hints = {errno.EBUSY: "another process has it open"}
    if device.is_mediated:
        hints[errno.ENODEV] = f"its driver ({device.driver}) refused it: dmesg may say more"
    else:
        hints[errno.ENODEV] = (
            "the driver refused it: is the VF bound, and its PF up? dmesg says more"
        )
        hints[errno.EINVAL] = "the PF may be bound to vfio-pci: a VF of it needs the VF token"
    return VfioError(device.name, asked, number, hints.get(number, ""))


def _open(name: str, path: Path, stack: contextlib.ExitStack) -> int:
    """Open ``path`` for ``name`` and leave closing it to ``stack``."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        number = error.errno or errno.EIO
        reason = f"{name}: cannot open {path}: {errno_name(number)}"
        if number == errno.EBUSY:
            held = ", ".join(devices.holders(path))
            raise Error(
                f"{reason}: another process has it",
                f"held by {held}" if held else "stop the VM or the tool that uses the device",
            ) from None
        if number in (errno.EACCES, errno.EPERM):
            raise Error(
                f"{reason}: permission denied", f"run it as root, or as a user who may open {path}"
            ) from None
        if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            module = "iommufd" if path.name == "iommu" else "vfio vfio_iommu_type1"
            raise Error(f"{reason}: VFIO is not there", f"modprobe -a {module}") from None
        raise Error(f"{reason} ({os.strerror(number)})") from None
    stack.callback(os.close, fd)
    return fd
