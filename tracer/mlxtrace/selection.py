# SPDX-License-Identifier: GPL-2.0-or-later
"""Which events are shown. What is recorded and what is summed up at the end is never chosen.

With ``-p``, a VF belongs to the process that last changed its state, and reads and completions,
which have no task of their own, belong to whom the VF belongs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlxtrace.events import Abort, Drain, End, Event, Lost, Meta, Read, State, Summary
from mlxtrace.flowing import Flowing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_DURATIONS = (
    "duration_ns",
    "latency_ns",
    "took_ns",
    "busy_ns",
    "drain_ns",
    "fw_ns",
    "fw_max_ns",
    "fw_min_ns",
    "open_ns",
)
_PRECOPY = {"PRE_COPY", "PRE_COPY_P2P"}
_BACK = {"RUNNING", "RUNNING_P2P"}
_MOST_PIDS = 8


@dataclass(frozen=True, slots=True)
class Selection:
    """What a user asks to see.

    Attributes:
        devices: only these VFs; all if empty.
        pid: only what this process does.
        failures_only: only failures (``-x``).
        min_ns: of what takes time, only what took so long; failures and states always.
        interval_ns: sums of so much time instead of rows (``-i``).
    """

    devices: Collection[str] = ()
    pid: int | None = None
    failures_only: bool = False
    min_ns: int = 0
    interval_ns: int = 0

    @property
    def chooses_rows(self) -> bool:
        """Whether it takes the events themselves to tell what is shown, not just their VF."""
        return self != Selection(devices=self.devices)


EVERYTHING = Selection()


class Filter:
    """Applies a selection to events, in their order.

    Args:
        selection: what is asked for.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._owners: dict[str | None, int] = {}
        self._theirs: set[str | None] = set()
        self._reads: set[str | None] = set()
        self._finished: set[str | None] = set()
        # In the order in which they turned up.
        self._names: dict[str, None] = {}
        self._processes: dict[int, None] = {}

    def concerns(self, event: Event) -> bool:
        """Whether ``event`` is of a VF and of a process that were asked for."""
        self._remember(event)
        selection = self._selection
        if isinstance(event, (Meta, Lost)):
            return True
        if selection.devices and event.bdf not in selection.devices:
            return False
        if selection.pid is None:
            return True
        if isinstance(event, Summary):
            return event.bdf in self._theirs
        # A SAVE without its issue has pid 0.
        pid = getattr(event, "pid", 0) or self._owners.get(event.bdf)
        theirs = selection.pid in (pid, self._owners.get(event.bdf))
        if theirs:
            self._theirs.add(event.bdf)
        return theirs

    def not_there(self) -> Iterator[str]:
        """Yield what was asked for and is in none of the events, all of which have been seen."""
        has = ", ".join(self._names) or "none"
        for name in self._selection.devices:
            if name not in self._names:
                yield f"no VF {name}; it has {has}"
        pid = self._selection.pid
        if pid is not None and pid not in self._processes:
            several = [*map(str, self._processes)]
            more = ["and others"] if len(several) > _MOST_PIDS else []
            yield f"no PID {pid}; it has {', '.join(several[:_MOST_PIDS] + more) or 'none'}"

    def closing(self, event: Lost) -> Lost:
        """Return the closing losses without what another process than the one asked for lost.

        Only calls on files whose VF is not known are counted by process.
        """
        pid, calls = self._selection.pid, event.unowned_calls
        if pid is None or calls is None:
            return event
        return replace(event, unowned_calls={pid: calls[pid]} if pid in calls else {})

    def gets_row(self, event: Event) -> bool:
        """Whether ``event``, which concerns the user, is worth a row of its own."""
        selection = self._selection
        if isinstance(event, Flowing):
            return False
        if isinstance(event, (Meta, Lost, Summary)):
            return True
        failed = is_failure(event) or self._is_cancel(event)
        if selection.failures_only or selection.interval_ns:
            return failed
        if not selection.min_ns or failed or isinstance(event, State):
            return True
        took = duration_ns(event)
        return took is not None and took >= selection.min_ns

    def _remember(self, event: Event) -> None:
        if event.bdf is not None:
            self._names.setdefault(event.bdf)
        if known := getattr(event, "pid", 0):
            self._processes.setdefault(known)
        # A trace that began in mid-session sees other calls before the first state.
        if not isinstance(event, Abort) and (pid := getattr(event, "pid", 0)):
            self._owners.setdefault(event.bdf, pid)
        match event:
            case State():
                self._owners[event.bdf] = event.pid
                if event.new_state == "STOP_COPY" or event.new_state in _BACK:
                    self._reads.discard(event.bdf)
                    self._finished.discard(event.bdf)
            case Read():
                self._reads.add(event.bdf)
            case End(kind="final"):
                self._finished.add(event.bdf)

    def _is_cancel(self, event: Event) -> bool:
        """Whether this arc gives a migration up before all of its data was read."""
        if not isinstance(event, State):
            return False
        if event.old_state in _PRECOPY and event.new_state in _BACK:
            return True
        left = event.old_state == "STOP_COPY" and event.new_state == "STOP"
        # Without any read seen, nobody knows: the probe may be absent.
        return left and event.bdf in self._reads and event.bdf not in self._finished


def is_failure(event: Event) -> bool:
    """Whether ``event`` tells that something failed, or that a session ended unasked."""
    if isinstance(event, Abort):
        return True
    return bool(getattr(event, "errno", 0) or getattr(event, "status", 0))


def duration_ns(event: Event) -> int | None:
    """How long the thing took, waiting included; None for what takes no time, or is not known."""
    known: Any = next(
        (at for key in _DURATIONS if (at := getattr(event, key, None)) is not None), None
    )
    if known is None:
        return None
    # The wait in an image's row is the one in the queue; that before its SAVE is in the SAVE's.
    waited = event.queued_ns if isinstance(event, Drain) else getattr(event, "wait_ns", None)
    return int(known) + int(waited or 0)
