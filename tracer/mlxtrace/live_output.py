# SPDX-License-Identifier: GPL-2.0-or-later
"""Draws the dashboard on a terminal, and prints the closing summary below where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.live import Live

from genbindings.errors import UsageError
from mlxtrace import live, unknown
from mlxtrace.events import Event, Lost, Meta, Summary
from mlxtrace.output import is_complete
from mlxtrace.selection import Filter, Selection
from mlxtrace.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

_PERIOD_NS = 250_000_000


def require_terminal(stream: TextIO) -> None:
    """Check that ``stream`` can be drawn on.

    Raises:
        UsageError: it is no terminal, or one that cannot move its cursor.
    """
    console = Console(file=stream)
    if not console.is_terminal or console.is_dumb_terminal:
        raise UsageError(
            "--live redraws a terminal, and standard output is none that can be redrawn",
            "leave --live out: the rows, or -i SECONDS, go anywhere",
        )


class LiveOutput:
    """Shows events as a dashboard; has the methods of :class:`mlxtrace.output.Output`.

    Attributes:
        complete: whether the closing loss line was written and told of no loss.
    """

    def __init__(
        self, stream: TextIO, meta: Meta, selection: Selection, console: Console | None = None
    ) -> None:
        self._stream = stream
        self._model = live.Model(meta.boot_ns, unknown.keys(meta.probes))
        self._text = Text(meta.boot_ns)
        self._filter = Filter(selection)
        self._console = console or Console(file=stream)
        self._drawn_ns = 0
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self.complete = False

    def write(self, events: Iterable[Event]) -> None:
        """Take events into account; the closing ones end the dashboard and are printed."""
        for event in events:
            if not self._filter.concerns(event):
                continue
            if isinstance(event, Summary) or (isinstance(event, Lost) and event.at_end):
                self.close()
                if isinstance(event, Lost):
                    event = self._filter.closing(event)
                    self.complete = is_complete(event)
                else:
                    event = unknown.blanked(event, self._model.unknown)
                print(*self._text.lines(event), sep="\n", file=self._stream, flush=True)
            else:
                self._model.take([event])

    def tick(self, boot_ns: int, pending: Iterable[Event] = ()) -> None:
        """Draw anew, if it is time to; ``pending`` is what is not over at ``boot_ns``."""
        if boot_ns - self._drawn_ns < _PERIOD_NS:
            return
        self._drawn_ns = boot_ns
        for view in self._model.vfs.values():
            view.forget(boot_ns)
        failures = [line for event in self._model.failures for line in self._text.lines(event)]
        shown = [event for event in pending if self._filter.concerns(event)]
        self._live.start()
        self._live.update(
            live.render(self._model, boot_ns, self._console.width, failures, shown), refresh=True
        )

    def close(self) -> None:
        """Take the dashboard away. May be repeated."""
        self._live.stop()
