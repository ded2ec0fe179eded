# SPDX-License-Identifier: GPL-2.0-or-later
"""A model of VFIO's files in /dev and sysfs, behind fcntl.ioctl and os.read.

The files are real ones in a temporary folder, so that descriptors can be counted; what the
kernel would answer is decided here, by the path that a descriptor was opened from.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtrace import devices, vfio_open
from mlxuapi import vfio as uapi

if TYPE_CHECKING:
    import pytest

BDF = "0000:01:00.1"
OTHER_BDF = "0000:01:00.2"
UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"


class FakeKernel:
    """VFIO with two VFs, in IOMMU groups 7 and 8 unless told otherwise."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.requests: list[tuple[str, int]] = []
        self.errors: dict[int, int] = {}
        """For an ioctl: the errno to answer with."""
        self.viable = True
        self.migration_flags = 7
        self.state = int(uapi.VFIO_DEVICE_STATE_RUNNING)
        self.gives_data_fd = True
        self.reads: deque[bytes | int] = deque()
        """What reads of a data file give: bytes, or an errno."""
        self.precopy_info = (100, 20)
        self._data = root / "data"
        self._data.touch()
        self.sysfs, self.dev = root / "sys", root / "dev"
        (self.dev / "vfio/devices").mkdir(parents=True)
        (self.dev / "vfio/vfio").touch()
        (self.dev / "iommu").touch()
        self.add(BDF, 7, "mlx5_vfio_pci", "vfio0")
        self.add(OTHER_BDF, 8, "mlx5_vfio_pci", "vfio1")
        monkeypatch.setattr(devices, "SYSFS", self.sysfs)
        monkeypatch.setattr(vfio_open, "DEV", self.dev)
        monkeypatch.setattr(fcntl, "ioctl", self.ioctl)
        self._os_read = os.read
        monkeypatch.setattr(os, "read", self.read)

    def add(
        self,
        name: str,
        group: int | None,
        driver: str | None,
        vfio: str | None,
        *,
        cdev: bool = False,
        is_vf: bool = True,
    ) -> None:
        """Add a device to sysfs, and its files to /dev; one without a colon is mediated."""
        path = self._home(name)
        drivers = path.parent.parent / "drivers"
        path.mkdir(parents=True, exist_ok=True)
        if ":" in name:
            (path / "vendor").write_text("0x15b3\n")
        if is_vf:
            (path / "physfn").touch()
        for link in ("driver", "iommu_group"):
            (path / link).unlink(missing_ok=True)
        if driver is not None:
            (drivers / driver).mkdir(parents=True, exist_ok=True)
            (path / "driver").symlink_to(drivers / driver)
        if group is not None:
            home = self.sysfs / "kernel/iommu_groups" / str(group)
            (home / "devices" / name).mkdir(parents=True, exist_ok=True)
            (path / "iommu_group").symlink_to(home)
            if vfio and not cdev:
                (self.dev / "vfio" / str(group)).touch()
        if vfio is not None:
            (path / "vfio-dev" / vfio).mkdir(parents=True, exist_ok=True)
            if cdev:
                (self.dev / "vfio/devices" / vfio).touch()

    def _home(self, name: str) -> Path:
        return self.sysfs / "bus" / ("pci" if ":" in name else "mdev") / "devices" / name

    def ioctl(self, fd: int, request: int, argument: Any = 0, mutate: bool = True) -> int:
        """Stand in for fcntl.ioctl."""
        assert mutate
        path = Path(f"/proc/self/fd/{fd}").readlink()
        where = str(path.relative_to(self.root))
        self.requests.append((where, request))
        if number := self.errors.get(request):
            raise OSError(number, os.strerror(number))
        if request == uapi.VFIO_GET_API_VERSION:
            return int(uapi.VFIO_API_VERSION)
        if request == uapi.VFIO_CHECK_EXTENSION:
            return int(argument == uapi.VFIO_TYPE1v2_IOMMU)
        if request == uapi.VFIO_GROUP_GET_STATUS:
            assert argument.argsz == ctypes.sizeof(argument)
            argument.flags = uapi.VFIO_GROUP_FLAGS_VIABLE if self.viable else 0
        elif request == uapi.VFIO_GROUP_GET_DEVICE_FD:
            name = bytes(argument).rstrip(b"\0").decode()
            assert bytes(argument).endswith(b"\0")
            return os.open(self._home(name), os.O_RDONLY)
        elif request == uapi.VFIO_DEVICE_BIND_IOMMUFD:
            assert Path(f"/proc/self/fd/{argument.iommufd}").readlink() == self.dev / "iommu"
        elif request == uapi.VFIO_DEVICE_FEATURE:
            self._feature(argument)
        elif request == uapi.VFIO_MIG_GET_PRECOPY_INFO:
            assert argument.argsz == ctypes.sizeof(argument)
            argument.initial_bytes, argument.dirty_bytes = self.precopy_info
        elif request == uapi.VFIO_DEVICE_RESET:
            self.state = int(uapi.VFIO_DEVICE_STATE_RUNNING)
        return 0

    def _feature(self, request: Any) -> None:
        """Answer VFIO_DEVICE_FEATURE."""
        index = request.flags & uapi.VFIO_DEVICE_FEATURE_MASK
        known = {
            uapi.VFIO_DEVICE_FEATURE_MIGRATION: (uapi.vfio_device_feature_migration, "G"),
            uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: (uapi.vfio_device_feature_mig_state, "GS"),
            uapi.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: (uapi.vfio_device_feature_mig_data_size, "G"),
        }
        if index not in known or (index == 1 and not self.migration_flags):
            raise OSError(errno.ENOTTY, "")
        kind, operations = known[index]
        get = bool(request.flags & uapi.VFIO_DEVICE_FEATURE_GET)
        setting = bool(request.flags & uapi.VFIO_DEVICE_FEATURE_SET)
        if (get and "G" not in operations) or (setting and "S" not in operations):
            raise OSError(errno.EINVAL, "")
        if request.flags & uapi.VFIO_DEVICE_FEATURE_PROBE:
            return
        header = ctypes.sizeof(uapi.vfio_device_feature)
        if request.argsz < header + ctypes.sizeof(kind):
            raise OSError(errno.EINVAL, "")
        payload = kind.from_buffer(request, header)
        if index == uapi.VFIO_DEVICE_FEATURE_MIGRATION:
            payload.flags = self.migration_flags
        elif index == uapi.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
            payload.stop_copy_length = 1 << 33
        elif setting:
            self._set_state(payload)
        else:
            payload.device_state, payload.data_fd = self.state, -1

    def _set_state(self, payload: Any) -> None:
        if not 0 < payload.device_state < uapi.VFIO_DEVICE_STATE_NR:
            raise OSError(errno.EINVAL, "")
        self.state = payload.device_state
        makes = (
            uapi.VFIO_DEVICE_STATE_PRE_COPY,
            uapi.VFIO_DEVICE_STATE_STOP_COPY,
            uapi.VFIO_DEVICE_STATE_RESUMING,
        )
        payload.data_fd = -1
        if self.state in makes and self.gives_data_fd:
            payload.data_fd = os.open(self._data, os.O_RDWR)

    def read(self, fd: int, size: int) -> bytes:
        """Stand in for os.read on a data file."""
        if Path(f"/proc/self/fd/{fd}").readlink() != self._data:
            return self._os_read(fd, size)
        answer = self.reads.popleft()
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        if rest := answer[size:]:
            self.reads.appendleft(rest)
        return answer[:size]


def open_descriptors() -> set[str]:
    """Return what this process has open, as ``number -> target``."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} -> {entry.readlink()}")
        except OSError:
            continue
    return found
