# SPDX-License-Identifier: GPL-2.0-or-later
"""The dashboard of ``--live``: what is known of each VF, and its picture.

:class:`Model` is fed with events and knows no terminal; :func:`render` makes a picture of it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mlxtrace import summary_text, unknown
from mlxtrace.events import Event, Load, Lost, Open, Read, Save, State, Summary
from mlxtrace.flowing import Ahead, Flowing
from mlxtrace.selection import is_failure
from mlxtrace.totals import Totals
from mlxtrace.units import count, milliseconds, rate, size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from rich.console import RenderableType

_WIDE = 100
"""Columns from which on the histogram stands beside the figures."""
_WINDOW_NS = 2_000_000_000
_MOST_ROWS = 8
_MOST_FAILURES = 4
_COLORS = {
    "RUNNING": "green",
    "PRE_COPY": "cyan",
    "PRE_COPY_P2P": "yellow",
    "STOP_COPY": "yellow",
    "RESUMING": "cyan",
    "ERROR": "red",
}


@dataclass(slots=True)
class View:
    """One VF.

    Attributes:
        totals: all that adds up.
        state: the last one known, "" before.
        since_ns: boot_ns at which it was reached.
        session: number of its session.
        who: ``comm/pid`` that asked for it.
        fw_us: how many SAVEs and LOADs took 2^i to 2^(i+1) - 1 microseconds of firmware.
        moved: times and sizes of the last reads and writes.
        ahead: those of them that ``totals`` does not count yet.
        unknown: keys of its summary that the probes do not tell.
    """

    totals: Totals = field(default_factory=Totals)
    state: str = ""
    since_ns: int = 0
    session: int = 0
    who: str = ""
    fw_us: list[int] = field(default_factory=lambda: [0] * 40)
    moved: deque[tuple[int, int]] = field(default_factory=deque)
    ahead: Ahead = field(default_factory=Ahead)
    unknown: Collection[str] = ()

    def add(self, event: Event) -> None:
        """Take one event of this VF into account."""
        self.totals.add(event)
        self.session = max(self.session, getattr(event, "session", 0))
        match event:
            case State():
                self.state = event.new_state if event.is_walked else event.old_state
                self.since_ns = event.boot_ns
                self.who = f"{event.comm}/{event.pid}"
                self.totals.sessions = max(self.totals.sessions, event.session)
            case Read() | Flowing():
                self.moved.append((event.boot_ns, self.ahead.take(event)[1]))
            case Save() | Load() if event.fw_ns is not None:
                power = max(event.fw_ns // 1000, 1).bit_length() - 1
                self.fw_us[min(power, len(self.fw_us) - 1)] += 1

    def summary(self, name: str, now_ns: int) -> Summary:
        """What adds up to now, as far as it is known."""
        return unknown.blanked(self.totals.summary(name, now_ns, None), self.unknown)

    def bytes_per_s(self, now_ns: int) -> int:
        """What was read or written a second, of late."""
        recent = sum(amount for at, amount in self.moved if at > now_ns - _WINDOW_NS)
        return recent * 1_000_000_000 // _WINDOW_NS

    def forget(self, now_ns: int) -> None:
        """Drop what is too old to count as of late."""
        while self.moved and self.moved[0][0] <= now_ns - _WINDOW_NS:
            self.moved.popleft()


class Model:
    """All that the dashboard shows.

    Attributes:
        vfs: the VFs by name, as they turned up.
        lost: records lost so far.
        failures: the last events that were failures.

    Args:
        start_ns: boot_ns at which tracing began.
        unknown: keys of a summary that the probes do not tell.
    """

    def __init__(self, start_ns: int, unknown: Collection[str] = ()) -> None:
        self.start_ns = start_ns
        self.unknown = unknown
        self.vfs: dict[str, View] = {}
        self.lost = 0
        self.failures: deque[Event] = deque(maxlen=_MOST_FAILURES)

    def take(self, events: Iterable[Event]) -> None:
        """Take events into account, in their order."""
        for event in events:
            if isinstance(event, Lost):
                self.lost = event.lost_records or self.lost
            if is_failure(event):
                self.failures.append(event)
            if event.bdf is not None and not isinstance(event, Summary):
                self.vfs.setdefault(event.bdf, View(unknown=self.unknown)).add(event)


def render(
    model: Model,
    now_ns: int,
    width: int,
    failures: Sequence[str] = (),
    pending: Sequence[Event] = (),
) -> RenderableType:
    """Return the picture of ``model`` at ``now_ns``.

    Args:
        model: what is known.
        now_ns: boot_ns.
        width: columns of the terminal; a narrow one gets the histograms below the figures.
        failures: the rows of ``model.failures``.
        pending: what is not over.
    """
    incomplete = sum(view.totals.incomplete_saves for view in model.vfs.values())
    parts: list[RenderableType] = [
        Text(
            f"mlxtrace precopy  {(now_ns - model.start_ns) / 1e9:.0f} s  "
            f"{count(len(model.vfs), 'VF')}  lost {model.lost}  incomplete {incomplete}  "
            "Ctrl-C to end",
            style="bold",
        )
    ]
    if not model.vfs and not pending:
        parts.append(Text("waiting for a VF to migrate"))
    for name in sorted(model.vfs.keys() | {event.bdf for event in pending if event.bdf}):
        view = model.vfs.get(name) or View()
        theirs = [event for event in pending if event.bdf == name]
        parts.append(_panel(name, view, theirs, now_ns, width))
    if failures:
        parts.append(Text("last failures", style="bold red"))
        parts.extend(Text(line, no_wrap=True, overflow="ellipsis") for line in failures)
    return Group(*parts)


def _panel(name: str, view: View, pending: Sequence[Event], now_ns: int, width: int) -> Panel:
    figures = _figures(view, view.summary(name, now_ns), pending, now_ns)
    histogram = _histogram(view)
    body: RenderableType
    if histogram is None:
        body = figures
    elif width >= _WIDE:
        body = Table.grid(padding=(0, 3))
        body.add_row(figures, histogram)
    else:
        body = Group(figures, histogram)
    state = (view.state or "state unknown", _COLORS.get(view.state, "white"))
    title = Text.assemble(f"{name}  ", state)
    return Panel(body, title=title, title_align="left")


def _figures(view: View, summary: Summary, pending: Sequence[Event], now_ns: int) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    if view.state:
        seconds = max(0, now_ns - view.since_ns) / 1e9
        table.add_row("state", f"{view.state} for {seconds:.1f} s, session {view.session}")
        # A task may call itself anything, and rich takes brackets in a string for its markup.
        table.add_row("by", Text(view.who))
    for event in pending:
        if isinstance(event, Open):
            since = f"{event.open_ns / 1e9:.1f} s"
            told = Text(f"{event.what} for {since}, by {event.comm}/{event.pid}")
            table.add_row("in flight", told)
        elif isinstance(event, Save) and event.fw_min_ns is not None:
            since = f"{event.fw_min_ns / 1e9:.1f} s"
            table.add_row("in flight", f"SAVE {event.image or '-'} {event.kind} for {since}")
    if summary.saves or summary.read_calls or view.ahead.of("read")[0]:
        _add_source(table, view, summary, now_ns)
    if summary.loads or summary.write_calls or view.ahead.of("write")[0]:
        _add_target(table, view, summary, now_ns)
    if summary.failed_arcs or summary.aborts:
        table.add_row(
            "failed",
            Text(f"{summary.failed_arcs} states, {count(summary.aborts, 'abort')}", style="red"),
        )
    return table


def _add_source(table: Table, view: View, summary: Summary, now_ns: int) -> None:
    failed = f", {summary.failed_saves} failed" if summary.failed_saves else ""
    table.add_row("round", f"{summary.rounds}, {count(summary.saves, 'SAVE')}{failed}")
    table.add_row(
        "read",
        _flow(view, summary.read_bytes, summary.read_calls, "read", now_ns),
    )
    table.add_row(
        "queued",
        f"{milliseconds(summary.queued_p50_ns)}/{milliseconds(summary.queued_max_ns)} ms (p50/max)",
    )
    if summary.precopy_dirty_size_bytes is not None:
        table.add_row(
            "sizes",
            f"precopy_init_size={size(summary.precopy_init_size_bytes)} "
            f"precopy_dirty_size={size(summary.precopy_dirty_size_bytes)}",
        )
    if summary.rounds:
        style = "red" if summary.converging is False else ""
        table.add_row(
            "rates",
            Text(
                f"read {rate(summary.read_bytes_per_s)}, dirtied "
                f"{rate(summary.dirty_bytes_per_s)}\n-> {summary_text.verdict(summary.converging)}",
                style=style,
            ),
        )
    if summary.stopped_now_bytes is not None:
        table.add_row(
            "if stopped",
            f"{size(summary.stopped_now_bytes)} to read, "
            f"SAVE ~{milliseconds(summary.stopped_now_save_ns)} ms, "
            f"read-out ~{milliseconds(summary.stopped_now_read_ns)} ms",
        )
    if summary.final_ends:
        table.add_row("stopped", f"{milliseconds(summary.stopped_ns)} ms")


def _add_target(table: Table, view: View, summary: Summary, now_ns: int) -> None:
    failed = f", {summary.failed_loads} failed" if summary.failed_loads else ""
    table.add_row("loaded", f"{count(summary.loads, 'LOAD')}{failed}")
    table.add_row(
        "written",
        _flow(view, summary.written_bytes, summary.write_calls, "write", now_ns),
    )
    if summary.resume_ns is not None:
        table.add_row("resumed", f"{milliseconds(summary.resume_ns)} ms after the last LOAD")


def _flow(view: View, moved: int | None, calls: int | None, direction: str, now_ns: int) -> str:
    """How much was read or written; what the probes do not tell is no 0."""
    if moved is None or calls is None:
        return "-"
    more_calls, more = view.ahead.of(direction)
    amount, times = size(moved + more), count(calls + more_calls, "call")
    return f"{amount} in {times}, now {rate(view.bytes_per_s(now_ns))}"


def _histogram(view: View) -> Table | None:
    """Firmware times of SAVEs and LOADs by powers of two, None before the first."""
    used = [power for power, number in enumerate(view.fw_us) if number]
    if not used:
        return None
    first = max(used[0], used[-1] - _MOST_ROWS + 1)
    most = max(view.fw_us)
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_row("firmware, ms", "count", "", style="bold")
    for power in range(first, used[-1] + 1):
        number = view.fw_us[power]
        low, high = (1 << power) / 1000, (2 << power) / 1000
        table.add_row(f"{low:.3f} -> {high:.3f}", f"{number}", "*" * -(-20 * number // most))
    return table
