# SPDX-License-Identifier: GPL-2.0-or-later
"""How often this process has called VFIO's files, by kind: what a tracer of the driver would count.

The names are those of the tracer's summary (docs/events.md). A call that never gets to the driver
is none: a file that was not opened for it (EBADF), or that does not have it (ENOTTY), a question
whether a feature is there.
"""

from __future__ import annotations

import errno
import os
import threading

from mlxuapi import vfio as uapi

KINDS = (
    "state_changes",
    "failed_state_changes",
    "ioctls",
    "failed_ioctls",
    "estimates",
    "failed_estimates",
    "read_calls",
    "read_bytes",
    "temporary_ends",
    "final_ends",
    "again_ends",
    "write_calls",
    "written_bytes",
    "stream_errors",
    "resets",
)
_SET_STATE = uapi.VFIO_DEVICE_FEATURE_SET | uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
_GET_SIZE = uapi.VFIO_DEVICE_FEATURE_GET | uapi.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE
_ENDS = {errno.ENOMSG: "temporary_ends", errno.EAGAIN: "again_ends"}
# The kernel answers these before the driver is asked.
_NOT_ASKED = (errno.EBADF, errno.ENOTTY)


class _Counter:
    """Counts of this process; several threads may add to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(KINDS, 0)

    def add(self, counts: dict[str, int]) -> None:
        with self._lock:
            for kind, number in counts.items():
                self._counts[kind] += number

    def take(self) -> dict[str, int]:
        with self._lock:
            counts, self._counts = self._counts, dict.fromkeys(KINDS, 0)
        return counts


_counter = _Counter()


def _forget() -> None:
    # The lock may be held by a thread that the child does not have.
    global _counter
    _counter = _Counter()


os.register_at_fork(after_in_child=_forget)


def take() -> dict[str, int]:
    """Return the counts since the last call of this, or since this process was made."""
    return _counter.take()


def add(counts: dict[str, int]) -> None:
    """Add what another process has counted."""
    _counter.add(counts)


def made_ioctl(request: int, number: int, feature: int = 0) -> None:
    """Count an ioctl that was answered with the errno ``number``, 0 for success.

    ``feature`` has the flags of a VFIO_DEVICE_FEATURE.
    """
    if number in _NOT_ASKED:
        return
    if request == uapi.VFIO_DEVICE_RESET:
        # One that fails did not reset anything.
        add({"resets": int(not number)})
        return
    kind = None
    if request == uapi.VFIO_MIG_GET_PRECOPY_INFO:
        kind = "ioctls"
    elif request == uapi.VFIO_DEVICE_FEATURE:
        kind = {_SET_STATE: "state_changes", _GET_SIZE: "estimates"}.get(feature)
    if kind:
        add({kind: 1, f"failed_{kind}": int(number != 0)})


def made_read(result: int) -> None:
    """Count a read() of a data file: how many bytes came, or -errno."""
    if result > 0:
        add({"read_calls": 1, "read_bytes": result})
    elif result == 0:
        add({"final_ends": 1})
    elif -result not in _NOT_ASKED:
        add({_ENDS.get(-result, "stream_errors"): 1})


def made_write(result: int) -> None:
    """Count a write() to a data file: how many bytes it took, or -errno."""
    if result >= 0:
        add({"write_calls": 1, "written_bytes": result})
    elif -result not in _NOT_ASKED:
        add({"stream_errors": 1})


def read(fd: int, size: int) -> bytes:
    """Read from a data file, as os.read() does, and count it."""
    try:
        data = os.read(fd, size)
    except OSError as error:
        made_read(-(error.errno or errno.EIO))
        raise
    made_read(len(data))
    return data


def write(fd: int, data: bytes | memoryview) -> int:
    """Write to a data file, as os.write() does, and count it."""
    try:
        count = os.write(fd, data)
    except OSError as error:
        made_write(-(error.errno or errno.EIO))
        raise
    made_write(count)
    return count
