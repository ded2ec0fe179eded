# SPDX-License-Identifier: GPL-2.0-or-later
"""How far one host's boot clock is ahead of another's: what their clocks say, what a stream proves.

An offset is the target's CLOCK_BOOTTIME minus the source's at the same moment, in ns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlxtrace.join_sessions import Start, Stop, Stream

Clock = dict[str, int]
"""Readings of one moment: boot_ns, monotonic_ns, realtime_ns."""


@dataclass(frozen=True, slots=True)
class HostClock:
    """One recording's relation of CLOCK_BOOTTIME to CLOCK_REALTIME.

    Attributes:
        readings: at the start of the recording and, where it has one, at its end.
        boot_id: of the boot; "" where the recording does not tell.
        error_ns: how far the kernel, by what NTP told it, allowed CLOCK_REALTIME to be off; None
            if it was not synchronised, or the recording does not tell.
    """

    readings: Sequence[Clock]
    boot_id: str
    error_ns: int | None

    @classmethod
    def of(cls, header: Mapping[str, object], readings: Sequence[Clock]) -> HostClock:
        """Return that of a recording with ``header``."""
        boot_id = header.get("boot_id")
        errors = [reading.get("realtime_error_ns") for reading in readings]
        known = [error for error in errors if error is not None]
        return cls(
            readings,
            boot_id if isinstance(boot_id, str) else "",
            max(known) if len(known) == len(errors) else None,
        )

    def realtime(self, boot_ns: int) -> int:
        """Return CLOCK_REALTIME at ``boot_ns``, between the readings and beyond them."""
        first, last = self.readings[0], self.readings[-1]
        offset, step = _ahead(first), _ahead(last) - _ahead(first)
        span = last["boot_ns"] - first["boot_ns"]
        if span > 0:
            inside = min(max(boot_ns - first["boot_ns"], 0), span)
            offset += step * inside // span
        return boot_ns + offset

    @property
    def step_ns(self) -> int:
        """How much CLOCK_REALTIME was moved against CLOCK_BOOTTIME during the recording."""
        return abs(_ahead(self.readings[-1]) - _ahead(self.readings[0]))


class Offset(NamedTuple):
    """An offset and how far it may be off, in ns; None if nobody knows."""

    offset_ns: int
    error_ns: int | None


class Bound(NamedTuple):
    """The most that the offset can be, in ns, and what proves it, for people."""

    offset_ns: int
    proof: str


def by_clocks(source: HostClock, target: HostClock, source_ns: int, target_ns: int) -> Offset:
    """Return the offset by the hosts' clocks about ``source_ns`` and ``target_ns`` (boot_ns).

    One boot has one clock. Otherwise CLOCK_REALTIME relates the two, as well as NTP keeps it.
    """
    if same_boot(source, target):
        return Offset(0, 0)
    ahead = (target_ns - target.realtime(target_ns)) - (source_ns - source.realtime(source_ns))
    if source.error_ns is None or target.error_ns is None:
        return Offset(ahead, None)
    return Offset(ahead, source.error_ns + target.error_ns + source.step_ns + target.step_ns)


def same_boot(source: HostClock, target: HostClock) -> bool:
    """Whether the two recordings were made on one host since its last boot."""
    return source.boot_id == target.boot_id != ""


def by_stream(read: Stream, written: Stream, stop: Stop, start: Start) -> Bound:
    """Return the most that the offset can be.

    No byte is written before it was read, RESUMING does not end before the stream did, and the
    target does not start before the source stopped. Nothing that both sides see goes the other
    way, so there is no least.
    """
    bounds = [
        Bound(start.loaded - read.end_ns, "RESUMING ends after the stream"),
        Bound(start.starting - stop.stopped, "the target starts after the source stopped"),
    ]
    sources = iter(read.parts)
    part = next(sources)
    for target in written.parts:
        # The latest part that this one has bytes of is what bounds the offset most.
        while part.end < target.end and (following := next(sources, None)) is not None:
            part = following
        begin, end = max(part.begin, target.begin), min(part.end, target.end)
        if begin < end:
            proof = f"bytes {begin} to {end - 1} are read before they are written"
            bounds.append(Bound(target.last_ns - part.first_ns, proof))
    return min(bounds)


def _ahead(reading: Clock) -> int:
    return reading["realtime_ns"] - reading["boot_ns"]
