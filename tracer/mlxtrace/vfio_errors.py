# SPDX-License-Identifier: GPL-2.0-or-later
"""What VFIO's errors mean to the person who gets them."""

from __future__ import annotations

import errno
import os

from genbindings.errors import Error


def errno_name(number: int) -> str:
    """Return ``ENODEV`` for 19, or ``errno 531`` for a number that libc has no name for."""
    return errno.errorcode.get(number, f"errno {number}")


class VfioError(Error):
    """A VFIO call failed.

    ``str(error)`` is ``DEVICE: what was asked: ERRNO (text)``.

    Attributes:
        device: name of the device (BDF or UUID).
        asked: what was asked of it, as a noun phrase (``setting state STOP_COPY``).
        errno: the kernel's answer.
    """

    def __init__(self, device: str, asked: str, number: int, hint: str = "") -> None:
        super().__init__(
            f"{device}: {asked}: {errno_name(number)} ({os.strerror(number)})",
            hint or _HINTS.get(number, ""),
        )
        self.device = device
        self.asked = asked
        self.errno = number


class UnknownStateError(VfioError):
    """A driver says that its device is in a state that the uAPI does not have.

    The call did not fail: ``errno`` is EPROTO, for those who want a number.

    Attributes:
        number: the state, as the driver gave it.
    """

    def __init__(self, device: str, number: int) -> None:
        super().__init__(device, "reading its migration state", errno.EPROTO)
        self.args = (f"{device}: {self.asked}: {number}, which is no state of the uAPI",)
        self.hint = "its driver is wrong, or newer than this mlxtrace"
        self.number = number


# Section 1.2 of the migration uAPI as drivers keep it: errnos that mean one thing wherever they
# come from. Where a call gives an errno a meaning of its own, the caller passes a hint.
_HINTS = {
    errno.ENODEV: "the session has ended or the device failed: dmesg has the driver's message",
    errno.ENOTCONN: "SR-IOV was disabled, or the VF removed, while the device was open",
    errno.EIO: "the device's firmware refused or failed: dmesg has its status and syndrome",
    errno.EREMOTEIO: "the device's firmware refused: dmesg has its status and syndrome",
    errno.ETIMEDOUT: "the device's firmware did not answer: dmesg has the command",
    errno.EPERM: "run it as root",
    errno.EACCES: "run it as root",
}
