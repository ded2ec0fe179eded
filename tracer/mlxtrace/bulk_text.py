# SPDX-License-Identifier: GPL-2.0-or-later
"""A decoder for text: reads and writes become rows by the block, in the order of the records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlxtrace.bulk import SummaryDecoder
from mlxtrace.text import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from mlxtrace.events import Event
    from mlxtrace.text import Text


class TextDecoder(SummaryDecoder):
    """Yields rows instead of events where there are many, and all other events.

    It needs numpy.
    """

    all_ends = True

    def __init__(self, text: Text) -> None:
        super().__init__()
        self._text = text

    def shown(self, events: Iterator[Event]) -> Iterator[Event]:
        """Yield all of them."""
        return events

    def run(self, np: ModuleType, words: Any, kinds: Any) -> Iterator[Event]:
        """Take reads and writes that come in a row, and yield their rows."""
        rows: list[str] = [""] * len(words)
        flows, single = self.divide(np, words, kinds)
        for flow in flows:
            columns = [flow.boot_ns[flow.rows], *flow.moved[:, flow.rows]]
            moved = zip(*(column.tolist() for column in columns), strict=True)
            lines = self._text.flow_rows(flow.vf.bdf, flow.key[1], moved)
            for place, line in zip(flow.places[flow.rows].tolist(), lines, strict=True):
                rows[place] = line
        for at, events in self.singly(np, words, flows, single):
            # Between two events there is always a line, so that an empty one is none.
            rows[at] = "\n".join(line for event in events for line in self._text.lines(event))
        yield Rows(bdf=None, boot_ns=self._last_ns, lines=[row for row in rows if row])
