# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls on VFIO's files that go around the comforts of :mod:`mlxtrace.vfio`.

A check wants to see what the kernel makes of a wrong argument, and what it writes where. Nothing
here raises for what the kernel refuses: the errno is returned.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import select
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxtrace import vfio_calls
from mlxtrace.vfio_errors import errno_name
from mlxuapi import vfio as uapi

if TYPE_CHECKING:
    from collections.abc import Iterator

INFO_BYTES = ctypes.sizeof(uapi.vfio_precopy_info)
POISON = 0x5A5A5A5A
"""What a field has that the kernel should overwrite."""

interrupted: Counter[int] = Counter()
"""How often :func:`ioctl` made each request again, since a signal had come."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
_libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
_libc.write.restype = ctypes.c_ssize_t
_libc.read.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
_libc.read.restype = ctypes.c_ssize_t
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def answer(number: int) -> str:
    """Return how an errno is shown: ``EINVAL``, or ``0`` for success."""
    return errno_name(number) if number else "0"


def ioctl(fd: int, request: int, address: int, feature: int = 0) -> int:
    """Issue ``request`` with a pointer, which may be a bad one. Return the errno, 0 if it worked.

    A result above 0 is returned negative: no VFIO call that is used here has one. ``feature`` has
    the flags of a VFIO_DEVICE_FEATURE that is to be counted.
    """
    while True:
        result = int(_libc.ioctl(fd, request, address))
        number = -result if result >= 0 else ctypes.get_errno()
        vfio_calls.made_ioctl(request, max(0, number), feature)
        if number != errno.EINTR:
            return number
        interrupted[request] += 1


def write(fd: int, address: int, size: int) -> int:
    """Write ``size`` bytes from ``address``, which may be a bad one; the errno, 0 if it worked."""
    count = int(_libc.write(fd, address, size))
    number = 0 if count >= 0 else ctypes.get_errno()
    vfio_calls.made_write(-number or count)
    return number


def read_to(fd: int, address: int, size: int) -> int:
    """Read ``size`` bytes to ``address``, which may be a bad one: how many came, or -errno."""
    count = int(_libc.read(fd, address, size))
    result = count if count >= 0 else -ctypes.get_errno()
    vfio_calls.made_read(result)
    return result


@dataclass(frozen=True)
class FeatureAnswer:
    """What VFIO_DEVICE_FEATURE left: errno, and all bytes after the header."""

    errno: int
    data: bytes


def feature(fd: int, flags: int, argsz: int, data: bytes = b"") -> FeatureAnswer:
    """Issue VFIO_DEVICE_FEATURE with any flags and ``argsz``.

    ``data`` follows the header; the rest of ``argsz`` (of a page at least) is set to 0x5a.
    """
    head = ctypes.sizeof(uapi.vfio_device_feature)
    request = uapi.vfio_device_feature()
    request.argsz, request.flags = argsz, flags
    room = bytearray(bytes(request)[:head] + data)
    room += b"\x5a" * (mmap.PAGESIZE - len(room))
    buffer = (ctypes.c_char * len(room)).from_buffer(room)
    number = ioctl(fd, uapi.VFIO_DEVICE_FEATURE, ctypes.addressof(buffer), flags)
    return FeatureAnswer(number, bytes(room[head:]))


@dataclass(frozen=True)
class StateAnswer:
    """What became of a request for a state.

    Attributes:
        errno: 0 if it worked.
        data_fd: what the kernel left in ``data_fd``; ``POISON`` if it wrote nothing there.
    """

    errno: int
    data_fd: int

    def __str__(self) -> str:
        if self.data_fd == POISON:
            file = "data_fd not written"
        else:
            file = "no data file" if self.data_fd == -1 else "a data file"
        return f"{answer(self.errno)}, {file}"


def set_state(fd: int, state: int) -> StateAnswer:
    """Ask the device at ``fd`` for ``state``, any number. A data file is the caller's to close."""
    size = ctypes.sizeof(uapi.vfio_device_feature_mig_state)
    request = uapi.vfio_device_feature.with_room(size)
    request.flags = uapi.VFIO_DEVICE_FEATURE_SET | uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
    wanted = uapi.vfio_device_feature_mig_state()
    wanted.device_state = state
    wanted.data_fd = POISON
    request.data[:] = list(bytes(wanted))
    number = ioctl(fd, uapi.VFIO_DEVICE_FEATURE, ctypes.addressof(request), request.flags)
    left = uapi.vfio_device_feature_mig_state.from_buffer_copy(bytes(request.data))
    return StateAnswer(number, int(left.data_fd))


def get_state(fd: int) -> tuple[int, int, int]:
    """Return errno, state and ``data_fd`` of VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE."""
    request = uapi.vfio_device_feature.with_room(ctypes.sizeof(uapi.vfio_device_feature_mig_state))
    request.flags = uapi.VFIO_DEVICE_FEATURE_GET | uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
    number = ioctl(fd, uapi.VFIO_DEVICE_FEATURE, ctypes.addressof(request))
    left = uapi.vfio_device_feature_mig_state.from_buffer_copy(bytes(request.data))
    return number, int(left.device_state), int(left.data_fd)


@dataclass(frozen=True)
class InfoAnswer:
    """What VFIO_MIG_GET_PRECOPY_INFO left: errno, the structure, and the bytes after it."""

    errno: int
    info: uapi.vfio_precopy_info
    rest: bytes

    def __str__(self) -> str:
        if self.errno:
            return answer(self.errno)
        return f"initial {self.info.initial_bytes}, dirty {self.info.dirty_bytes}"


def precopy_info(fd: int, argsz: int = INFO_BYTES, flags: int = 0) -> InfoAnswer:
    """Ask how much is left, with any ``argsz``; bytes after the structure are set to 0x5a."""
    room = bytearray(b"\x5a" * max(argsz, INFO_BYTES))
    question = uapi.vfio_precopy_info()
    question.argsz, question.flags = argsz, flags
    room[:INFO_BYTES] = bytes(question)
    buffer = (ctypes.c_char * len(room)).from_buffer(room)
    number = ioctl(fd, uapi.VFIO_MIG_GET_PRECOPY_INFO, ctypes.addressof(buffer))
    info = uapi.vfio_precopy_info.from_buffer_copy(bytes(room[:INFO_BYTES]))
    return InfoAnswer(number, info, bytes(room[INFO_BYTES:]))


def read_errno(fd: int, size: int = 4096) -> int | bytes:
    """Read from ``fd`` and return the data, or the errno."""
    try:
        return vfio_calls.read(fd, size)
    except OSError as error:
        return error.errno or errno.EIO


def write_errno(fd: int, data: bytes | memoryview) -> int:
    """Write to ``fd`` and return the errno, 0 if it worked."""
    try:
        vfio_calls.write(fd, data)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def poll_events(fd: int, timeout_s: float = 0) -> int:
    """Return what poll(2) says of ``fd``: any of POLLIN, POLLRDNORM and POLLRDHUP, and errors."""
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLRDNORM | select.POLLRDHUP)
    return dict(poll.poll(timeout_s * 1000)).get(fd, 0)


@contextlib.contextmanager
def page(data: bytes, *, offset: int = 0, writable: bool = True) -> Iterator[int]:
    """Yield the address of ``data``, ``offset`` bytes into a page that no other page follows.

    What of ``data`` goes beyond the page is left out.
    """
    size = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * size)
    # An array of it would keep mmap from being closed.
    view = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(view)
    memory[offset : min(size, offset + len(data))] = data[: size - offset]
    _protect(address + size, size, 0)
    if not writable:
        _protect(address, size, mmap.PROT_READ)
    try:
        yield address + offset
    finally:
        _protect(address, 2 * size, mmap.PROT_READ | mmap.PROT_WRITE)
        del view
        memory.close()


def _protect(address: int, size: int, protection: int) -> None:
    if _libc.mprotect(address, size, protection):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
