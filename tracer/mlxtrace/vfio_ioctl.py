# SPDX-License-Identifier: GPL-2.0-or-later
"""The one place that calls ioctl(2) on VFIO's files."""

from __future__ import annotations

import ctypes
import errno
import fcntl

from mlxtrace import vfio_calls

Argument = int | bytearray | ctypes.Structure | ctypes.Array[ctypes.c_char]


def ioctl(fd: int, request: int, argument: Argument = 0, *, again: bool = True) -> int:
    """Issue ``request`` on ``fd`` and return its result, a number not below 0.

    ``argument`` is a number, or a buffer that the kernel reads and writes. A call that a signal
    interrupts is issued again, unless ``again`` is false: every VFIO call used here either did
    nothing or can be repeated.

    Raises:
        OSError: what the kernel answered.
    """
    while True:
        number = 0
        try:
            if isinstance(argument, int):
                return fcntl.ioctl(fd, request, argument)
            return int(fcntl.ioctl(fd, request, argument, True))
        except OSError as error:
            number = error.errno or errno.EIO
            if number != errno.EINTR or not again:
                raise
        finally:
            vfio_calls.made_ioctl(request, number, getattr(argument, "flags", 0))
