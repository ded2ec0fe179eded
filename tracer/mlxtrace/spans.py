# SPDX-License-Identifier: GPL-2.0-or-later
"""How long one VF was in pre-copy, and how long it stood still until its stream was read.

A trace may begin or end in the middle of either: what was not seen to begin is not 0 ns long.
"""

from __future__ import annotations

from mlxtrace.events import Abort, End, Event, Ioctl, Open, Save, State

_RUNNING = {"RUNNING", "PRE_COPY"}
"""States in which a VF runs. An arc out of them quiesces it, or stops it where there is no P2P."""
_PRECOPY = {"PRE_COPY", "PRE_COPY_P2P"}


class Span:
    """A sum of stretches of time.

    Attributes:
        since_ns: boot_ns at which the stretch began that is not over.
    """

    def __init__(self) -> None:
        self.since_ns: int | None = None
        self._total_ns = 0
        self._is_known = True

    def end(self, boot_ns: int) -> None:
        """The stretch is over, whether it was seen to begin or not."""
        if self.since_ns is None:
            self.miss()
            return
        self._total_ns += boot_ns - self.since_ns
        self.since_ns = None
        self._is_known = True

    def miss(self) -> None:
        """There is or was a stretch of which begin or end was not seen."""
        self.since_ns = None
        self._is_known = self._total_ns > 0

    def total_ns(self, boot_ns: int | None = None) -> int | None:
        """The sum of those that were seen whole; None if none was, though there were some.

        With ``boot_ns``, one that is not over counts up to then.
        """
        if boot_ns is not None and self.since_ns is not None:
            return self._total_ns + max(0, boot_ns - self.since_ns)
        return self._total_ns if self._is_known else None


class Spans:
    """Both times of one VF. Only :meth:`add` changes them."""

    def __init__(self) -> None:
        self._state = ""
        self._precopy = Span()
        self._stopped = Span()
        self._was_read = False

    def add(self, event: Event) -> None:
        """Take one event of this VF into account."""
        match event:
            case State() if event.is_walked:
                self._walked(event)
                self._state = event.new_state
            case State() if event.errno:
                self._state = self._state or event.old_state.strip("?")
            case Open(call="state"):
                old, _, new = event.what.partition(" -> ")
                self._hangs(old, new, event.start_boot_ns)
            case Ioctl(errno=0) | Save(kind="middle") if not self._state:
                # Tracing began in pre-copy: neither is possible anywhere else.
                self._precopy.miss()
            case End(direction="read", kind="final"):
                # Where the state is not known, tracing began in STOP_COPY.
                if self._stopped.since_ns is not None or self._state in ("", "STOP_COPY"):
                    self._over(event.boot_ns)
            case Abort():
                if self._precopy.since_ns is not None:
                    self._precopy.end(event.boot_ns)
                if self._stopped.since_ns is not None and self._state == "STOP_COPY":
                    self._stopped.miss()
                self._stopped.since_ns = None

    def to_json(self, boot_ns: int) -> dict[str, int | bool | None]:
        """Return the keys of the summary; ``boot_ns`` is now."""
        stopped = self._stopped.total_ns()
        # Only of a migration: a guest that is paused stands still as well.
        if self._stopped.since_ns is not None and self._state in ("PRE_COPY_P2P", "STOP_COPY"):
            stopped = stopped or None
        return {
            "precopy_ns": self._precopy.total_ns(boot_ns),
            "precopy_is_open": self._precopy.since_ns is not None,
            "stopped_ns": stopped,
        }

    def _walked(self, event: State) -> None:
        old, new = event.old_state, event.new_state
        if new == "PRE_COPY" and old not in _PRECOPY:
            self._precopy.since_ns = event.start_boot_ns
        elif old == "PRE_COPY" and (self._precopy.since_ns is not None or not self._state):
            self._precopy.end(event.start_boot_ns)
        if new == "STOP_COPY":
            self._was_read = False
        if old in _RUNNING and new not in _RUNNING:
            self._stopped.since_ns = event.start_boot_ns
        elif old == "STOP_COPY" and not self._was_read:
            # Nobody read to the end, or nobody saw the begin.
            self._stopped.miss()
        elif new in ("RUNNING", "RUNNING_P2P", "RESUMING"):
            self._stopped.since_ns = None

    def _hangs(self, old: str, new: str, boot_ns: int) -> None:
        """An arc began, and had not ended when tracing did."""
        if old == "PRE_COPY" and self._precopy.since_ns is not None:
            self._precopy.end(boot_ns)
        if old in _RUNNING and new not in _RUNNING:
            self._stopped.miss()

    def _over(self, boot_ns: int) -> None:
        """The stream was read to its end, which later reads only say again."""
        if not self._was_read:
            self._stopped.end(boot_ns)
        self._was_read = True
