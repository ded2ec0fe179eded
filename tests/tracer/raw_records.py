# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw records as the BPF program makes them: a clock that goes on by 1 us, and one VF's calls."""

from __future__ import annotations

import errno
from typing import TypeVar

from mlxtrace import flows, records
from mlxtrace.counters import Counters
from mlxtrace.decoder import Decoder
from mlxtrace.events import Event
from mlxtrace.mailbox import STATES, Opcode
from mlxtrace.records import FLAG_POSITION, Kind, Raw

STEP_NS = 1000
SomeEvent = TypeVar("SomeEvent", bound=Event)
# The arcs that open a data file.
_STREAMS = (("RUNNING", "PRE_COPY"), ("STOP", "STOP_COPY"), ("STOP", "RESUMING"))


class Clock:
    """The boot clock that all VFs of a trace share."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def tick(self) -> int:
        """Go on by one step; return the time."""
        self.now += STEP_NS
        return self.now


class Vf:
    """Makes one VF's records, in order, into ``out``."""

    def __init__(
        self, clock: Clock, bdf: str, vdev: int, out: list[bytes], tenant: int = 0
    ) -> None:
        self.clock = clock
        self.vdev = vdev
        self.work = vdev + 408
        self.out = out
        self.flows = {Kind.READ: [0] * 9, Kind.WRITE: [0] * 9}
        self.positions = {Kind.READ: 0, Kind.WRITE: 0}
        self.last_errno = 0
        self.last_issue = 0
        self.buffer = 0
        self.put(Kind.DEVICE, *records.name_values(bdf, tenant))

    def put(self, kind: Kind, *value: int, result: int = 0, flags: int = 0, tid: int = 8124) -> int:
        """Add a record; return its time."""
        now = self.clock.tick()
        raw = Raw(now, self.vdev, 8123, tid, kind, flags, result, b"qemu-kvm", value)
        self.out.append(records.pack(raw))
        return now

    def arc(self, old: str, new: str, asked: str = "") -> None:
        """The state machine goes from ``old`` to ``new`` on the way to ``asked``."""
        at = self.clock.now
        asked = asked or new
        self.put(Kind.STEP, *map(STATES.index, (old, asked, new)), at)
        if (old, new) in _STREAMS:
            self.positions = dict.fromkeys(self.positions, 0)

    def set_state(self, asked: str, result: int = 0) -> None:
        """A SET_STATE returns."""
        self.put(Kind.SET_STATE, STATES.index(asked), self.clock.now, 0, result=result)

    def go(self, old: str, new: str) -> None:
        """A SET_STATE of one arc."""
        self.arc(old, new)
        self.set_state(new)

    def command(self, opcode: int, *, op_mod: int = 0, size: int = 0, **out: int) -> None:
        """A command returns; ``out``: status, syndrome, query, remaining, flags, result."""
        start = self.clock.now
        self.put(
            Kind.COMMAND,
            start,
            opcode,
            op_mod,
            out.get("flags", 0),
            size,
            out.get("status", 0),
            out.get("syndrome", 0),
            out.get("query", 0),
            out.get("remaining", 0),
            7,
            result=out.get("result", 0),
        )

    def query(self, size: int) -> None:
        """A QUERY answers ``size``."""
        self.command(Opcode.QUERY_VHCA_MIGRATION_STATE, query=size, flags=0x80)

    def issue(self, flags: int, size: int = 4096, state: str = "RUNNING") -> int:
        """A SAVE is issued; return the time."""
        entered = self.clock.now - 200
        value = (self.work, size, 0x1100, flags, entered, 7, STATES.index(state), self.buffer)
        self.last_issue = self.put(Kind.SAVE_ISSUE, *value)
        return self.last_issue

    def done(self, size: int, status: int = 0, syndrome: int = 0, result: int = 0) -> None:
        """Its callback runs."""
        result = result or (-errno.EREMOTEIO if status else 0)
        self.put(Kind.SAVE_DONE, self.work, 0, status, syndrome, size, 0, result=result)

    def save(self, flags: int, size: int) -> None:
        """A SAVE from issue to callback."""
        self.issue(flags)
        self.done(size)

    def ioctl(self, initial: int, dirty: int, result: int = 0) -> None:
        """A pre-copy ioctl returns."""
        self.put(Kind.IOCTL, 0x3B79, self.clock.now, initial, dirty, result=result)

    def taken(
        self,
        kind: Kind,
        state: str,
        *stack: str,
        saving: int = 0,
        resuming: int = 0,
        flags: int = 0,
        tid: int = 8124,
    ) -> int:
        """A RESET or SESSION_END, with the functions that led there; return its time."""
        for function in stack:
            self.put(Kind.FRAME, *records.frame_values(function), tid=tid)
        value = (STATES.index(state), saving, resuming)
        return self.put(kind, *value, flags=flags, tid=tid)

    def flow(self, kind: Kind, calls: int = 0, size: int = 0, **ends: int) -> None:
        """Data and ends come; a snapshot of the totals is made."""
        total = self.flows[kind]
        before = self.clock.now
        total[0] += calls
        total[1] += size
        total[2] += 100 * calls
        total[3], total[4] = before, before + 500
        for index, name in enumerate(("temporary", "final", "again", "errors"), 5):
            total[index] += ends.get(name, 0)
        self.last_errno = ends.get("errno", self.last_errno)
        self.positions[kind] += size
        value = (*total, self.positions[kind])
        self.put(kind, *value, result=-self.last_errno, flags=FLAG_POSITION)

    def crossed(self, kind: Kind, calls: int, size: int, **ends: int) -> None:
        """Two threads tell of the totals at once: the later total comes first."""
        self.flow(kind, calls, size, **ends)
        self.flow(kind, calls, size, **ends)
        self.out[-2:] = self.out[:-3:-1]

    def read(self, calls: int = 0, size: int = 0, **ends: int) -> None:
        """Reads of the stream."""
        self.flow(Kind.READ, calls, size, **ends)

    def flowing(self, kind: Kind, calls: int, size: int) -> None:
        """Data moves, and a look at the totals is all that tells of it so far."""
        total = self.flows[kind]
        total[0] += calls
        total[1] += size
        self.positions[kind] += size
        self.put(Kind.FLOWING, int(kind == Kind.WRITE), total[0], total[1])

    def drained(self, start: int, end: int, *, behind: int = 0, unseen: bool = False) -> None:
        """The image of the last SAVE was read to its end, 700 ns after the first read of it."""
        ready = 0 if unseen else self.clock.now - 500
        begun = self.clock.now + STEP_NS - 700
        self.put(Kind.DRAINED, self.last_issue, ready, begun, start, end, int(behind > 0), behind)

    def header(self, offset: int, size: int, tag: int = 0, flags: int = 0, word: int = 0) -> None:
        """A header comes by, with the 8 bytes after it."""
        self.put(Kind.HEADER, offset, size, flags | tag << 32, word, 24)

    def estimate(self, size: int, result: int = 0) -> None:
        """The driver says how much a stop-copy would be."""
        self.put(Kind.DATA_SIZE, self.clock.now, size, result=result)

    def alloc(self, buffer: int, size: int, result: int = 0) -> None:
        """A buffer with its memory key, into which the next SAVEs go."""
        start = self.clock.now
        self.put(Kind.MKEY, self.clock.now, buffer, result=result)
        given = (0, size, 0) if result else (buffer, size, size + 4095 & ~4095)
        self.put(Kind.BUFFER_ALLOC, start, *given, result=result)
        self.buffer = buffer

    def free(self, buffer: int, size: int) -> None:
        """A buffer is given back."""
        self.put(Kind.BUFFER_FREE, buffer, size)

    def histogram(self, direction: int, measure: int, counts: dict[int, int]) -> None:
        """The totals of a histogram, by the power of two, as the reader of the ring tells them."""
        totals = tuple(counts.get(power, 0) for power in range(records.BUCKETS))
        for record in flows.histogram_records(self.vdev, direction, measure, totals):
            raw = records.unpack(record)
            self.put(Kind.HISTOGRAM, *raw.value, flags=raw.flags)

    def content(self, direction: int, *totals: int) -> None:
        """What was summed up so far: the sum, of how many bytes, how many of them are missing."""
        self.put(Kind.CONTENT, direction, *totals)

    def write(self, calls: int = 0, size: int = 0, **ends: int) -> None:
        """Writes of the stream."""
        self.flow(Kind.WRITE, calls, size, **ends)


INITIAL, MIDDLE, FINAL, CLEANUP = 0x40, 0xC0, 0x80, 0x00


def source_migrates(vf: Vf) -> None:
    """Pre-copy of one initial (8192), two middle (523, 541) and one final image (257)."""
    vf.arc("RUNNING", "PRE_COPY")
    vf.query(8192)
    vf.alloc(0x5000, 9011)
    vf.issue(INITIAL, 9011)
    vf.set_state("PRE_COPY")
    vf.done(8192)
    vf.estimate(9011)
    vf.ioctl(8232, 0)
    vf.read(3, 8232, temporary=1)
    vf.drained(24, 8232)
    at = 8232
    for size in (523, 541):
        vf.query(size)
        vf.issue(MIDDLE, state="PRE_COPY")
        vf.ioctl(0, size)
        vf.done(size)
        vf.read(1, size + 16, temporary=1)
        vf.drained(at, at + size + 16)
        at += size + 16
    vf.go("PRE_COPY", "PRE_COPY_P2P")
    vf.arc("PRE_COPY_P2P", "STOP_COPY")
    vf.command(Opcode.SUSPEND_VHCA, op_mod=1)
    vf.query(257)
    vf.issue(FINAL, state="PRE_COPY_P2P")
    vf.set_state("STOP_COPY")
    vf.done(257)
    vf.read(1, 273, final=1)
    vf.drained(at, at + 273)
    vf.histogram(0, 0, {9: 2, 12: 4})
    vf.go("STOP_COPY", "STOP")


def target_loads(vf: Vf, sizes: tuple[int, ...] = (8192, 523, 541, 257)) -> None:
    """The target takes the images and runs."""
    vf.go("STOP", "RESUMING")
    vf.header(0, 8, tag=1, flags=1, word=9011)
    vf.write(1, 24)
    at = 24
    for size in sizes:
        vf.header(at, size)
        at += size + 16
        vf.command(Opcode.LOAD_VHCA_STATE, size=size)
        vf.write(1, size + 16)
    vf.go("RESUMING", "STOP")
    vf.arc("STOP", "RUNNING_P2P", "RUNNING")
    vf.arc("RUNNING_P2P", "RUNNING")
    vf.set_state("RUNNING")


def events(vf: Vf, kind: type[SomeEvent]) -> list[SomeEvent]:
    """Return the events of one kind that a VF's records decode to, with those of the end."""
    decoder = Decoder()
    found = list(decoder.feed(b"".join(vf.out)))
    found += decoder.finish(Counters())
    return [event for event in found if isinstance(event, kind)]
