# SPDX-License-Identifier: GPL-2.0-or-later
"""VFIO migration (protocol v2, include/uapi/linux/vfio.h) as a typed Python API.

    with Device.open("0000:01:00.1") as vf:
        if MigrationFlags.PRE_COPY in vf.migration_flags():
            stream = vf.save(State.PRE_COPY)
            print(stream.precopy_info())
        vf.set_state(State.RUNNING)

Numbers and layouts are those of the generated :mod:`mlxuapi.vfio`. Every failure is a
:class:`VfioError` that names the device, what was asked and the errno.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
from typing import TYPE_CHECKING, Self, TypeVar

from genbindings.errors import Error
from mlxtrace import devices
from mlxtrace.vfio_errors import UnknownStateError, VfioError, errno_name
from mlxtrace.vfio_ioctl import ioctl
from mlxtrace.vfio_open import Handle, Via, open_device
from mlxtrace.vfio_stream import End, PrecopyInfo, ResumingStream, SavingStream, close_all
from mlxuapi import vfio as uapi

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "Device",
    "End",
    "MigrationFlags",
    "PrecopyInfo",
    "ResumingStream",
    "SavingStream",
    "State",
    "UnknownStateError",
    "VfioError",
    "Via",
    "errno_name",
]

Payload = TypeVar("Payload", bound=ctypes.Structure)
Stream = TypeVar("Stream", SavingStream, ResumingStream)


class State(enum.IntEnum):
    """enum vfio_device_mig_state."""

    ERROR = uapi.VFIO_DEVICE_STATE_ERROR
    STOP = uapi.VFIO_DEVICE_STATE_STOP
    RUNNING = uapi.VFIO_DEVICE_STATE_RUNNING
    STOP_COPY = uapi.VFIO_DEVICE_STATE_STOP_COPY
    RESUMING = uapi.VFIO_DEVICE_STATE_RESUMING
    RUNNING_P2P = uapi.VFIO_DEVICE_STATE_RUNNING_P2P
    PRE_COPY = uapi.VFIO_DEVICE_STATE_PRE_COPY
    PRE_COPY_P2P = uapi.VFIO_DEVICE_STATE_PRE_COPY_P2P


_STATE_NAMES = {int(state): state.name for state in State}


class MigrationFlags(enum.IntFlag):
    """What a driver offers (struct vfio_device_feature_migration)."""

    STOP_COPY = uapi.VFIO_MIGRATION_STOP_COPY
    P2P = uapi.VFIO_MIGRATION_P2P
    PRE_COPY = uapi.VFIO_MIGRATION_PRE_COPY


class Device:
    """An open VFIO device. Opening and closing a PCI device resets it.

    What becomes of a mediated device is its driver's affair: see :meth:`make_running`.
    """

    def __init__(self, info: devices.DeviceInfo, handle: Handle) -> None:
        self.info = info
        self.name = info.name
        self._handle = handle
        self._streams: list[SavingStream | ResumingStream] = []

    @classmethod
    def open(cls, name: str, via: Via = "auto") -> Self:
        """Open the device ``name`` (BDF, UUID or path in sysfs), through its group or its own file.

        Raises:
            UsageError: ``name`` is not a device name.
            Error: it is not there, not bound to a VFIO driver, in use, or may not be opened.
        """
        info = devices.lookup(name)
        return cls(info, open_device(info, via))

    def close(self) -> None:
        """Close its streams, then the device. May be repeated."""
        close_all(self._streams)
        self._streams.clear()
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def driver(self) -> str:
        """Name of the driver that has the device (``mlx5_vfio_pci``)."""
        return self.info.driver or ""

    @property
    def ids(self) -> dict[str, str]:
        """Its identity: see :class:`mlxtrace.devices.DeviceInfo`."""
        return self.info.ids

    def fileno(self) -> int:
        """Return the device's file descriptor."""
        return self._handle.fd

    def offers(self, feature: int, operation: int | None = None) -> bool:
        """Tell whether the device has ``feature`` (a ``VFIO_DEVICE_FEATURE_*`` index).

        ``operation`` is ``VFIO_DEVICE_FEATURE_GET`` or ``_SET``; by default either will do.
        """
        operations = (
            (uapi.VFIO_DEVICE_FEATURE_GET, uapi.VFIO_DEVICE_FEATURE_SET)
            if operation is None
            else (operation,)
        )
        for each in operations:
            try:
                self._feature(feature, uapi.VFIO_DEVICE_FEATURE_PROBE | each, b"")
            except OSError as error:
                # EINVAL: known, but not with this operation (or a driver of before 6.18 that has
                # no features at all); ENOTTY: not known.
                if error.errno not in (errno.ENOTTY, errno.EINVAL):
                    raise VfioError(self.name, f"probing feature {feature}", _no(error)) from None
            else:
                return True
        return False

    def get_feature(self, feature: int, payload: type[Payload], asked: str = "") -> Payload:
        """Return the data of ``feature``, as the structure ``payload`` (its type).

        Raises:
            VfioError: ENOTTY when the device does not have the feature, for one.
        """
        try:
            data = self._feature(
                feature, uapi.VFIO_DEVICE_FEATURE_GET, bytes(ctypes.sizeof(payload))
            )
        except OSError as error:
            raise VfioError(self.name, asked or f"getting feature {feature}", _no(error)) from None
        return payload.from_buffer_copy(data)

    def set_feature(
        self, feature: int, payload: Payload | None = None, asked: str = ""
    ) -> Payload | None:
        """Set ``feature`` to ``payload`` and return what the kernel left in it.

        Raises:
            VfioError: what the kernel answered.
        """
        given = b"" if payload is None else bytes(payload)
        try:
            data = self._feature(feature, uapi.VFIO_DEVICE_FEATURE_SET, given)
        except OSError as error:
            raise VfioError(self.name, asked or f"setting feature {feature}", _no(error)) from None
        return None if payload is None else type(payload).from_buffer_copy(data)

    def _feature(self, feature: int, operation: int, payload: bytes) -> bytes:
        """Issue VFIO_DEVICE_FEATURE and return the payload after it."""
        request = uapi.vfio_device_feature.with_room(len(payload))
        request.flags = operation | feature
        request.data[:] = list(payload)
        ioctl(self.fileno(), uapi.VFIO_DEVICE_FEATURE, request)
        return bytes(request.data)

    def migration_flags(self) -> MigrationFlags:
        """Return what the driver offers; no flag at all when it offers no migration."""
        try:
            data = self.get_feature(
                uapi.VFIO_DEVICE_FEATURE_MIGRATION, uapi.vfio_device_feature_migration
            )
        except VfioError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                return MigrationFlags(0)
            raise
        return MigrationFlags(int(data.flags))

    def require_migration(self) -> MigrationFlags:
        """Return what the driver offers.

        Raises:
            Error: it offers no migration.
        """
        flags = self.migration_flags()
        if flags:
            return flags
        if self.driver == devices.MLX5_DRIVER:
            hint = "its firmware or its PF does not let this VF migrate: dmesg, devlink port show"
        elif self.info.is_mediated:
            hint = "whether a mediated device migrates is up to its driver: a newer one may"
        else:
            hint = devices.bind_hint(self.info)
        raise Error(f"{self.name}: its driver ({self.driver}) offers no migration", hint)

    def state(self) -> State:
        """Return the device's migration state.

        Raises:
            VfioError: what the kernel answered; UnknownStateError for a number that is no state.
        """
        data = self.get_feature(
            uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
            uapi.vfio_device_feature_mig_state,
            "reading its migration state",
        )
        number = int(data.device_state)
        if number not in _STATE_NAMES:
            raise UnknownStateError(self.name, number)
        return State(number)

    def make_running(self) -> State:
        """Reset the device unless it is RUNNING, as it is when opened; return what it was in.

        The driver of a mediated device may leave it as its last user did, in the middle of a
        session say.

        Raises:
            VfioError: it has no migration states, or cannot be reset.
        """
        found = self.state()
        if found is not State.RUNNING:
            self.reset()
        return found

    def change_state(self, state: int) -> int:
        """Ask for ``state`` and return the data file's descriptor, or -1 for none.

        The descriptor is the caller's to close. ``state`` may be any number, so that what a
        driver does with a wrong one can be seen; :meth:`set_state`, :meth:`save` and
        :meth:`resume` are the comfortable forms.

        Raises:
            VfioError: what the kernel answered. The state may be any one on the way: see
                :meth:`state`.
        """
        request = uapi.vfio_device_feature_mig_state()
        request.device_state = state
        request.data_fd = -1
        name = _STATE_NAMES.get(state, str(state))
        answer = self.set_feature(
            uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, request, f"setting state {name}"
        )
        assert answer is not None
        return int(answer.data_fd)

    def set_state(self, state: State) -> None:
        """Go to ``state`` by a way that opens no data file, or whose data file is not wanted.

        Raises:
            VfioError: as :meth:`change_state`.
        """
        fd = self.change_state(state)
        if fd >= 0:
            os.close(fd)

    def save(self, state: State) -> SavingStream:
        """Begin a saving session: go to PRE_COPY, PRE_COPY_P2P or STOP_COPY.

        Raises:
            VfioError: as :meth:`change_state`; EBADF when the driver gave no data file.
        """
        return self._keep(SavingStream(self.name, self._data_file(state)))

    def resume(self) -> ResumingStream:
        """Begin a resuming session: go to RESUMING.

        Raises:
            VfioError: as :meth:`save`.
        """
        return self._keep(ResumingStream(self.name, self._data_file(State.RESUMING)))

    def _keep(self, stream: Stream) -> Stream:
        """Remember ``stream``, so that it is closed before the device."""
        self._streams = [kept for kept in self._streams if kept.fileno() >= 0]
        self._streams.append(stream)
        return stream

    def _data_file(self, state: State) -> int:
        fd = self.change_state(state)
        if fd < 0:
            raise VfioError(self.name, f"the data file of state {state.name}", errno.EBADF)
        return fd

    def stop_copy_bytes(self) -> int:
        """Return how many bytes STOP_COPY would give now, by the driver's estimate (MIG_DATA_SIZE).

        Raises:
            VfioError: ENOTTY where the kernel is older than 6.2 and without the feature.
        """
        data = self.get_feature(
            uapi.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
            uapi.vfio_device_feature_mig_data_size,
            "asking for its data size",
        )
        return int(data.stop_copy_length)

    def reset(self) -> None:
        """Reset the device (VFIO_DEVICE_RESET): it is RUNNING after that, its state is gone.

        Raises:
            VfioError: ENOTTY when the device cannot be reset, for one.
        """
        try:
            ioctl(self.fileno(), uapi.VFIO_DEVICE_RESET)
        except OSError as error:
            raise VfioError(self.name, "VFIO_DEVICE_RESET", _no(error)) from None


def _no(error: OSError) -> int:
    """Return the errno of ``error``; EIO if it has none."""
    return error.errno or errno.EIO
