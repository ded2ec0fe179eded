# SPDX-License-Identifier: GPL-2.0-or-later
"""What tells one host's clocks from another's: the boot, and how exact the time of day is."""

from __future__ import annotations

import ctypes
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronised."""


class _NtpTime(ctypes.Structure):
    # struct ntptimeval of glibc's sys/timex.h.
    _fields_ = [
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("max_error_us", ctypes.c_long),
        ("estimated_error_us", ctypes.c_long),
        ("reserved", ctypes.c_long * 5),
    ]


def boot_id() -> str:
    """Return what tells this boot of this host from all others; "" where it is not to be had."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def realtime_error_ns() -> int | None:
    """Return adjtimex's maxerror; None if the clock is not synchronised, or libc lacks it."""
    function = getattr(ctypes.CDLL(None), "ntp_gettimex", None)
    value = _NtpTime()
    if function is None or function(ctypes.byref(value)) in (-1, _TIME_ERROR):
        return None
    return int(value.max_error_us) * 1000
