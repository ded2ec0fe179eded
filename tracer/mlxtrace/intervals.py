# SPDX-License-Identifier: GPL-2.0-or-later
"""Sums of what happened to each VF in equal stretches of time (``-i``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlxtrace.events import Content, Event, Histogram, Ioctl, Load, Read, Save, State
from mlxtrace.flowing import Ahead, Flowing
from mlxtrace.selection import is_failure

_MOST = 1_000_000
"""More intervals than these in a row without any event: a clock in a record is wrong."""


@dataclass(slots=True, kw_only=True)
class _Sums:
    """What is added up; it begins anew with each interval."""

    saves: int = 0
    save_bytes: int = 0
    loads: int = 0
    load_bytes: int = 0
    fw_ns: int = 0
    fw_max_ns: int = 0
    wait_ns: int = 0
    ioctls: int = 0
    read_calls: int = 0
    read_bytes: int = 0
    write_calls: int = 0
    written_bytes: int = 0
    failures: int = 0
    precopy_init_size_bytes: int | None = None
    precopy_dirty_size_bytes: int | None = None

    def add(self, event: Event) -> None:
        self.failures += is_failure(event)
        match event:
            case Save() if not event.in_flight:
                self.saves += 1
                self.save_bytes += event.image_bytes or 0
                self.wait_ns += event.wait_ns or 0
                self._firmware(event.fw_ns or 0)
            case Load():
                self.loads += 1
                self.load_bytes += event.image_bytes
                self._firmware(event.fw_ns)
            case Ioctl():
                self.ioctls += 1
                if event.precopy_dirty_size_bytes is not None:
                    self.precopy_init_size_bytes = event.precopy_init_size_bytes
                    self.precopy_dirty_size_bytes = event.precopy_dirty_size_bytes

    def move(self, direction: str, calls: int, size: int) -> None:
        """Calls of a stream have moved data."""
        if direction == "read":
            self.read_calls += calls
            self.read_bytes += size
        else:
            self.write_calls += calls
            self.written_bytes += size

    def _firmware(self, fw_ns: int) -> None:
        self.fw_ns += fw_ns
        self.fw_max_ns = max(self.fw_max_ns, fw_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval(Event):
    """What happened to one VF in one interval, which ended at ``boot_ns``."""

    type: ClassVar[str] = "interval"

    start_boot_ns: int
    state: str
    saves: int
    save_bytes: int
    loads: int
    load_bytes: int
    fw_ns: int
    fw_max_ns: int
    wait_ns: int
    ioctls: int
    read_calls: int
    read_bytes: int
    write_calls: int
    written_bytes: int
    failures: int
    precopy_init_size_bytes: int | None
    precopy_dirty_size_bytes: int | None


class Intervals:
    """Adds events up; an interval is over when an event or the clock is past its end.

    Args:
        start_ns: boot_ns at which the first interval begins.
        period_ns: length of each.
    """

    def __init__(self, start_ns: int, period_ns: int) -> None:
        self._start_ns = start_ns
        self._period_ns = period_ns
        self._states: dict[str | None, str] = {}
        self._sums: dict[str | None, _Sums] = {}
        self._ahead: dict[str | None, Ahead] = {}

    def add(self, event: Event) -> list[Interval]:
        """Add ``event`` up; return the intervals that were over before it."""
        # Their time is when they were fetched, and what the kernel told before may come after.
        fetched = isinstance(event, (Histogram, Content))
        over = [] if fetched else self.until(event.boot_ns)
        sums = self._sums.setdefault(event.bdf, _Sums())
        self._states.setdefault(event.bdf, "")
        if isinstance(event, (Flowing, Read)):
            ahead = self._ahead.setdefault(event.bdf, Ahead())
            sums.move(event.direction, *ahead.take(event))
        else:
            sums.add(event)
        if isinstance(event, State):
            self._states[event.bdf] = event.new_state if event.is_walked else event.old_state
        return over

    def until(self, boot_ns: int) -> list[Interval]:
        """Return the intervals that end at ``boot_ns`` or before."""
        over: list[Interval] = []
        if (boot_ns - self._start_ns) // self._period_ns > _MOST:
            self._start_ns = boot_ns - self._period_ns
        while boot_ns >= self._start_ns + self._period_ns:
            over.extend(self._close(self._start_ns + self._period_ns))
        return over

    def finish(self, boot_ns: int) -> list[Interval]:
        """Tracing ended: return all intervals, the last one as short as it is."""
        over = self.until(boot_ns)
        return [*over, *self._close(boot_ns)] if boot_ns > self._start_ns else over

    def _close(self, end_ns: int) -> list[Interval]:
        # Before the first event of any VF there is one line all the same: it runs.
        names = [name for name in self._states if name is not None or name in self._sums]
        lines = []
        for name in names or [None]:
            sums = self._sums.get(name, _Sums())
            values = {key: getattr(sums, key) for key in _Sums.__slots__}
            lines.append(
                Interval(
                    bdf=name,
                    boot_ns=end_ns,
                    start_boot_ns=self._start_ns,
                    state=self._states.get(name, ""),
                    **values,
                )
            )
        self._sums.clear()
        self._start_ns = end_ns
        return lines
