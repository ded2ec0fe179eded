# SPDX-License-Identifier: GPL-2.0-or-later
"""The data files of a migration: the saving stream that is read, the resuming one that is written.

Both are anonymous files that a state change returns. They must be closed before their device:
mlx5-vfio-pci takes no reference on the device for them (:class:`mlxtrace.vfio.Device` sees to it).
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import select
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from mlxtrace import vfio_calls
from mlxtrace.vfio_errors import VfioError
from mlxtrace.vfio_ioctl import ioctl
from mlxuapi import vfio as uapi

if TYPE_CHECKING:
    from types import TracebackType


class End(enum.Enum):
    """Why a read gave no data: each is a normal answer, not an error."""

    TEMPORARY = "temporary"
    """ENOMSG: nothing more for now, in PRE_COPY or PRE_COPY_P2P."""
    FINAL = "final"
    """0 bytes: the end of the stream in STOP_COPY. Some drivers other than mlx5 and virtio
    answer 0 at a temporary end as well."""
    NOT_YET = "not yet"
    """EAGAIN: data is being made; wait with :meth:`SavingStream.wait`."""


@dataclass(frozen=True)
class PrecopyInfo:
    """The answer to VFIO_MIG_GET_PRECOPY_INFO.

    Attributes:
        initial_bytes: bytes of initial data still to be read; never grows in a session.
        dirty_bytes: an estimate of what changed since, in bytes.
        flags: reserved before Linux 7.1: drivers return what the caller put there.
    """

    initial_bytes: int
    dirty_bytes: int
    flags: int = 0

    @property
    def pending_bytes(self) -> int:
        """Bytes that can be read before the next temporary end, as far as the driver knows."""
        return self.initial_bytes + self.dirty_bytes


class _DataFile:
    """A data file and whose it is. Closing it twice does nothing."""

    def __init__(self, device: str, fd: int) -> None:
        self.device = device
        self._fd = fd

    def fileno(self) -> int:
        """Return the file descriptor, -1 once closed."""
        return self._fd

    def close(self) -> None:
        """Close the file. The session itself ends with a state change, a reset or the device."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _error(self, asked: str, error: OSError) -> VfioError:
        return VfioError(self.device, asked, error.errno or errno.EIO)


class SavingStream(_DataFile):
    """What PRE_COPY, PRE_COPY_P2P and STOP_COPY of one session share: the state as a stream.

    The file is put in non-blocking mode: a blocking read cannot be woken by a cancelled
    migration before Linux 6.7, and one that meets a state change may see a false end of stream.
    """

    def __init__(self, device: str, fd: int) -> None:
        super().__init__(device, fd)
        os.set_blocking(fd, False)

    def read(self, max_bytes: int) -> bytes | End:
        """Read at most ``max_bytes`` (short reads are normal), or tell which end this is.

        Raises:
            VfioError: ENODEV after a SAVE failed or the session ended, for one.
        """
        try:
            return vfio_calls.read(self._fd, max_bytes) or End.FINAL
        except BlockingIOError:
            return End.NOT_YET
        except OSError as error:
            if error.errno == errno.ENOMSG:
                return End.TEMPORARY
            raise self._error("reading migration data", error) from None

    def wait(self, timeout_s: float) -> bool:
        """Wait until a read gives data, the final end or an error; False after ``timeout_s``.

        A temporary end does not end the wait: the driver reports it to readers only.
        """
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def precopy_info(self) -> PrecopyInfo:
        """Ask how much is left (VFIO_MIG_GET_PRECOPY_INFO); in PRE_COPY and PRE_COPY_P2P only.

        In mlx5 this call is more than a question: in PRE_COPY, once all data was read, it starts
        the next SAVE (a middle image) if anything changed. It waits for a SAVE in flight.

        Raises:
            VfioError: EINVAL in any other state; EINTR when a signal came during the wait, which
                may last as long as a SAVE: nothing happened then, it may be asked again.
        """
        info = uapi.vfio_precopy_info()
        try:
            ioctl(self._fd, uapi.VFIO_MIG_GET_PRECOPY_INFO, info, again=False)
        except OSError as error:
            raise self._error("VFIO_MIG_GET_PRECOPY_INFO", error) from None
        return PrecopyInfo(int(info.initial_bytes), int(info.dirty_bytes), int(info.flags))


class ResumingStream(_DataFile):
    """What RESUMING takes: the same bytes in the same order, in any segmentation."""

    def write(self, data: bytes | memoryview) -> int:
        """Write some of ``data`` and return how many bytes the driver took.

        mlx5 loads an image (LOAD) inside the write that completes it.

        Raises:
            VfioError: the driver or the firmware refused it; how much of ``data`` was taken
                before that is not known, and every later write gives ENODEV.
        """
        try:
            return vfio_calls.write(self._fd, data)
        except OSError as error:
            raise self._error("writing migration data", error) from None

    def write_all(self, data: bytes | memoryview) -> None:
        """Write all of ``data``, as :meth:`write` does."""
        view = memoryview(data)
        while view:
            view = view[self.write(view) :]


def close_all(streams: list[SavingStream | ResumingStream]) -> None:
    """Close every stream in ``streams``; an error of one does not spare the others."""
    with contextlib.ExitStack() as stack:
        for stream in streams:
            stack.callback(stream.close)
