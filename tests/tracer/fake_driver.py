# SPDX-License-Identifier: GPL-2.0-or-later
"""A migration driver behind the system calls themselves: what the checks are tested against.

The device and its streams are those of :mod:`.fake_device`. Descriptors are real pipes, so that
what the kernel says of any stream (ESPIPE, EBADF, EMFILE, EFAULT) is said by the kernel here too.
``breaks`` names rules that the driver breaks. A forked child has a copy of it all.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import struct
import threading
from typing import TYPE_CHECKING, Any

from mlxtrace import devices
from mlxtrace.checks import raw, transfer
from mlxtrace.vfio import Device, End, MigrationFlags, State, VfioError
from mlxtrace.vfio_open import Handle
from mlxuapi import vfio as uapi

from .fake_device import ALL_FLAGS, FakeDevice, FakeResuming, FakeSaving
from .fake_features import FakeFeatures

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    import pytest

SOURCE, TARGET = "0000:01:00.1", "0000:01:00.2"
READABLE = select.POLLIN | select.POLLRDNORM
BLOCKS = 128
Session = FakeSaving | FakeResuming


class DriverDevice(FakeDevice):
    """A VF that looks at what was loaded before it leaves RESUMING."""

    breaks: frozenset[str] = frozenset()

    def _change(self, aim: State) -> str:
        loading = self.resuming if self.current is State.RESUMING else None
        if loading is None or aim is State.RESUMING or not self._supported(aim):
            return super()._change(aim)
        whole = not loading.failed and not loading.buffer and loading.next_number > 0
        if not whole and "takes-parts" not in self.breaks:
            if "enters-error" in self.breaks:
                self._enter(State.ERROR)
            raise self.fail("leaving RESUMING", errno.EINVAL)
        return super()._change(aim)

    def _arc(self, step: State) -> str:
        # Nothing is suspended before the SAVE that is under way has ended.
        while step is State.PRE_COPY_P2P and self.saving and self.saving.flight is not None:
            self.saving._pass()
        return super()._arc(step)


class FakeFirmware:
    """What the model of a VF can tell and do, as the checks know it."""

    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver

    def set_busy(self, device: str, busy: bool) -> None:
        self._driver.devices[device].dirty = 4 if busy else 0
        self._driver.devices[device].tick()

    def tracks(self, device: str) -> bool:
        if "tracks-for-ever" in self._driver.breaks:
            return True
        return self._driver.devices[device].saving is not None

    def slow_saves(self, device: str, delay_s: float) -> AbstractContextManager[None]:
        self._driver.slowed.append((device, delay_s))
        return self._driver.interrupting()

    def objects(self) -> dict[str, int]:
        live = [
            session
            for device in self._driver.devices.values()
            for session in (device.saving, device.resuming)
            if session is not None
        ]
        return {"sessions": len(live), "leaked": self._driver.leaked}


def open_mark(root: Path, name: str) -> Path:
    """Return the path of a file that is there while the device ``name`` is open."""
    return root / f"{name} is open"


class FakeDriver:
    """Two VFs, and the system calls on their files."""

    def __init__(
        self,
        root: Path,
        monkeypatch: pytest.MonkeyPatch,
        breaks: Iterable[str] = (),
        flags: MigrationFlags = ALL_FLAGS,
    ) -> None:
        self.breaks = frozenset(breaks)
        self.leaked = 0
        self.slowed: list[tuple[str, float]] = []
        """The devices whose SAVEs took longer for a while, and by how much."""
        self.devices = {
            name: DriverDevice(name, blocks=BLOCKS, flags=flags) for name in (SOURCE, TARGET)
        }
        self.firmware = FakeFirmware(self)
        self._files: dict[int, DriverDevice | Session] = {}
        self._features = {name: FakeFeatures(self, each) for name, each in self.devices.items()}
        self._pipes: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._interrupts = self._met = False
        self._real = {name: getattr(os, name) for name in ("read", "write", "writev")}
        self._libc = raw._libc
        self._poll = select.poll
        self._drivers = root / "bus/pci/drivers/mlx5_vfio_pci"
        self._drivers.mkdir(parents=True)
        for device in self.devices.values():
            device.breaks = self.breaks
            device.faults.transient_enomsg = "denies-announced" in self.breaks
            device.faults.zero_at_temporary_end = "zero-for-now" in self.breaks
            device.faults.enomsg_in_stop_copy = "no-final-end" in self.breaks
            device.faults.corrupts_silently = "corrupts" in self.breaks
        monkeypatch.setattr(devices, "SYSFS", root)
        monkeypatch.setattr(raw, "_libc", self)
        monkeypatch.setattr(Device, "open", self._open)
        monkeypatch.setattr(transfer, "state_hash", lambda name: self.devices[name].hash())
        monkeypatch.setattr(fcntl, "ioctl", self._fcntl_ioctl)
        monkeypatch.setattr(select, "poll", lambda: FakePoll(self, self._poll()))
        for name in self._real:
            monkeypatch.setattr(os, name, getattr(self, f"_os_{name}"))

    def mprotect(self, address: int, size: int, protection: int) -> int:
        """Do as libc does: its name, since this stands in for libc."""
        return int(self._libc.mprotect(address, size, protection))

    def _open(self, name: str) -> Device:
        device = self.devices[name]
        if "opens-stopped" in self.breaks:
            device._enter(State.STOP)
        fd = self.make_file(device)
        cleanup = contextlib.ExitStack()
        # Other processes see that it is open, and when it is not any more.
        mark = open_mark(devices.SYSFS, name)
        mark.touch()
        cleanup.callback(mark.unlink)
        cleanup.callback(os.close, fd)
        cleanup.callback(self._release, device)
        path = devices.SYSFS / "bus/pci/devices" / name
        info = devices.DeviceInfo(name, path, "mlx5_vfio_pci", 1, True, "vfio0", {})
        return Device(info, Handle(fd, "group", cleanup))

    def _release(self, device: DriverDevice) -> None:
        self._features[device.name].log = None
        self._features[device.name].flags_are_output = False
        if "close-keeps-session" not in self.breaks:
            device.reset()

    def dma(self, name: str, address: int) -> None:
        """Have a device write to memory."""
        self._features[name].dirty.add(address)

    def make_file(self, of: DriverDevice | Session, *, writes: bool = False) -> int:
        """Return the descriptor of a new file; OSError (EMFILE) when there can be no more."""
        reading, writing = os.pipe()
        fd, other = (writing, reading) if writes else (reading, writing)
        os.close(other)
        self._files[os.fstat(fd).st_ino] = of
        return fd

    def file(self, fd: int) -> Any:
        """Return the device or session whose file ``fd`` is."""
        try:
            return self._files.get(os.fstat(fd).st_ino)
        except OSError:
            return None

    def _fcntl_ioctl(self, fd: int, request: int, argument: Any = 0, _: bool = True) -> int:
        address = argument if isinstance(argument, int) else ctypes.addressof(argument)
        if number := self._ioctl(fd, request, address):
            raise OSError(number, os.strerror(number))
        return 0

    def ioctl(self, fd: int, request: int, address: int) -> int:
        """Do as libc's ioctl()."""
        number = errno.EINTR if self._is_interrupted(fd) else self._ioctl(fd, request, address)
        ctypes.set_errno(number)
        return -1 if number else 0

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Have a signal end, once, each call that waits for a SAVE."""
        self._interrupts = True
        try:
            yield
        finally:
            self._interrupts = False

    def _is_interrupted(self, fd: int) -> bool:
        of = self.file(fd)
        session = of.saving if isinstance(of, FakeDevice) else of
        if not self._interrupts or not isinstance(session, FakeSaving) or session.flight is None:
            return False
        self._met = not self._met
        if self._met and of is not session and "signal-ends-session" in self.breaks:
            session.ended = True
        return self._met

    def _ioctl(self, fd: int, request: int, address: int) -> int:
        of = self.file(fd)
        try:
            if isinstance(of, FakeDevice):
                if request == uapi.VFIO_DEVICE_RESET:
                    old = of.saving
                    of.reset()
                    if old is not None and "reset-keeps-session" in self.breaks:
                        old.ended = False
                    return 0
                if request == uapi.VFIO_DEVICE_FEATURE:
                    return self._features[of.name].ioctl(address)
            elif isinstance(of, FakeSaving) and request == uapi.VFIO_MIG_GET_PRECOPY_INFO:
                return self._info(of, address)
        except VfioError as error:
            return error.errno
        except OSError as error:
            return error.errno or errno.EIO
        return errno.ENOTTY

    def _info(self, session: FakeSaving, address: int) -> int:
        size = ctypes.sizeof(uapi.vfio_precopy_info)
        info = uapi.vfio_precopy_info.from_buffer_copy(self.copy_from(address, size))
        if info.argsz < size and "info-of-any-size" not in self.breaks:
            return errno.EINVAL
        if session.ended:
            return errno.ENODEV
        if session.device.current not in (State.PRE_COPY, State.PRE_COPY_P2P):
            return 0 if "info-everywhere" in self.breaks else errno.EINVAL
        left = session.precopy_info()
        assert session.infos < 10_000, "it is asked for ever"
        if "initial-rises" in self.breaks and session.device.current is State.PRE_COPY_P2P:
            session.initial_bytes += 1
        info.initial_bytes, info.dirty_bytes = left.initial_bytes, left.dirty_bytes
        if "initial-is-short" in self.breaks:
            info.initial_bytes = max(0, left.initial_bytes - 16)
        if "initial-stays" in self.breaks:
            info.initial_bytes, info.dirty_bytes = session.initial_bytes, 0
        if "no-initial" in self.breaks:
            info.initial_bytes = 0
        if "always-dirty" in self.breaks:
            info.dirty_bytes += 1
        if self._features[session.device.name].flags_are_output:
            info.flags = 0
        if "flags-lose-data" in self.breaks and info.flags:
            session.offset += 1
        self.copy_to(address, bytes(info))
        return 0

    def read(self, fd: int, address: int, size: int) -> int:
        """Do as libc's read(): nothing is taken that cannot be written there."""
        session = self.file(fd)
        try:
            data = self._os_read(fd, size)
            self.copy_to(address, data)
        except OSError as error:
            ctypes.set_errno(error.errno or errno.EIO)
            if error.errno == errno.EFAULT and "fault-loses-data" not in self.breaks:
                session.ready.appendleft(data)
                session.offset -= len(data)
            return -1
        return len(data)

    def write(self, fd: int, address: int, size: int) -> int:
        """Do as libc's write()."""
        try:
            return self._os_write(fd, self.copy_from(address, size))
        except OSError as error:
            ctypes.set_errno(error.errno or errno.EIO)
            return -1

    def _os_read(self, fd: int, size: int) -> bytes:
        session = self.file(fd)
        if isinstance(session, FakeResuming) and "resuming-reads" in self.breaks:
            return b"data"
        if not isinstance(session, FakeSaving):
            return bytes(self._real["read"](fd, size))
        if size == 0 and not session.ended and "empty-read-takes" not in self.breaks:
            return b""
        sleeps = os.get_blocking(fd)
        while (got := self._said(session, size or 1)) is End.NOT_YET and sleeps:
            pass
        if isinstance(got, bytes):
            return got if size else b""
        if got is End.FINAL:
            return b""
        number = errno.EAGAIN if got is End.NOT_YET else errno.ENOMSG
        if number == errno.ENOMSG and sleeps and "read-sleeps" in self.breaks:
            select.select([], [], [])
        raise OSError(number, os.strerror(number))

    @staticmethod
    def _said(session: FakeSaving, size: int) -> bytes | End:
        try:
            return session.read(size)
        except VfioError as error:
            raise OSError(error.errno, os.strerror(error.errno)) from None

    def _os_write(self, fd: int, data: bytes | memoryview) -> int:
        session = self.file(fd)
        if not isinstance(session, FakeResuming):
            return int(self._real["write"](fd, data))
        try:
            return session.write(data)
        except VfioError as error:
            number = error.errno
        except struct.error:
            session.failed = True
            number = errno.EINVAL
        raise OSError(number, os.strerror(number))

    def _os_writev(self, fd: int, pieces: list[bytes]) -> int:
        session = self.file(fd)
        if "writev-drops" in self.breaks and isinstance(session, FakeResuming) and session.offset:
            return sum(map(len, pieces))
        count = 0
        for piece in pieces:
            count += (taken := self._os_write(fd, piece))
            if taken < len(piece):
                break
        return count

    def events(self, fd: int, patient: bool) -> int:
        """Return what poll() says of a data file; ``patient`` lets a SAVE end."""
        session = self.file(fd)
        assert isinstance(session, FakeSaving)
        for _ in range(session.device.save_calls + 1 if patient else 1):
            if session.ended:
                return READABLE | select.POLLRDHUP
            over = session.device.current is State.STOP_COPY and session.flight is None
            if session.ready or over:
                return READABLE
            if patient and "poll-stays-silent" not in self.breaks:
                session._pass()
        return READABLE if "poll-lies" in self.breaks else 0

    def copy_from(self, address: int, size: int) -> bytes:
        """Return what is at ``address``, as far as the kernel can read it; OSError (EFAULT)."""
        with self._copying() as (reading, writing):
            if size and self._libc.write(writing, address, size) != size:
                raise OSError(errno.EFAULT, "bad address")
            return bytes(self._real["read"](reading, size)) if size else b""

    def copy_to(self, address: int, data: bytes) -> None:
        """Write ``data`` at ``address`` if the kernel can; OSError (EFAULT) if not."""
        with self._copying() as (reading, writing):
            for start in range(0, len(data), 4096):
                part = data[start : start + 4096]
                self._real["write"](writing, part)
                if self._libc.read(reading, address + start, len(part)) != len(part):
                    raise OSError(errno.EFAULT, "bad address")

    @contextlib.contextmanager
    def _copying(self) -> Iterator[tuple[int, int]]:
        """Yield a pipe that the kernel copies by; one for each process, empty when it is given."""
        with self._lock:
            if os.getpid() not in self._pipes:
                self._pipes[os.getpid()] = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            ends = self._pipes[os.getpid()]
            try:
                yield ends
            finally:
                with contextlib.suppress(BlockingIOError):
                    self._real["read"](ends[0], 1 << 16)


class FakePoll:
    """What select.poll() returns: of a data file the driver tells, of others the kernel."""

    def __init__(self, driver: FakeDriver, real: Any) -> None:
        self._driver, self._real = driver, real
        self._fds: list[int] = []

    def register(self, fd: int, events: int) -> None:
        self._fds.append(fd)
        self._real.register(fd, events)

    def poll(self, timeout_ms: float) -> list[tuple[int, int]]:
        of = self._driver.file(self._fds[0]) if self._fds else None
        if not isinstance(of, FakeSaving):
            return [(fd, select.POLLERR) for fd in self._fds]
        found = [(fd, self._driver.events(fd, timeout_ms > 0)) for fd in self._fds]
        return [(fd, events) for fd, events in found if events]
