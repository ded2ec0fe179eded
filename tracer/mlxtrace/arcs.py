# SPDX-License-Identifier: GPL-2.0-or-later
"""One VF's way through the state machine: where its arcs end, and what if that was not seen.

An arc has no record of its end. It is over when the same SET_STATE begins the next one, or returns.
The driver lets one SET_STATE at a time walk arcs, but the return of one is seen after it let the
next one in, whose first arc may so be told before that return.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlxtrace.events import Open, State
from mlxtrace.mailbox import errno_name, state_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlxtrace.records import Raw

UNKNOWN = "?"


@dataclass(slots=True)
class _Arc:
    """An arc that is not over, or of which nobody knows yet how it ended.

    Attributes:
        over_ns, left: once another SET_STATE has begun: when, and the state that it met.
    """

    old: str
    new: str
    asked: str
    began: Raw
    who: Mapping[str, Any]
    over_ns: int = 0
    left: str = UNKNOWN

    def leads_on(self, asked: str) -> bool:
        """Whether the arc that comes next, on the way to ``asked``, is of the same SET_STATE."""
        return self.left == self.new != self.asked == asked


class Arcs:
    """Follows the arcs of one VF while its records go by.

    Attributes:
        state: the state that was reached last; ``?`` if that is not known.
        belated: arcs told as unseen whose return was seen after all, too late for their row.
    """

    def __init__(self) -> None:
        self.state = UNKNOWN
        self.belated = 0
        self._arc: _Arc | None = None
        # By their threads: arcs that another SET_STATE came after, before their return was seen;
        # and threads whose arc was told before its return was seen.
        self._late: dict[int, _Arc] = {}
        self._told: set[int] = set()

    @property
    def walks(self) -> bool:
        """Whether an arc is not over."""
        return self._arc is not None

    @property
    def aim(self) -> str | None:
        """Where the arc leads that is not over; None without one."""
        return self._arc.new if self._arc else None

    def walks_in(self, tid: int) -> bool:
        """Whether the arc that is not over is of the SET_STATE of this thread."""
        return self._arc is not None and self._arc.began.tid == tid

    def step(self, raw: Raw) -> Iterator[State]:
        """An arc begins: how the one before ended."""
        old, asked, _, call_ns = raw.value[:4]
        arc, self._arc = self._arc, None
        if raw.tid in self._late:
            yield from self._tell_late()
        self._told.discard(raw.tid)
        if arc is not None:
            arc.over_ns, arc.left = call_ns, state_name(old)
            if arc.began.tid != raw.tid:
                # Its return may be on its way, and tells what came of it.
                self._late[arc.began.tid] = arc
            elif arc.leads_on(state_name(asked)):
                yield from self._tell_late()
                yield _ended(arc, call_ns, 0)
            else:
                # Where it was to lead it had led, or it did not: its SET_STATE is another one.
                yield from self._tell_late()
                yield _unseen(arc)
        self.state = state_name(old)

    def begin(self, raw: Raw, who: Mapping[str, Any]) -> None:
        """Take the arc of :meth:`step` into account; ``who``: the keys that all events have."""
        old, asked, new = map(state_name, raw.value[:3])
        self._arc = _Arc(old, new, asked, raw, who)

    def set_state(self, raw: Raw, who: Mapping[str, Any]) -> Iterator[State]:
        """A SET_STATE returned: how its last arc ended, or that it walked none."""
        asked, start_ns = state_name(raw.value[0]), raw.value[1]
        arc = self._late.pop(raw.tid, None)
        if arc is not None and arc.asked == asked:
            yield _ended(arc, arc.over_ns, -raw.result)
            return
        if arc is not None:
            yield _unseen(arc)
        elif self._arc is not None and self.walks_in(raw.tid):
            arc, self._arc = self._arc, None
            yield from self._tell_late()
            if arc.asked == asked:
                self.state = arc.old if raw.result else arc.new
                yield _ended(arc, raw.boot_ns, -raw.result)
                return
            arc.over_ns, self.state = max(start_ns, arc.began.boot_ns), UNKNOWN
            yield _unseen(arc)
        elif raw.tid in self._told:
            self._told.discard(raw.tid)
            self.belated += 1
            if not raw.result:
                return
        yield State(
            **who,
            old_state=self.state,
            new_state=asked,
            asked_state=asked,
            start_boot_ns=start_ns,
            duration_ns=raw.boot_ns - start_ns,
            errno=-raw.result,
            error=errno_name(-raw.result),
        )
        if not raw.result and self._arc is None:
            self.state = asked

    def reset(self) -> None:
        """A reset has set the state back, unless an arc goes on."""
        if self._arc is None:
            self.state = "RUNNING"

    def pending(self, boot_ns: int) -> Iterator[Open]:
        """The arc that is not over at ``boot_ns``, as far as was seen."""
        if self._arc is not None:
            began_ns = self._arc.began.boot_ns
            yield Open(
                **{**self._arc.who, "boot_ns": boot_ns},
                call="state",
                what=f"{self._arc.old} -> {self._arc.new}",
                start_boot_ns=began_ns,
                open_ns=max(0, boot_ns - began_ns),
            )

    def finish(self, boot_ns: int, *, returned: bool) -> Iterator[State | Open]:
        """Tracing ended; ``returned``: no SET_STATE is open, so a return was not seen."""
        yield from self._tell_late()
        if returned and self._arc is not None:
            self._arc.over_ns = boot_ns
            yield _unseen(self._arc)
        else:
            yield from self.pending(boot_ns)
        self._arc = None

    def _tell_late(self) -> Iterator[State]:
        """What comes next must not be told before them, so their returns are not waited for."""
        self._told.update(self._late)
        late, self._late = self._late, {}
        for arc in late.values():
            yield _unseen(arc)


def _ended(arc: _Arc, at_ns: int, errno: int) -> State:
    return State(
        **{**arc.who, "boot_ns": at_ns},
        old_state=arc.old,
        new_state=arc.new,
        asked_state=arc.asked,
        start_boot_ns=arc.began.boot_ns,
        duration_ns=at_ns - arc.began.boot_ns,
        errno=errno,
        error=errno_name(errno),
    )


def _unseen(arc: _Arc) -> State:
    """An arc that was over when the next SET_STATE came, whose state tells whether it led there."""
    return State(
        **{**arc.who, "boot_ns": arc.over_ns},
        old_state=arc.old,
        new_state=arc.new,
        asked_state=arc.asked,
        start_boot_ns=arc.began.boot_ns,
        duration_ns=None,
        duration_max_ns=arc.over_ns - arc.began.boot_ns,
        errno=0 if arc.left == arc.new else None,
        error="",
    )
