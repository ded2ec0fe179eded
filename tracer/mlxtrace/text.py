# SPDX-License-Identifier: GPL-2.0-or-later
"""Events as text for people: one line each, under 100 columns, times relative to the start."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlxtrace.events import Command, End, Event, Ioctl, Load, Lost, Read, Save, State, Summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_COLUMNS = "{:>9} {:<12} {:<5} {:<29} {:>9} {:>8} {:>9} {}"
# WHAT, SIZE and WAIT in one.
_WIDE_COLUMNS = "{:>9} {:<12} {:<5} {:<48} {:>9} {}"


def header() -> str:
    """Return the line with the columns' names and units."""
    return _COLUMNS.format(
        "TIME(s)", "VF", "EVENT", "WHAT", "SIZE", "WAIT(ms)", "TOOK(ms)", "RESULT"
    )


def size(count: int | None) -> str:
    """Return bytes in at most six characters, by powers of 1024: ``61.2M``; ``-`` for None."""
    if count is None:
        return "-"
    if count < 1024:
        return f"{count}"
    value = float(count)
    for unit in "KMGT":
        value /= 1024
        if value < 1023.95 or unit == "T":
            break
    return f"{value:.1f}{unit}"


def milliseconds(duration_ns: int | None) -> str:
    """Return a duration in ms with three decimals; ``-`` for None."""
    return "-" if duration_ns is None else f"{duration_ns / 1e6:.3f}"


@functools.lru_cache(4096)
def _amount(calls: int, count: int) -> str:
    """Return the columns WHAT, SIZE and WAIT of reads or writes, and the blank after them."""
    return f"{calls} call{'' if calls == 1 else 's'}".ljust(29) + f" {size(count):>9} {'':>8} "


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
            case Save():
                yield self._save(event)
            case Ioctl():
                yield self._ioctl(event)
            case Read():
                yield self._read(event)
            case End() if self._verbose or event.kind != "again":
                yield self._end(event)
            case Load():
                yield self._load(event)
            case Command() if self._verbose or event.errno or event.status:
                yield self._command(event)
            case Lost() if event.at_end:
                yield from _losses(event)
            case Lost():
                yield self._row(event, "LOST", f"{event.lost_records} records so far (ring full)")
            case Summary():
                yield from _summary(event)

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
        return _COLUMNS.format(
            self._time(event), event.bdf or "-", name, what, amount, wait, took, result
        ).rstrip()

    def _wide(self, event: Event, name: str, what: str, took: str, result: str) -> str:
        return _WIDE_COLUMNS.format(
            self._time(event), event.bdf or "-", name, what, took, result
        ).rstrip()

    def _time(self, event: Event) -> str:
        return f"{(event.boot_ns - self._start_ns) / 1e9:.6f}"

    def _state(self, event: State) -> str:
        arc = f"{event.old_state} -> {event.new_state}"
        who = f"{event.comm}/{event.pid}"[:18]
        return self._wide(
            event,
            "STATE",
            f"{arc:<29} {who}",
            milliseconds(event.duration_ns),
            _result(event.error),
        )

    def _save(self, event: Save) -> str:
        what = f"{event.image or '-'} {event.kind}"
        if event.query_bytes is not None:
            what += f", query {size(event.query_bytes)}"
        took = milliseconds(event.fw_ns)
        result = _firmware(event.status, event.status_name, event.error)
        if not event.callback_seen:
            took, result = f"<{milliseconds(event.fw_max_ns)}", "unseen"
        if event.syndrome:
            what = f"{event.image or '-'} {event.kind} syndrome {event.syndrome:#x}"
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
        row = _COLUMNS.format("", bdf or "-", direction.upper(), "{}", "", "", "", "")
        before = row[: row.index("{}")].lstrip().replace("%", "%%")
        line = f"%9.6f {before}%s%9.3f ok"
        return [
            line % ((boot_ns - start_ns) / 1e9, _amount(calls, count), busy_ns / 1e6)
            for boot_ns, calls, count, busy_ns in flows
        ]

    def _read(self, event: Read) -> str:
        flow = (event.boot_ns, event.calls, event.bytes, event.busy_ns)
        return self.flow_rows(event.bdf, event.direction, [flow])[0]

    def _end(self, event: End) -> str:
        what, result = {
            "temporary": ("no data for now", "ENOMSG"),
            "final": ("end of stream", "0"),
            "again": ("no data yet", "EAGAIN"),
        }.get(event.kind, (f"{event.direction} failed", event.error))
        if event.calls > 1:
            what += f", {event.calls} times"
        return self._row(event, "END", what, result=result)

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
        if event.syndrome:
            what += f" syndrome {event.syndrome:#x}"
        amount = "" if event.query_bytes is None else size(event.query_bytes)
        result = _firmware(event.status, event.status_name, event.error)
        return self._row(event, "CMD", what, amount, "", milliseconds(event.fw_ns), result)


def _result(error: str) -> str:
    return error or "ok"


def _firmware(status: int | None, name: str, error: str) -> str:
    return name if status else error or "ok"


def _summary(event: Summary) -> Iterator[str]:
    yield ""
    if event.saves or event.read_calls or not event.loads:
        yield from _saving(event)
    if event.loads or event.write_calls:
        yield from _resuming(event)


def _saving(event: Summary) -> Iterator[str]:
    kinds = (
        f"{event.initial_images} initial, {event.middle_images} middle, {event.final_images} final"
    )
    if event.cleanup_saves:
        kinds += f", {event.cleanup_saves} cleanup"
    yield (
        f"{event.bdf} saved {event.images} image{'' if event.images == 1 else 's'} ({kinds}) "
        f"by {event.saves} SAVEs, {event.failed_saves} failed"
    )
    yield (
        f"  stream    {event.read_bytes} bytes in {event.read_calls} reads, "
        f"{event.temporary_ends} temporary ends, {event.final_ends} final, "
        f"{event.stream_errors} errors"
    )
    yield (
        f"  pre-copy  {milliseconds(event.precopy_ns)} ms, {event.ioctls} ioctls, "
        f"{event.failed_ioctls} failed; dirtied {_rate(event.dirty_bytes_per_s)}"
    )
    yield f"  stopped   {milliseconds(event.stopped_ns)} ms, from quiescing to the stream's end"
    yield (
        f"  SAVE      firmware p50 {milliseconds(event.save_fw_p50_ns)} ms, "
        f"max {milliseconds(event.save_fw_max_ns)} ms; "
        f"waited {milliseconds(event.wait_ns)} ms in all for a SAVE before"
    )


def _resuming(event: Summary) -> Iterator[str]:
    yield (
        f"{event.bdf} loaded {len(event.load_bytes)} "
        f"image{'' if len(event.load_bytes) == 1 else 's'} "
        f"by {event.loads} LOADs, {event.failed_loads} failed"
    )
    yield f"  stream    {event.written_bytes} bytes in {event.write_calls} writes"
    yield f"  LOAD      firmware {milliseconds(event.load_fw_ns)} ms in all"


def _losses(event: Lost) -> Iterator[str]:
    yield ""
    if event.lost_records is None:
        yield (
            "lost, missed and skipped are unknown: the recording has no end  "
            f"incomplete {event.incomplete_saves} (SAVE without callback)"
        )
        return
    skipped = "-" if event.skipped is None else event.skipped
    yield (
        f"lost {event.lost_records} (ring)  missed {event.missed_returns} (returns)  "
        f"skipped {skipped} (by the kernel)  "
        f"incomplete {event.incomplete_saves} (SAVE without callback)"
    )
    if event.lost_records:
        yield "  the ring was too small: raise --ring-pages"
    if event.untracked:
        yield f"  {event.untracked} devices or SAVEs too many for the program's tables"


def _rate(bytes_per_s: int | None) -> str:
    return "-" if bytes_per_s is None else f"{size(bytes_per_s)}/s"
