# SPDX-License-Identifier: GPL-2.0-or-later
"""Two hosts' recordings of one migration: its downtime from end to end, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from genbindings.errors import Error
from mlxtrace import join_clocks, join_sessions, output
from mlxtrace.events import Lost
from mlxtrace.join_clocks import Bound, HostClock, Offset

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlxtrace.events import Event
    from mlxtrace.join_sessions import Host, Start, Stop, Stream
    from mlxtrace.replay import Replay

SAME, DIFFERS = "same", "differs"
SAME_BOOT, REALTIME, STREAM = "boot", "realtime", "stream"


@dataclass(frozen=True, slots=True)
class Side:
    """One recording, read.

    Attributes:
        path: the file.
        name: the host's.
        clock: its clocks.
        host: its streams.
        complete: whether nothing of it is lost, cut or damaged.
    """

    path: Path
    name: str
    clock: HostClock
    host: Host
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Downtime:
    """The attributes are the keys of docs/events.md, "downtime"."""

    bdf: str
    boot_ns: int
    host: str
    target_bdf: str
    target_host: str
    session: int
    target_session: int
    stream_bytes: int
    images: int
    content: str
    clock: str
    downtime_ns: int
    at_least_ns: int
    at_most_ns: int | None
    downtime_quiesce_ns: int
    downtime_stop_ns: int
    downtime_final_ns: int
    downtime_transfer_ns: int
    downtime_load_ns: int
    downtime_start_ns: int
    final_bytes: int
    save_fw_ns: int
    load_fw_ns: int
    source_held_ns: int | None
    clock_offset_ns: int
    realtime_offset_ns: int | None
    realtime_error_ns: int | None
    stream_offset_ns: int
    stream_proof: str
    contradiction_ns: int

    def to_json(self) -> dict[str, Any]:
        """Return the keys of the JSON line, ``type`` first."""
        return {"type": "downtime", **{f.name: getattr(self, f.name) for f in fields(self)}}


def read_side(replay: Replay) -> Side:
    """Read a recording from start to end."""
    told: list[bool] = []

    def events() -> Iterator[Event]:
        for batch in replay.batches():
            for event in batch:
                if isinstance(event, Lost) and event.at_end:
                    told.append(output.is_complete(event))
                yield event

    host = join_sessions.collect(events())
    return Side(
        replay.path,
        replay.meta.host,
        HostClock.of(replay.header, replay.clocks),
        host,
        any(told) and not replay.warnings,
    )


def join(source: Side, target: Side) -> list[Downtime]:
    """Return the downtimes of all migrations from ``source`` to ``target``, in order.

    Raises:
        Error: there is none: two sources, nothing in common, other bytes written than read.
    """
    reads, writes = source.host.reads, target.host.writes
    _require(source, target)
    pairs = list(_pairs(source, target))
    if not pairs:
        raise _nothing_in_common(source, target, reads, writes)
    found: list[Downtime] = []
    problem: Error | None = None
    for read, written in pairs:
        stop = join_sessions.stop_of(source.host, read)
        start = join_sessions.start_of(target.host, written)
        if stop is None:
            problem = Error(
                f"{source.path} does not tell when {read.bdf} stopped: tracing began too late"
            )
        elif start is None:
            problem = Error(
                f"{target.path} does not tell when {written.bdf} ran: it was loaded, but tracing "
                "ended too early, or it never ran"
            )
        else:
            found.append(_downtime(source, target, read, written, stop, start))
    if not found and problem is not None:
        raise problem
    return found


def _require(source: Side, target: Side) -> None:
    """See that one is a source's recording and the other a target's.

    Raises:
        Error: they are not.
    """
    if source.host.reads and target.host.writes:
        return
    if source.host.writes and target.host.reads:
        raise Error(
            f"{source.path} is the target's recording, and {target.path} the source's",
            "the source comes first: mlxtrace report SRC DST",
        )
    for side, other, has, kind in (
        (source, target, source.host.reads and target.host.reads, "a source"),
        (source, target, source.host.writes and target.host.writes, "a target"),
    ):
        if has:
            raise Error(
                f"{side.path} and {other.path} are both recordings of {kind}: "
                "nothing went from one to the other"
            )
    empty = source if not source.host.reads else target
    what = "was read" if empty is source else "was written"
    raise Error(f"no migration in common: {empty.path} has no stream that {what}")


def _pairs(source: Side, target: Side) -> Iterator[tuple[Stream, Stream]]:
    """Yield the streams that are the same on both sides: as many bytes, and the same images.

    Where several are alike, as of an idle VF that goes to and fro, the nearest in time counts.
    """
    free = list(target.host.writes)
    for read in source.host.reads:
        alike = [written for written in free if _alike(read, written)]
        if source.path == target.path:
            alike = [written for written in alike if written.bdf != read.bdf]
        if not alike:
            continue
        ended = source.clock.realtime(read.end_ns)
        nearest = min(alike, key=lambda w: abs(target.clock.realtime(w.end_ns) - ended))
        free.remove(nearest)
        yield read, nearest


def _alike(read: Stream, written: Stream) -> bool:
    known = None not in read.images and None not in written.images
    return read.size == written.size and not (
        known and read.images and written.images and read.images != written.images
    )


def _nothing_in_common(
    source: Side, target: Side, reads: list[Stream], writes: list[Stream]
) -> Error:
    if len(reads) == len(writes) == 1:
        read, written = reads[0], writes[0]
        if read.size != written.size:
            late = 0 in (read.session, written.session)
            return Error(
                f"{read.size} bytes were read of {read.bdf} on {source.name}, but "
                f"{written.size} written to {written.bdf} on {target.name}",
                "one of the recordings began or ended in the middle of the migration"
                if late or not (source.complete and target.complete)
                else "this is not one migration, or its stream was cut or changed on the way",
            )
    return Error(
        f"no migration in common: {source.path} has {_sizes(reads)}, {target.path} has "
        f"{_sizes(writes)}",
        "a migration is known by the number of bytes, and by the sizes of its images",
    )


def _sizes(streams: list[Stream]) -> str:
    shown = ", ".join(f"{stream.size}" for stream in streams[:3])
    rest = f" and {len(streams) - 3} more" if len(streams) > 3 else ""
    return f"stream{'' if len(streams) == 1 else 's'} of {shown}{rest} bytes"


def _content(read: Stream, written: Stream) -> str:
    """Tell whether what was written is what was read; "" where that is not known."""
    sums = (read.content, written.content)
    if any(each is None or each.missed_samples for each in sums):
        return ""
    return SAME if read.content == written.content else DIFFERS


def _downtime(
    source: Side, target: Side, read: Stream, written: Stream, stop: Stop, start: Start
) -> Downtime:
    same = source.path == target.path or join_clocks.same_boot(source.clock, target.clock)
    clocks = Offset(0, 0)
    if not same:
        clocks = join_clocks.by_clocks(source.clock, target.clock, read.end_ns, start.running)
    bound = join_clocks.by_stream(read, written, stop, start)
    offset, least, most = (0, 0, 0) if same else _chosen(clocks, bound)
    contradiction = 0
    if not same:
        contradiction = max(0, clocks.offset_ns - (clocks.error_ns or 0) - bound.offset_ns)
    total = start.running - offset - stop.begin
    return Downtime(
        bdf=read.bdf,
        boot_ns=stop.begin,
        host=source.name,
        target_bdf=written.bdf,
        target_host=target.name,
        session=read.session,
        target_session=written.session,
        stream_bytes=read.size,
        images=len(read.images),
        content=_content(read, written),
        clock=SAME_BOOT if same else REALTIME if offset == clocks.offset_ns else STREAM,
        downtime_ns=total,
        at_least_ns=total - (most - offset),
        at_most_ns=None if least is None else total + (offset - least),
        downtime_quiesce_ns=stop.stopping - stop.begin,
        downtime_stop_ns=stop.stopped - stop.stopping,
        downtime_final_ns=read.end_ns - stop.stopped,
        downtime_transfer_ns=start.loaded - offset - read.end_ns,
        downtime_load_ns=start.starting - start.loaded,
        downtime_start_ns=start.running - start.starting,
        final_bytes=read.bytes_after(stop.stopped),
        save_fw_ns=read.firmware_after(stop.begin),
        load_fw_ns=written.firmware_after(stop.begin + offset),
        source_held_ns=None if stop.left is None else stop.left - stop.begin,
        clock_offset_ns=offset,
        realtime_offset_ns=None if same else clocks.offset_ns,
        realtime_error_ns=None if same else clocks.error_ns,
        stream_offset_ns=bound.offset_ns,
        stream_proof=bound.proof,
        contradiction_ns=contradiction,
    )


def _chosen(clocks: Offset, bound: Bound) -> tuple[int, int | None, int]:
    """Return the offset to use, and the least (None: unknown) and the most that it can be.

    The clocks are used as far as the stream allows. Where it contradicts them it is right, and
    what it allows at most is the best that is known.
    """
    error = clocks.error_ns
    if clocks.offset_ns - (error or 0) > bound.offset_ns:
        return bound.offset_ns, None, bound.offset_ns
    offset = min(clocks.offset_ns, bound.offset_ns)
    if error is None:
        return offset, None, bound.offset_ns
    return offset, clocks.offset_ns - error, min(clocks.offset_ns + error, bound.offset_ns)
