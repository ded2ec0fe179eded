# SPDX-License-Identifier: GPL-2.0-or-later
"""A decoder for text: reads and writes become rows by the block, in the order of the records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlxtrace.bulk import BOOT_NS, VALUE, Flow, SummaryDecoder, add_up, before_each, deltas, sums_of
from mlxtrace.text import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from mlxtrace.events import Event
    from mlxtrace.session import VfSession
    from mlxtrace.text import Text

_ENDS = slice(5, 9)
"""Columns of a snapshot that count ends: such a record gets rows of other kinds too."""


class TextDecoder(SummaryDecoder):
    """Yields rows instead of events, but for the last ones.

    It needs numpy.
    """

    def __init__(self, text: Text) -> None:
        super().__init__()
        self._text = text

    def _block(self, np: ModuleType, words: Any, kinds: Any) -> Iterator[Event]:
        rows: list[str] = [""] * len(words)
        flows, single = self.divide(np, words, kinds)
        for flow in flows:
            lines = self._text.flow_rows(flow.vf.bdf, flow.key[1], flow.flows)
            for place, line in zip(flow.places, lines, strict=True):
                rows[place] = line
        for at, events in self.singly(np, words, flows, single):
            # Between two events there is always a line, so that an empty one is none.
            rows[at] = "\n".join(line for event in events for line in self._text.lines(event))
        yield Rows(bdf=None, boot_ns=self._last_ns, lines=[row for row in rows if row])

    def flow(
        self,
        np: ModuleType,
        vf: VfSession,
        key: tuple[int, str],
        before: tuple[int, ...],
        words: Any,
        places: Any,
        single: Any,
    ) -> Flow:
        values = words[:, VALUE:]
        delta, earlier = deltas(np, before, values)
        ends = delta[:, _ENDS].any(axis=1)
        single[places[ends]] = True
        rows = ~ends & (delta[:, 0] > 0)
        shown = delta[rows]
        sums = [add_up(np, shown[:, column]) for column in range(shown.shape[1])]
        last = tuple(values[-1].tolist())
        flows = [words[rows, BOOT_NS], *(shown[:, column] for column in range(3))]
        return Flow(
            vf,
            key,
            last,
            list(sums_of(vf, key[1], sums, last)),
            before_each(places[ends], earlier[ends]),
            places[rows].tolist(),
            zip(*(column.tolist() for column in flows), strict=True),
        )
