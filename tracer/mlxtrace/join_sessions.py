# SPDX-License-Identifier: GPL-2.0-or-later
"""What of one host's events it takes to join them with another's: streams, and the arcs around."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mlxtrace.content import ContentSum
from mlxtrace.events import Content, End, Event, Load, Lost, Read, Save, State

if TYPE_CHECKING:
    from collections.abc import Iterable

_RUNNING = ("RUNNING", "PRE_COPY")
_QUIESCED = ("RUNNING_P2P", "PRE_COPY_P2P")


class Part(NamedTuple):
    """A part of a stream that went through one or more calls.

    Attributes:
        begin, end: its offsets in the stream in bytes; ``end`` is the first one after it.
        first_ns: boot_ns when the first of the calls began.
        last_ns: boot_ns when the last of them returned.
    """

    begin: int
    end: int
    first_ns: int
    last_ns: int


@dataclass(slots=True)
class Stream:
    """One session's stream on one side.

    Attributes:
        bdf: the VF.
        session: its n-th migration in the recording; 0 began before tracing did.
        parts: what was read or written, in order.
        images: sizes in bytes of what was saved or loaded; None where one is not known.
        firmware: end and duration in ns of the SAVEs or LOADs.
        end_ns: boot_ns of the end of the stream; of the last data where no end was read.
        content: the sum of its content; None if none was taken.
    """

    bdf: str
    session: int
    parts: list[Part] = field(default_factory=list)
    images: list[int | None] = field(default_factory=list)
    firmware: list[tuple[int, int]] = field(default_factory=list)
    final_end_ns: int | None = None
    content: ContentSum | None = None

    def add_content(self, event: Content) -> None:
        """Take a sum of its content into account."""
        self.content = self.content or ContentSum()
        self.content.add(event.content_sum, event.samples, event.missed_samples)

    @property
    def size(self) -> int:
        """Bytes of the stream."""
        return self.parts[-1].end

    @property
    def end_ns(self) -> int:
        """When the stream was over."""
        return self.parts[-1].last_ns if self.final_end_ns is None else self.final_end_ns

    def bytes_after(self, boot_ns: int) -> int:
        """Bytes of the parts that were not over at ``boot_ns``."""
        return sum(part.end - part.begin for part in self.parts if part.last_ns > boot_ns)

    def firmware_after(self, boot_ns: int) -> int:
        """Time in ns that SAVEs or LOADs took after ``boot_ns``."""
        return sum(min(took, end - boot_ns) for end, took in self.firmware if end > boot_ns)


@dataclass(slots=True)
class Host:
    """One recording's streams and arcs.

    Attributes:
        reads, writes: the streams of the sources and the targets on it, in order.
        arcs: all arcs that succeeded, by VF.
    """

    reads: list[Stream] = field(default_factory=list)
    writes: list[Stream] = field(default_factory=list)
    arcs: dict[str, list[State]] = field(default_factory=dict)


class Stop(NamedTuple):
    """How a source stopped, in boot_ns.

    Attributes:
        begin: the arc that quiesces it begins.
        stopping: the arc that stops it begins.
        stopped: it is in STOP_COPY.
        left: the arc out of STOP_COPY begins; None if that was not seen.
    """

    begin: int
    stopping: int
    stopped: int
    left: int | None


class Start(NamedTuple):
    """How a target started, in boot_ns.

    Attributes:
        loaded: the arc out of RESUMING begins.
        starting: the next arc begins.
        running: it is in RUNNING.
    """

    loaded: int
    starting: int
    running: int


def collect(events: Iterable[Event]) -> Host:
    """Return what ``events`` tell of the streams on a host. VFs without a name are left out."""
    host = Host()
    streams: dict[tuple[str, int, str], Stream] = {}

    def stream(event: Read | End | Save | Load | Content, direction: str) -> Stream:
        assert event.bdf is not None
        key = (event.bdf, event.session, direction)
        return streams.setdefault(key, Stream(event.bdf, event.session))

    lossless = True
    for event in events:
        if isinstance(event, Lost):
            lossless = lossless and event.lost_records == 0
        if event.bdf is None:
            continue
        match event:
            case State() if event.is_walked:
                host.arcs.setdefault(event.bdf, []).append(event)
            case Read():
                parts = stream(event, event.direction).parts
                begin = parts[-1].end if parts else 0
                end = begin + event.bytes
                parts.append(Part(begin, end, event.first_boot_ns, event.last_boot_ns))
            case Content():
                stream(event, event.direction).add_content(event)
            case End() if event.kind == "final":
                final = stream(event, event.direction)
                final.final_end_ns = final.final_end_ns or event.boot_ns
            case Save() if event.kind != "cleanup" and not (
                event.status or event.errno or event.in_flight
            ):
                stream(event, "read").images.append(event.image_bytes)
                took = event.fw_ns if event.fw_ns is not None else event.fw_max_ns
                stream(event, "read").firmware.append((event.boot_ns, took or 0))
            case Load() if not event.status and not event.errno:
                stream(event, "write").images.append(event.image_bytes)
                stream(event, "write").firmware.append((event.boot_ns, event.fw_ns))
    for (_, _, direction), found in streams.items():
        if found.parts:
            if not lossless:
                found.parts = _widened(found.parts)
            (host.reads if direction == "read" else host.writes).append(found)
    return host


def _widened(parts: list[Part]) -> list[Part]:
    """Begin each part when the one before was over.

    A lost record leaves its calls to the next one, which does not know when they began.
    """
    before = [0, *(part.last_ns for part in parts)]
    return [part._replace(first_ns=then) for part, then in zip(parts, before, strict=False)]


def stop_of(host: Host, stream: Stream) -> Stop | None:
    """Return how the source of ``stream`` stopped; None if it was not seen to."""
    arcs = host.arcs.get(stream.bdf, [])
    last = None
    for number, arc in enumerate(arcs):
        if arc.session == stream.session and arc.new_state == "STOP_COPY":
            last = number
    if last is None:
        return None
    # Without PRE_COPY the session begins in STOP, and what led there belongs to it all the same.
    first = last
    while first > 0 and arcs[first].old_state not in _RUNNING:
        if arcs[first - 1].new_state != arcs[first].old_state:
            return None
        first -= 1
    chain = arcs[first : last + 1]
    if chain[0].old_state not in _RUNNING:
        return None
    stopping = next((arc for arc in chain if arc.new_state not in _QUIESCED), chain[-1])
    after = arcs[last + 1] if last + 1 < len(arcs) else None
    return Stop(
        begin=chain[0].start_boot_ns,
        stopping=stopping.start_boot_ns,
        stopped=chain[-1].boot_ns,
        left=after.start_boot_ns if after else None,
    )


def start_of(host: Host, stream: Stream) -> Start | None:
    """Return how the target of ``stream`` started; None if it was not seen to."""
    arcs = [arc for arc in host.arcs.get(stream.bdf, []) if arc.session == stream.session]
    loaded = next((n for n, arc in enumerate(arcs) if arc.old_state == "RESUMING"), None)
    if loaded is None:
        return None
    for arc in arcs[loaded:]:
        if arc.new_state == "RUNNING":
            following = arcs[loaded + 1] if arc is not arcs[loaded] else arc
            return Start(arcs[loaded].start_boot_ns, following.start_boot_ns, arc.boot_ns)
    return None
