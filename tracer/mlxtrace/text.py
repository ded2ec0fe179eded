# SPDX-License-Identifier: GPL-2.0-or-later
"""Events as text for people: one line each, under 100 columns, times relative to the start."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlxtrace import summary_text
from mlxtrace.events import (
    Abort,
    Buffer,
    Command,
    Content,
    Drain,
    End,
    Estimate,
    Event,
    Header,
    Histogram,
    Ioctl,
    Load,
    Lost,
    Open,
    Read,
    Save,
    State,
    Summary,
)
from mlxtrace.intervals import Interval
from mlxtrace.units import COLUMNS, count, milliseconds, size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_COLUMNS = "{:>9} {:<12} {:<5} {:<{}} {:>7} {:>8} {:>8} {}"
_WHAT_COLUMNS = 27
# WHAT, SIZE and WAIT in one.
_WIDE_COLUMNS = "{:>9} {:<12} {:<5} {:<{}} {:>8} {}"
_WIDE_WHAT_COLUMNS = 44
_NAME_COLUMNS = 16
"""Of a PCI address with the longest domain; what is longer is a UUID."""
_WHO_COLUMNS = 16

_CALLS = {"state": "STATE", "ioctl": "INFO", "estimate": "SIZE", "command": "CMD", "load": "LOAD"}
_NO_DATA = {
    "idle": "no data: idle",
    "save-in-flight": "no data: SAVE in flight",
    "fallback": "no data: fallback",
    "nobody-asked": "no data: nobody asked",
}


def header() -> str:
    """Return the line with the columns' names and units."""
    names = ("SIZE", "WAIT(ms)", "TOOK(ms)", "RESULT")
    return _COLUMNS.format("TIME(s)", "VF", "EVENT", "WHAT", _WHAT_COLUMNS, *names)


def short_name(bdf: str | None) -> str:
    """Return a VF's name for its column; of a UUID, its begin and end: ``83b8f4f2~001``.

    Its summary has all of it.
    """
    if bdf is None:
        return "-"
    return f"{bdf[:8]}~{bdf[-3:]}" if len(bdf) > _NAME_COLUMNS else bdf


@functools.lru_cache(4096)
def _amount(calls: int, moved: int) -> str:
    """Return the columns WHAT, SIZE and WAIT of reads or writes, and the blank after them."""
    return f"{count(calls, 'call'):<27} {size(moved):>7} {'':>8} "


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows(Event):
    """Events that are lines already: those of a large recording are made by the block."""

    type: ClassVar[str] = "rows"

    lines: list[str]


class Text:
    """Makes lines of events.

    Args:
        start_ns: boot_ns that is second 0.
        verbose: whether QUERY, SUSPEND and RESUME commands and EAGAIN get rows too.
    """

    def __init__(self, start_ns: int, *, verbose: bool = False) -> None:
        self._start_ns = start_ns
        self._verbose = verbose

    def lines(self, event: Event) -> Iterator[str]:
        """Yield the lines of ``event``, none for what is only shown with ``-v``."""
        match event:
            case State():
                yield self._state(event)
            case Open():
                yield self._open(event)
            case Save():
                yield self._save(event)
            case Ioctl():
                yield self._ioctl(event)
            case Read():
                yield self._read(event)
            case End() if self._verbose or event.kind != "again":
                yield self._end(event)
            case Estimate() if self._verbose or event.errno:
                yield self._estimate(event)
            case Header() if self._verbose:
                yield self._header(event)
            case Buffer() if self._verbose or event.errno:
                yield self._buffer(event)
            case Drain() if self._verbose:
                yield self._drain(event)
            case Content() if self._verbose:
                what = f"{event.direction} {event.content_sum:013x} of {event.samples} bytes"
                yield self._row(event, "DATA", what)
            case Histogram() if self._verbose:
                yield from self._histogram(event)
            case Load():
                yield self._load(event)
            case Command() if self._verbose or event.errno or event.status:
                yield self._command(event)
            case Abort():
                yield from self._abort(event)
            case Interval():
                yield self._interval(event)
            case Lost() if event.at_end:
                yield from summary_text.losses(event)
            case Lost():
                yield self._row(event, "LOST", f"{event.lost_records} records so far (ring full)")
            case Summary():
                yield from summary_text.summary(event, verbose=self._verbose)

    def _row(
        self,
        event: Event,
        name: str,
        what: str,
        amount: str = "",
        wait: str = "",
        took: str = "",
        result: str = "",
    ) -> str:
        rest = (amount, wait, took, result)
        return self._fitted(_COLUMNS, event, name, what, _WHAT_COLUMNS, rest)

    def _wide(self, event: Event, name: str, what: str, took: str, result: str) -> str:
        return self._fitted(_WIDE_COLUMNS, event, name, what, _WIDE_WHAT_COLUMNS, (took, result))

    def _fitted(
        self, columns: str, event: Event, name: str, what: str, width: int, rest: tuple[str, ...]
    ) -> str:
        """Return a row; WHAT gives way if other columns need more room than they have."""
        first = (self._time(event), short_name(event.bdf), name)
        row = columns.format(*first, what, width, *rest).rstrip()
        if len(row) <= COLUMNS:
            return row
        width = max(width, len(what)) - (len(row) - COLUMNS)
        if len(what) > width:
            what = " ".join(what.split())
        if len(what) > width:
            what = f"{what[: width - 1]}~"
        return columns.format(*first, what, width, *rest).rstrip()

    def _time(self, event: Event) -> str:
        return f"{(event.boot_ns - self._start_ns) / 1e9:.6f}"

    def _state(self, event: State) -> str:
        arc = f"{event.old_state} -> {event.new_state}"
        who = _who(event.comm, event.pid)
        took, result = milliseconds(event.duration_ns), _result(event.error)
        if event.duration_ns is None:
            took, result = f"<{milliseconds(event.duration_max_ns)}", "unseen"
        return self._wide(event, "STATE", f"{arc:<27} {who}", took, result)

    def _open(self, event: Open) -> str:
        what = f"{event.what:<27} {_who(event.comm, event.pid)}"
        took = f">{milliseconds(event.open_ns)}"
        return self._wide(event, _CALLS[event.call], what, took, "in flight")

    def _save(self, event: Save) -> str:
        what = f"{event.image or '-'} {event.kind}"
        if event.query_bytes is not None:
            what += f", query {size(event.query_bytes)}"
        took = milliseconds(event.fw_ns)
        result = _firmware(event.status, event.status_name, event.error)
        if event.in_flight:
            took, result = f">{milliseconds(event.fw_min_ns)}", "in flight"
        elif not event.callback_seen:
            took, result = f"<{milliseconds(event.fw_max_ns)}", "unseen"
        if event.syndrome:
            what = f"{event.image or '-'} {event.kind} syndrome {event.syndrome:#x}"
            return self._wide(event, "SAVE", what, took, result)
        return self._row(
            event, "SAVE", what, size(event.image_bytes), milliseconds(event.wait_ns), took, result
        )

    def _ioctl(self, event: Ioctl) -> str:
        what = (
            f"precopy_init_size={size(event.precopy_init_size_bytes)} "
            f"precopy_dirty_size={size(event.precopy_dirty_size_bytes)}"
        )
        took = milliseconds(event.latency_ns)
        return self._wide(event, "INFO", what, took, _result(event.error))

    def flow_rows(
        self, bdf: str | None, direction: str, flows: Iterable[tuple[int, int, int, int]]
    ) -> list[str]:
        """Return the rows of many reads or writes of one VF, which large recordings are full of.

        ``flows`` are their boot_ns, calls, bytes and busy_ns.
        """
        start_ns = self._start_ns
        # One format for all of them, in the columns of every row, takes a fifth of the time.
        name = short_name(bdf)
        row = _COLUMNS.format("", name, direction.upper(), "{}", _WHAT_COLUMNS, "", "", "", "")
        before = row[: row.index("{}")].lstrip().replace("%", "%%")
        line = f"%9.6f {before}%s%8.3f ok"
        return [
            line % ((boot_ns - start_ns) / 1e9, _amount(calls, moved), busy_ns / 1e6)
            for boot_ns, calls, moved, busy_ns in flows
        ]

    def _read(self, event: Read) -> str:
        flow = (event.boot_ns, event.calls, event.bytes, event.busy_ns)
        return self.flow_rows(event.bdf, event.direction, [flow])[0]

    def _end(self, event: End) -> str:
        what, result = {
            "temporary": (_NO_DATA.get(event.reason, "no data for now"), "ENOMSG"),
            "final": ("end of stream", "0"),
            "again": ("no data yet", "EAGAIN"),
        }.get(event.kind, (f"{event.direction} failed", event.error))
        if event.calls > 1:
            what += f", {event.calls} times"
        return self._row(event, "END", what, result=result)

    def _estimate(self, event: Estimate) -> str:
        what = f"stopcopy_size={size(event.stopcopy_size_bytes)}"
        took = milliseconds(event.latency_ns)
        return self._wide(event, "SIZE", what, took, _result(event.error))

    def _header(self, event: Header) -> str:
        what = f"{event.format} {event.tag}".strip() + f" at {event.offset_bytes}"
        amount = "" if event.record_bytes is None else size(event.record_bytes)
        return self._row(event, "HEAD", what, amount)

    def _buffer(self, event: Buffer) -> str:
        what = f"{event.action}, {event.buffers} held: {size(event.held_bytes)}"
        amount = "" if event.allocated_bytes is None else size(event.allocated_bytes)
        took = "" if event.took_ns is None else milliseconds(event.took_ns)
        return self._row(event, "BUF", what, amount, "", took, _result(event.error))

    def _drain(self, event: Drain) -> str:
        what = f"{event.image or '-'} {event.kind}, {size(event.bytes_behind)} behind"
        amount = size(event.end_bytes - event.start_bytes)
        queued = milliseconds(event.queued_ns)
        return self._row(event, "DRAIN", what, amount, queued, milliseconds(event.drain_ns))

    def _histogram(self, event: Histogram) -> Iterator[str]:
        measure = event.measure.replace("_", " in ")
        yield self._row(event, "HIST", f"{event.direction} {measure}")
        most = max(event.counts)
        first = next(power for power, number in enumerate(event.counts) if number)
        for power, number in enumerate(event.counts[first:], first):
            low, high = 1 << power, (2 << power) - 1
            bar = "*" * (30 * number // most)
            yield f"{'':<23} {low if power else 0:>10} -> {high:<10} : {number:<9} |{bar:<30}|"

    def _load(self, event: Load) -> str:
        result = _firmware(event.status, event.status_name, event.error)
        what = f"{event.image}"
        if event.syndrome:
            what += f" syndrome {event.syndrome:#x}"
        took = milliseconds(event.fw_ns)
        return self._row(event, "LOAD", what, size(event.image_bytes), "", took, result)

    def _command(self, event: Command) -> str:
        what = f"{event.name} {event.op_mod}".strip()
        if event.name == "QUERY":
            what += " incremental" if event.incremental else " full"
        amount = "" if event.query_bytes is None else size(event.query_bytes)
        result = _firmware(event.status, event.status_name, event.error)
        if event.syndrome:
            what += f" syndrome {event.syndrome:#x}"
            return self._wide(event, "CMD", what, milliseconds(event.fw_ns), result)
        return self._row(event, "CMD", what, amount, "", milliseconds(event.fw_ns), result)

    def _interval(self, event: Interval) -> str:
        what = event.state or "-"
        if event.loads or event.write_calls:
            what += f" {event.loads} LOAD"
        if event.saves or event.ioctls or event.read_calls:
            what += f" {event.saves} SAVE {event.ioctls} INFO"
        result = "ok"
        if event.failures:
            result = f"{event.failures} failed"
        elif event.precopy_dirty_size_bytes is not None:
            result = f"{size(event.precopy_dirty_size_bytes)} dirty"
        moved = size(event.read_bytes + event.written_bytes)
        wait, took = milliseconds(event.wait_ns), milliseconds(event.fw_ns)
        return self._row(event, "SUM", what, moved, wait, took, result)

    def _abort(self, event: Abort) -> Iterator[str]:
        side = {"read": "saving ", "write": "resuming "}.get(event.direction, "")
        what = f"{side}ended in {event.state} by {event.comm}/{event.pid}"
        yield self._wide(event, "ABORT", what[:48], "", event.cause)
        for frame in event.stack:
            yield f"{'':<23} {frame[:75]}"


def _who(comm: str, pid: int) -> str:
    """Return ``comm/pid``, with so much of the comm as there is room for."""
    return f"{comm[: _WHO_COLUMNS - 1 - len(str(pid))]}/{pid}"


def _result(error: str) -> str:
    return error or "ok"


def _firmware(status: int | None, name: str, error: str) -> str:
    return name if status else error or "ok"
