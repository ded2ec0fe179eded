# SPDX-License-Identifier: GPL-2.0-or-later
"""Where events go: text or JSON lines on a stream, the same for live traces and recordings."""

from __future__ import annotations

import contextlib
import platform
import socket
import sys
from typing import TYPE_CHECKING, Any, TextIO

from genbindings import __version__
from mlxtrace import hostclock, jsonl, text, unknown
from mlxtrace.events import SCHEMA, Event, Lost, Meta, Summary
from mlxtrace.intervals import Intervals
from mlxtrace.selection import EVERYTHING, Filter, Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STRICT_STATUS = 3
"""Exit status under ``--strict`` when anything was lost, missed, skipped or incomplete."""


class Output:
    """Prints events.

    Attributes:
        complete: whether the closing loss line was written and told of no loss.
        text: what makes the lines for people.

    Args:
        stream: where to.
        meta: the first event.
        as_json: JSON lines instead of text.
        verbose: rows for all commands, in text.
        selection: which events are shown.
        rows: whether there will be any: then the text begins with a line that names the columns.
    """

    def __init__(
        self,
        stream: TextIO,
        meta: Meta,
        *,
        as_json: bool = False,
        verbose: bool = False,
        selection: Selection = EVERYTHING,
        rows: bool = True,
    ) -> None:
        self._stream = stream
        self._as_json = as_json
        self.text = text.Text(meta.boot_ns, verbose=verbose)
        self.complete = False
        self._filter = Filter(selection)
        self._unknown = unknown.keys(meta.probes)
        self._intervals = (
            Intervals(meta.boot_ns, selection.interval_ns) if selection.interval_ns else None
        )
        if as_json or rows:
            self._print([jsonl.line(meta) if as_json else text.header()])

    def write(self, events: Iterable[Event]) -> None:
        """Print ``events`` and flush."""
        lines: list[str] = []
        for event in events:
            if isinstance(event, text.Rows):
                lines += event.lines
                continue
            if isinstance(event, Lost) and event.at_end:
                event = self._filter.closing(event)
                self.complete = is_complete(event)
            elif isinstance(event, Summary):
                event = unknown.blanked(event, self._unknown)
            for shown in self._shown(event):
                lines.extend([jsonl.line(shown)] if self._as_json else self.text.lines(shown))
        self._print(lines)

    def tick(self, boot_ns: int, pending: Iterable[Event] = ()) -> None:
        """Time has gone on to ``boot_ns`` and all events before are written.

        ``pending``, what is not over, gets a row when it is, or when tracing ends.
        """
        del pending
        if self._intervals is not None:
            lines: list[str] = []
            for shown in self._intervals.until(boot_ns):
                lines.extend([jsonl.line(shown)] if self._as_json else self.text.lines(shown))
            self._print(lines)

    def not_there(self) -> Iterator[str]:
        """Yield what the selection asks for and nothing that was written has."""
        return self._filter.not_there()

    def close(self) -> None:
        """Nothing is left to do: each write is flushed."""

    def _shown(self, event: Event) -> Iterator[Event]:
        """Yield ``event`` if it is to be shown, after the intervals that it ends."""
        if not self._filter.concerns(event):
            return
        intervals = self._intervals
        if intervals is not None:
            if isinstance(event, (Summary, Lost)):
                # The summaries and the losses come last, and at the time when tracing ended.
                if isinstance(event, Summary) or event.at_end:
                    yield from intervals.finish(event.boot_ns)
            else:
                yield from intervals.add(event)
        if self._filter.gets_row(event):
            yield event

    def _print(self, lines: list[str]) -> None:
        if lines:
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()


def warn(sentence: str) -> None:
    """Print a warning on stderr; if nobody is there any more, that is no reason to fail."""
    say(f"mlxtrace: warning: {sentence}")


def say(line: str) -> None:
    """Print a line on stderr, as :func:`warn` does."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def is_complete(closing: Lost) -> bool:
    """Whether the closing loss line tells of no loss; a recording that was cut knows of none."""
    return closing.lost_records is not None and not any(
        (
            closing.lost_records,
            closing.missed_returns,
            closing.skipped,
            closing.incomplete_saves,
            closing.unseen_arcs,
            closing.untracked,
            closing.unowned_calls,
        )
    )


def new_header(
    *,
    clock: dict[str, int],
    layout: str,
    offsets: dict[str, int],
    names: list[str],
    vfs: list[str],
    probes: list[dict[str, Any]],
    command: list[str],
) -> dict[str, Any]:
    """Return the header of a recording: everything that decoding it elsewhere needs."""
    return {
        "version": __version__,
        "host": socket.gethostname(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "boot_id": hostclock.boot_id(),
        "clock": clock,
        "layout": layout,
        "offsets": offsets,
        "filter": names,
        "vfs": vfs,
        "probes": probes,
        "command": command,
    }


def meta_of(header: dict[str, Any]) -> Meta:
    """Return the event that opens the output, from a recording's header.

    Raises:
        KeyError, TypeError, ValueError: the header is not one of :func:`new_header`.
    """
    clock = header["clock"]
    return Meta(
        bdf=None,
        boot_ns=int(clock["boot_ns"]),
        schema=SCHEMA,
        version=_text(header, "version"),
        host=_text(header, "host"),
        kernel=_text(header, "kernel"),
        monotonic_ns=int(clock["monotonic_ns"]),
        realtime_ns=int(clock["realtime_ns"]),
        layout=_text(header, "layout"),
        filter=_list(header, "filter", str),
        vfs=_list(header, "vfs", str),
        probes=_list(header, "probes", dict),
    )


def _text(header: dict[str, Any], name: str) -> str:
    value = header[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    return value


def _list(header: dict[str, Any], name: str, of: type[Any]) -> list[Any]:
    value = header[name]
    if not isinstance(value, list) or not all(isinstance(each, of) for each in value):
        raise ValueError(f"{name} is no list of what it should be")
    return value
