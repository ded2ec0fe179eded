# SPDX-License-Identifier: GPL-2.0-or-later
"""What is on its way: data of a stream that no :class:`Read` event has told of yet.

A Read event comes when something else happens to the VF. Sums by time, which cannot wait for that,
are told of it before; for all others only the Read event counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlxtrace.events import Event, Read


@dataclass(frozen=True, slots=True, kw_only=True)
class Flowing(Event):
    """Calls that moved data since the last Read event; never shown, so docs/events.md lacks it."""

    type: ClassVar[str] = "flowing"

    direction: str
    calls: int
    bytes: int


class Ahead:
    """What Flowing events of one VF have told of, and a Read event has not.

    Both are told in order, but one may have been looked up a little before the other: so neither
    is taken to contain all of the other.
    """

    def __init__(self) -> None:
        self._ahead: dict[str, tuple[int, int]] = {}

    def of(self, direction: str) -> tuple[int, int]:
        """Calls and bytes of ``direction`` that are to come in a Read event."""
        return self._ahead.get(direction, (0, 0))

    def take(self, event: Flowing | Read) -> tuple[int, int]:
        """Return the calls and bytes of ``event`` that no event before told of."""
        calls, size = self.of(event.direction)
        rest = (max(0, calls - event.calls), max(0, size - event.bytes))
        if isinstance(event, Flowing):
            rest = (max(calls, event.calls), max(size, event.bytes))
        self._ahead[event.direction] = rest
        return (max(0, event.calls - calls), max(0, event.bytes - size))
