# SPDX-License-Identifier: GPL-2.0-or-later
"""Where one VF's downtime went: on a source until its data was read, on a target until it runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mlxtrace.events import Abort, Command, End, Event, Load, Save, State
from mlxtrace.mailbox import MIGRATING

_LIVE = {"RUNNING", "PRE_COPY", "RESUMING"}
"""States in which a VF has not been stopped for a migration (any more)."""


@dataclass(slots=True)
class Phases:
    """Nanoseconds of each phase; None for one that was not seen.

    Attributes:
        suspend_initiator_ns: SUSPEND of the initiator: no more DMA to other devices.
        suspend_responder_ns: SUSPEND of the responder: the VF stands still.
        final_query_ns: the QUERY for the final image's size.
        final_buffer_ns: from then until the driver is ready to save: the buffer and its mkey.
        final_wait_ns: the wait for the SAVE before.
        final_save_ns: firmware time of the final SAVE.
        final_read_ns: from then until the reader was told the end of the stream.
    """

    suspend_initiator_ns: int | None = None
    suspend_responder_ns: int | None = None
    final_query_ns: int | None = None
    final_buffer_ns: int | None = None
    final_wait_ns: int | None = None
    final_save_ns: int | None = None
    final_read_ns: int | None = None

    def total(self, other: Phases) -> Phases:
        """Return the sums of both, phase by phase."""
        mine, theirs = asdict(self), asdict(other)
        return Phases(**{key: _sum(mine[key], theirs[key]) for key in mine})


class Downtime:
    """Adds the phases of all migrations up. Only :meth:`add` changes it."""

    def __init__(self) -> None:
        self._done = Phases()
        self._now = Phases()
        self._query_end: int | None = None
        self._saved_at: int | None = None
        self._loaded_at: int | None = None
        self._final_load_ns: int | None = None
        self._resume_ns: int | None = None
        self._resume_fw_ns: int | None = None

    def add(self, event: Event) -> None:
        """Take one event of this VF into account."""
        match event:
            case Command():
                self._command(event)
            case Save(kind="final", fw_min_ns=None):
                self._final(event)
            case End(direction="read", kind="final"):
                if self._saved_at is not None:
                    self._now.final_read_ns = event.boot_ns - self._saved_at
                self._over()
            case Load() if not event.status and not event.errno:
                self._loaded_at = event.boot_ns
                self._final_load_ns = event.fw_ns
            case State() if event.is_walked:
                self._state(event)
            case Abort():
                self._forget()
                self._loaded_at = None

    def to_json(self) -> dict[str, int | None]:
        """Return the keys of the summary."""
        return {
            **asdict(self._done),
            "final_load_ns": self._final_load_ns,
            "resume_fw_ns": self._resume_fw_ns,
            "resume_ns": self._resume_ns,
        }

    def _command(self, event: Command) -> None:
        now = self._now
        if event.name == "SUSPEND" and event.op_mod == "INITIATOR":
            now.suspend_initiator_ns = _sum(now.suspend_initiator_ns, event.fw_ns)
        elif event.name == "SUSPEND":
            now.suspend_responder_ns = _sum(now.suspend_responder_ns, event.fw_ns)
        elif event.name == "QUERY":
            # Those of pre-copy come before the VF stands still.
            if now.suspend_responder_ns is not None:
                now.final_query_ns = _sum(now.final_query_ns, event.fw_ns)
                self._query_end = event.boot_ns
        elif event.name == "RESUME" and self._loaded_at is not None:
            self._resume_fw_ns = _sum(self._resume_fw_ns, event.fw_ns)

    def _final(self, event: Save) -> None:
        now = self._now
        now.final_save_ns = _sum(now.final_save_ns, event.fw_ns)
        now.final_wait_ns = _sum(now.final_wait_ns, event.wait_ns)
        if None not in (self._query_end, event.issue_boot_ns, event.wait_ns):
            assert self._query_end is not None
            assert event.issue_boot_ns is not None
            assert event.wait_ns is not None
            ready = event.issue_boot_ns - event.wait_ns
            now.final_buffer_ns = _sum(now.final_buffer_ns, max(0, ready - self._query_end))
        self._query_end = None
        if event.callback_seen:
            self._saved_at = event.boot_ns

    def _state(self, event: State) -> None:
        if event.old_state == "STOP_COPY":
            # Nobody read to the end, or the probe that sees it is absent.
            self._over()
        if event.new_state in MIGRATING:
            # What was loaded before is nothing that this session, or what follows it, resumes.
            self._loaded_at = None
        if event.new_state not in _LIVE:
            return
        self._forget()
        if event.new_state == "RUNNING" and self._loaded_at is not None:
            self._resume_ns = _sum(self._resume_ns, event.boot_ns - self._loaded_at)
            self._loaded_at = None

    def _over(self) -> None:
        self._done = self._done.total(self._now)
        self._forget()

    def _forget(self) -> None:
        self._now = Phases()
        self._query_end = self._saved_at = None


def _sum(one: int | None, two: int | None) -> int | None:
    if one is None or two is None:
        return two if one is None else one
    return one + two
