# SPDX-License-Identifier: GPL-2.0-or-later
"""VFIO_DEVICE_FEATURE as VFIO's core and a driver with all of migration's features answer it."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from typing import TYPE_CHECKING, Any

from mlxtrace.vfio import State, VfioError
from mlxuapi import vfio as uapi

from .fake_device import SC, P, Pp

if TYPE_CHECKING:
    from .fake_driver import DriverDevice, FakeDriver

GET, SET = uapi.VFIO_DEVICE_FEATURE_GET, uapi.VFIO_DEVICE_FEATURE_SET
PROBE = uapi.VFIO_DEVICE_FEATURE_PROBE
HEAD = ctypes.sizeof(uapi.vfio_device_feature)
PRECOPY_INFO_V2 = 12
LAST = 1 << 64
MOST_RANGES = 256

# What each feature can be asked for, and the structure of its data.
FEATURES: dict[int, tuple[int, type[ctypes.Structure] | None]] = {
    uapi.VFIO_DEVICE_FEATURE_MIGRATION: (GET, uapi.vfio_device_feature_migration),
    uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: (GET | SET, uapi.vfio_device_feature_mig_state),
    uapi.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: (GET, uapi.vfio_device_feature_mig_data_size),
    PRECOPY_INFO_V2: (SET, None),
    uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_START: (
        SET,
        uapi.vfio_device_feature_dma_logging_control,
    ),
    uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: (SET, None),
    uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: (GET, uapi.vfio_device_feature_dma_logging_report),
}


class FakeFeatures:
    """The features of one device.

    Attributes:
        log: the first and last address of each range that is logged; ``None`` for no log.
        flags_are_output: whether the user has asked for what flags of INFO say.
        dirty: addresses that the device has written to since the last report.
    """

    def __init__(self, driver: FakeDriver, device: DriverDevice) -> None:
        self._driver, self._device = driver, device
        self._breaks = driver.breaks
        self.log: list[tuple[int, int]] | None = None
        self.dirty: set[int] = set()
        self.flags_are_output = False

    def ioctl(self, address: int) -> int:
        """Answer a request at ``address``: the errno, 0 if it worked."""
        head = uapi.vfio_device_feature.from_buffer_copy(self._driver.copy_from(address, HEAD))
        flags, index = head.flags, head.flags & uapi.VFIO_DEVICE_FEATURE_MASK
        operations = flags & (GET | SET)
        if head.argsz < HEAD or flags & ~(GET | SET | PROBE | uapi.VFIO_DEVICE_FEATURE_MASK):
            return 0 if "flags-are-taken" in self._breaks and head.argsz >= HEAD else errno.EINVAL
        if operations == GET | SET and not flags & PROBE:
            return errno.EINVAL
        if index not in FEATURES:
            return errno.EOPNOTSUPP if "feature-errno" in self._breaks else errno.ENOTTY
        offered, kind = FEATURES[index]
        if operations & ~offered:
            return errno.EINVAL
        if flags & PROBE:
            if "probe-acts" in self._breaks and operations & SET:
                self._device._change(State.STOP)
            return 0
        size = ctypes.sizeof(kind) if kind else 0
        if not operations or head.argsz < HEAD + size - ("argsz-by-one" in self._breaks):
            return errno.EINVAL
        data = address + HEAD
        payload = kind.from_buffer_copy(self._driver.copy_from(data, size)) if kind else None
        return self._answer(index, operations, payload, data)

    def _answer(self, index: int, operation: int, payload: Any, at: int) -> int:
        if index == uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
            return self._start(payload)
        if index == PRECOPY_INFO_V2:
            self.flags_are_output = "flags-are-echoed" not in self._breaks
            return 0
        if index == uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
            self.log = None
            return 0
        if index == uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
            return self._report(payload)
        assert payload is not None
        number = 0
        if index == uapi.VFIO_DEVICE_FEATURE_MIGRATION:
            payload.flags = int(self._device.flags)
        elif index == uapi.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
            payload.stop_copy_length = self._device.stop_copy_bytes()
        elif operation == GET:
            payload.device_state = self._device.state()
            payload.data_fd = -1
        else:
            number = self._set_state(payload)
        try:
            self._driver.copy_to(at, bytes(payload))
        except OSError:
            fd = getattr(payload, "data_fd", -1)
            if fd >= 0 and "fault-leaks-file" not in self._breaks:
                os.close(fd)
            raise
        return number

    def _set_state(self, payload: Any) -> int:
        """Go to a state; the structure has the data file's descriptor then, or -1."""
        device = self._device
        wanted, payload.data_fd = payload.device_state, -1
        if "changes-fail-beside-others" in self._breaks and threading.active_count() > 1:
            return errno.EIO
        if wanted == device.current and device.saving and "same-state-file" in self._breaks:
            payload.data_fd = self._driver.make_file(device.saving)
            return 0
        if not 0 < wanted < uapi.VFIO_DEVICE_STATE_NR:
            if "nonsense-stops" in self._breaks:
                device._change(State.STOP)
            if "refusal-ends-session" in self._breaks and device.saving:
                device.saving.ended = True
            self._harm_session("refusal")
            return errno.EINVAL
        before = device.current
        if wanted == before:
            self._harm_session("same-state")
        try:
            kind = device._change(State(wanted))
        except VfioError as error:
            self._harm_session("refusal")
            return error.errno
        if "leaks" in self._breaks and before is not device.current is State.RUNNING:
            self._driver.leaked += 1
        session = device.saving if kind == "saving" else device.resuming
        if "second-file" in self._breaks and before is P and device.current is Pp:
            session, kind = device.saving, "saving"
        if "keeps-old-file" in self._breaks and device.current is SC and before is P:
            assert device.saving is not None
            device.saving.ended = True
        if not kind:
            return 0
        assert session is not None
        fd = self._driver.make_file(session, writes=kind == "resuming")
        payload.data_fd = fd
        return 0

    def _harm_session(self, by: str) -> None:
        """Do to the session what a request should not: see :class:`FakeDriver`'s ``breaks``."""
        saving, resuming = self._device.saving, self._device.resuming
        if saving and saving.ready and f"{by}-drops-data" in self._breaks:
            saving.ready[0] = saving.ready[0][8:]
        if resuming and f"{by}-ends-resuming" in self._breaks:
            resuming.ended = True

    def _start(self, control: Any) -> int:
        count, page = control.num_ranges, control.page_size
        if not count:
            return errno.EINVAL
        if count > MOST_RANGES:
            return errno.E2BIG
        kind = uapi.vfio_device_feature_dma_logging_range
        size = ctypes.sizeof(kind) * count
        table = self._driver.copy_from(control.ranges, size)
        ranges: list[tuple[int, int]] = []
        for entry in (kind * count).from_buffer_copy(table):
            first, last = entry.iova, entry.iova + entry.length - 1
            if first % page or entry.length % page:
                return errno.EINVAL
            if last >= LAST:
                return errno.EOVERFLOW
            if any(first <= end and begin <= last for begin, end in ranges):
                return 0 if "ranges-overlap" in self._breaks else errno.EINVAL
            ranges.append((first, last))
        if self.log is not None and "log-twice" not in self._breaks:
            return errno.EINVAL
        self.log = ranges
        self.dirty.clear()
        return 0

    def _report(self, asked: Any) -> int:
        iova, length, page = asked.iova, asked.length, asked.page_size
        if page < 4096 or page & (page - 1):
            return errno.EINVAL
        if iova + length > LAST:
            return errno.EOVERFLOW
        if self.log is None:
            return errno.EINVAL
        size = -(-length // page // 64) * 8
        bits = int.from_bytes(self._driver.copy_from(asked.bitmap, size), "little")
        if "report-clears" in self._breaks:
            bits = 0
        short = page if "last-page-missing" in self._breaks else 0
        for address in sorted(self.dirty):
            if any(first <= address <= last - short for first, last in self.log):
                bits |= 1 << ((address - iova) // page)
        self.dirty.clear()
        self._driver.copy_to(asked.bitmap, bits.to_bytes(size, "little"))
        return 0
