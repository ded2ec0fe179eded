# SPDX-License-Identifier: GPL-2.0-or-later
"""A model of a VF under mlx5-vfio-pci, with faults: what the migration engine is tested against.

It keeps the uAPI's state table, makes real images (tracked, numbered, with a CRC), and refuses
what a firmware would refuse. Time is counted in calls: a SAVE takes ``save_calls`` of them.
"""

from __future__ import annotations

import errno
import hashlib
import struct
import zlib
from collections import deque

from mlxtrace.stream import FLAG_OPTIONAL, HEADER, Tag
from mlxtrace.vfio import End, MigrationFlags, PrecopyInfo, State, VfioError

from .fake_faults import Faults

ALL_FLAGS = MigrationFlags.STOP_COPY | MigrationFlags.P2P | MigrationFlags.PRE_COPY
BLOCK = 64
IMAGE = struct.Struct("<8sIIII")
"""Magic, session, number in it (a full image is 0), blocks, CRC of the blocks."""

S, R, SC, RS = State.STOP, State.RUNNING, State.STOP_COPY, State.RESUMING
Rp, P, Pp = State.RUNNING_P2P, State.PRE_COPY, State.PRE_COPY_P2P
ORDER = (R, Rp, S, SC, RS, P, Pp)

# The table of include/uapi/linux/vfio.h with all optional states: a row for each start, a column
# for each aim (in ORDER), the states visited after the start.
TABLE: dict[State, tuple[tuple[State, ...], ...]] = {
    R: ((), (Rp,), (Rp, S), (Rp, S, SC), (Rp, S, RS), (P,), (Rp, Pp)),
    Rp: ((R,), (), (S,), (S, SC), (S, RS), (R, P), (Pp,)),
    S: ((Rp, R), (Rp,), (), (SC,), (RS,), (Rp, R, P), (Rp, Pp)),
    SC: ((S, Rp, R), (S, Rp), (S,), (), (S, RS), (State.ERROR,), (State.ERROR,)),
    RS: ((S, Rp, R), (S, Rp), (S,), (S, SC), (), (S, Rp, R, P), (S, Rp, Pp)),
    P: ((R,), (R, Rp), (R, Rp, S), (Pp, SC), (R, Rp, S, RS), (), (Pp,)),
    Pp: ((Rp, R), (Rp,), (Rp, S), (SC,), (Rp, S, RS), (P,), ()),
}
OPTIONAL = {Rp: MigrationFlags.P2P, P: MigrationFlags.PRE_COPY, Pp: ALL_FLAGS}


class FakeDevice:
    """A VF. ``log`` holds the states it went through."""

    def __init__(
        self,
        name: str,
        *,
        blocks: int = 64,
        dirty: int = 4,
        flags: MigrationFlags = ALL_FLAGS,
        driver: str = "mlx5_vfio_pci",
        save_calls: int = 2,
        faults: Faults | None = None,
    ) -> None:
        self.name = name
        self.driver = driver
        self.ids = {"vendor": "0x15b3", "device": "0x101e"}
        self.flags = flags
        self.faults = faults or Faults()
        self.dirty = dirty
        self.save_calls = save_calls
        self.memory = [hashlib.sha512(f"{name} {i}".encode()).digest() for i in range(blocks)]
        self.current = State.RUNNING
        self.log: list[State] = [State.RUNNING]
        self.changed: set[int] = set()
        self.saving: FakeSaving | None = None
        self.resuming: FakeResuming | None = None
        self.resets = 0
        self.sessions = 0
        self.closed = False
        self._steps = 0

    @property
    def framed(self) -> bool:
        """Whether the stream has records."""
        return self.driver == "mlx5_vfio_pci" and MigrationFlags.PRE_COPY in self.flags

    def __enter__(self) -> FakeDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def hash(self) -> str:
        """Return a hash of the state."""
        return hashlib.sha256(b"".join(self.memory)).hexdigest()[:16]

    def tick(self) -> None:
        """Let time pass: a running device changes some blocks."""
        if self.current not in (R, Rp, P, Pp):
            return
        for _ in range(self.dirty):
            self._steps += 1
            index = self._steps * 7919 % len(self.memory)
            self.memory[index] = hashlib.sha512(self.memory[index]).digest()
            self.changed.add(index)

    def fail(self, asked: str, number: int) -> VfioError:
        """Return the error that a real device would raise."""
        return VfioError(self.name, asked, number)

    def migration_flags(self) -> MigrationFlags:
        return self.flags

    def require_migration(self) -> MigrationFlags:
        return self.flags

    def state(self) -> State:
        return self.current

    def stop_copy_bytes(self) -> int:
        return len(self.memory) * BLOCK

    def reset(self) -> None:
        if self.faults.reset_error:
            raise self.fail("VFIO_DEVICE_RESET", self.faults.reset_error)
        self.resets += 1
        self._end_sessions()
        self.memory = [bytes(BLOCK)] * len(self.memory)
        self._enter(R)

    def set_state(self, state: State) -> None:
        file = self._change(state)
        # After a reset the way to a state leads through others, and may begin a session.
        assert not file or self.resets, "a data file came that nobody asked for"

    def save(self, state: State) -> FakeSaving:
        assert self._change(state) == "saving"
        assert self.saving is not None
        return self.saving

    def resume(self) -> FakeResuming:
        assert self._change(RS) == "resuming"
        assert self.resuming is not None
        return self.resuming

    def _change(self, aim: State) -> str:
        """Go to ``aim`` and return which data file came of the last step, if any."""
        asked = f"setting state {aim.name}"
        if self.current is State.ERROR or not self._supported(aim):
            raise self.fail(asked, errno.EINVAL)
        file = ""
        for step in TABLE[self.current][ORDER.index(aim)]:
            if step is State.ERROR:
                raise self.fail(asked, errno.EINVAL)
            if not self._supported(step):
                continue
            errors = self.faults.state_errors.get(step, [])
            if errors and (number := errors.pop(0)):
                if self.faults.enter_error:
                    self._enter(State.ERROR)
                raise self.fail(asked, number)
            file = self._arc(step)
            self._enter(step)
        return file

    def _supported(self, state: State) -> bool:
        return OPTIONAL.get(state, MigrationFlags(0)) in self.flags

    def _arc(self, step: State) -> str:
        before = self.current
        if step in (P, Pp) and before in (R, Rp):
            self.saving = FakeSaving(self)
            self.saving.announce_stop_copy_size()
            self.saving.start(full=True, track=True)
            return "saving"
        if step is SC and before is S:
            self.saving = FakeSaving(self)
            self.saving.start(full=True, track=False)
            return "saving"
        if step is SC:
            assert self.saving is not None
            self.saving.start(full=self.saving.failed, track=False)
        elif step is RS:
            self.resuming = FakeResuming(self)
            return "resuming"
        elif step in (R, Rp, S) and before in (P, Pp, SC, RS):
            self._end_sessions()
        return ""

    def _enter(self, state: State) -> None:
        self.current = state
        self.log.append(state)

    def _end_sessions(self) -> None:
        for session in (self.saving, self.resuming):
            if session is not None:
                session.ended = True
        self.saving = self.resuming = None


class FakeSaving:
    """The saving data file."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        device.sessions += 1
        self.session = zlib.crc32(f"{device.name} {device.sessions}".encode())
        self.ready: deque[bytes] = deque()
        self.flight: bytes | None = None
        self.left = 0
        self.images = 0
        self.made: list[int] = []
        """Sizes of the images made, headers left out."""
        self.offset = 0
        self.initial_bytes = 0
        self.infos = 0
        self.ended = False
        self.closed = False
        self.failed = False
        self.complete = False

    def __enter__(self) -> FakeSaving:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def announce_stop_copy_size(self) -> None:
        if self.device.framed:
            size = struct.pack("<Q", self.device.stop_copy_bytes())
            self.ready.append(HEADER.pack(8, FLAG_OPTIONAL, Tag.STOP_COPY_SIZE) + size)
            self.initial_bytes += HEADER.size + 8

    def start(self, *, full: bool, track: bool) -> None:
        """Begin a SAVE."""
        device = self.device
        while self.flight is not None:  # one at a time: the driver waits
            self._pass()
        blocks = range(len(device.memory)) if full else sorted(device.changed)
        body = b"".join(struct.pack("<I", i) + device.memory[i] for i in blocks)
        number = 0 if full else self.images
        image = IMAGE.pack(b"FAKEIMAG", self.session, number, len(body), zlib.crc32(body)) + body
        device.changed.clear()
        self.images += 1
        self.made.append(len(image))
        header = HEADER.pack(len(image), 0, Tag.FW_DATA) if device.framed else b""
        if device.faults.truncated_final and not track:
            image = image[:-1]
        self.flight = header + image
        self.left = device.save_calls
        if self.images == 1 and track:
            self.initial_bytes += len(self.flight)

    def read(self, max_bytes: int) -> bytes | End:
        assert not self.closed
        device, faults = self.device, self.device.faults
        device.tick()
        if self.ended or (faults.read_error_at is not None and self.offset >= faults.read_error_at):
            raise device.fail("reading migration data", errno.ENODEV)
        if not self.ready:
            return self._end()
        head = self.ready.popleft()
        limit = min(max_bytes, faults.short_read)
        if faults.read_error_at is not None:
            limit = min(limit, faults.read_error_at - self.offset)
        if rest := head[limit:]:
            self.ready.appendleft(rest)
        self.offset += len(head[:limit])
        return head[:limit]

    def _end(self) -> End:
        faults = self.device.faults
        in_flight = self.flight is not None
        if self.device.current is SC:
            if faults.enomsg_in_stop_copy:
                return End.TEMPORARY
            if in_flight and not faults.false_end:
                self._pass()
                return End.NOT_YET
            return End.FINAL
        if in_flight and (self.images == 1 or not faults.transient_enomsg):
            self._pass()
            return End.NOT_YET
        return End.FINAL if faults.zero_at_temporary_end else End.TEMPORARY

    def wait(self, timeout_s: float) -> bool:
        assert timeout_s > 0
        assert not self.closed
        self.device.tick()
        if not (self.device.faults.announces_nothing_comes and self.images > 1):
            self._pass()
        return self.device.faults.poll_always_ready or bool(self.ready)

    def precopy_info(self) -> PrecopyInfo:
        device = self.device
        self.infos += 1
        if device.faults.info_error:
            raise device.fail("VFIO_MIG_GET_PRECOPY_INFO", device.faults.info_error)
        if self.ended:
            raise device.fail("VFIO_MIG_GET_PRECOPY_INFO", errno.ENODEV)
        assert device.current in (P, Pp), "the question is for PRE_COPY only"
        if self.failed:
            return PrecopyInfo(0, 0)
        if device.current is P and not device.faults.announces_nothing_comes:
            while self.flight is not None:
                self._pass()
        if device.faults.announces_nothing_comes and self.flight is not None:
            return PrecopyInfo(0, self.made[-1])
        unread = sum(map(len, self.ready))
        initial = max(0, self.initial_bytes - self.offset)
        if initial:
            return PrecopyInfo(initial, 0)
        if unread or device.current is Pp or not device.changed:
            return PrecopyInfo(0, unread)
        if device.faults.precopy_error:
            self.failed = True
            return PrecopyInfo(0, 0)
        self.start(full=False, track=True)
        if device.faults.state_grew:
            self.failed, self.flight = True, None
            self.images -= 1
            return PrecopyInfo(0, self.made.pop())
        return PrecopyInfo(0, self.made[-1])

    def _pass(self) -> None:
        """Let a SAVE in flight make progress."""
        if self.flight is not None:
            self.left -= 1
            if self.left <= 0:
                self.ready.append(self.flight)
                self.flight = None

    def close(self) -> None:
        self.closed = True


class FakeResuming:
    """The resuming data file: LOADs what it gets, image by image."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.buffer = bytearray()
        self.offset = 0
        self.next_number = 0
        self.session = 0
        self.failed = False
        self.ended = False
        self.closed = False

    def __enter__(self) -> FakeResuming:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, data: bytes | memoryview) -> int:
        assert not self.closed
        device = self.device
        if self.failed or self.ended:
            raise device.fail("writing migration data", errno.ENODEV)
        taken = bytes(data[: device.faults.short_write])
        at = device.faults.write_error_at
        if at is not None and self.offset + len(taken) > at:
            raise self._refuse(errno.EIO)
        self.buffer += taken
        self.offset += len(taken)
        while self._load():
            pass
        return len(taken)

    def write_all(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[self.write(view) :]

    def _load(self) -> bool:
        size, tag, start = len(self.buffer), int(Tag.FW_DATA), 0
        if self.device.framed:
            if len(self.buffer) < HEADER.size:
                return False
            size, flags, tag = HEADER.unpack_from(self.buffer)
            start = HEADER.size
            if tag > Tag.STOP_COPY_SIZE and not flags & FLAG_OPTIONAL:
                raise self._refuse(errno.EOPNOTSUPP)
            if size >= 1 << 32:
                raise self._refuse(errno.ENOMEM)
        elif len(self.buffer) < IMAGE.size:
            return False
        else:
            size = IMAGE.size + IMAGE.unpack_from(self.buffer)[3]
        if len(self.buffer) < start + size:
            return False
        record = bytes(self.buffer[start : start + size])
        del self.buffer[: start + size]
        if tag == Tag.FW_DATA:
            self._load_image(record)
        return True

    def _load_image(self, image: bytes) -> None:
        magic, session, number, length, crc = IMAGE.unpack_from(image)
        body = image[IMAGE.size :]
        good = magic == b"FAKEIMAG" and length == len(body) and crc == zlib.crc32(body)
        if self.device.faults.corrupts_silently:
            self.device.memory[0] = bytes(BLOCK)
            return
        if number == 0:
            self.session = session
        if not good or number not in (0, self.next_number) or session != self.session:
            raise self._refuse(errno.EINVAL)
        self.next_number += 1
        step = 4 + BLOCK
        for at in range(0, len(body), step):
            index = struct.unpack_from("<I", body, at)[0]
            self.device.memory[index] = body[at + 4 : at + step]

    def _refuse(self, number: int) -> VfioError:
        self.failed = True
        return self.device.fail("writing migration data", number)

    def close(self) -> None:
        self.closed = True
