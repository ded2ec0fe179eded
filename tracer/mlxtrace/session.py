# SPDX-License-Identifier: GPL-2.0-or-later
"""One VF's migration sessions, rebuilt from its records.

A session begins when data can begin to flow: RUNNING to PRE_COPY, RUNNING_P2P to PRE_COPY_P2P,
STOP to STOP_COPY, STOP to RESUMING. Rows before the first one that was seen to begin have
session 0: tracing started in the middle of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlxtrace import mailbox, opencalls
from mlxtrace.arcs import Arcs
from mlxtrace.buffers import Buffers
from mlxtrace.datapath import DataPath
from mlxtrace.endings import Ending, Endings
from mlxtrace.events import Abort, Command, Estimate, Event, Ioctl, Load, Open, Save, State
from mlxtrace.headers import Headers
from mlxtrace.mailbox import Opcode, errno_name, state_name, status_name
from mlxtrace.records import FLAG_REFUSED, FLAG_UNREADABLE, Raw
from mlxtrace.totals import Totals
from mlxuapi import vfio as uapi

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD_HEADER = 16
"""Bytes that the driver puts before each image in the stream, since Linux 6.2."""

_STARTS = {
    ("RUNNING", "PRE_COPY"),
    ("RUNNING_P2P", "PRE_COPY_P2P"),
    ("STOP", "STOP_COPY"),
    ("STOP", "RESUMING"),
}
_PRECOPY = ("PRE_COPY", "PRE_COPY_P2P")
_SAVING = (*_PRECOPY, "STOP_COPY")


@dataclass(slots=True)
class _Issue:
    raw: Raw
    kind: str
    image: int | None
    session: int
    query_bytes: int | None
    buffer: str | None


class VfSession:
    """The state of one VF while its records go by; yields its events.

    Attributes:
        bdf: its name.
        totals: what its events add up to.
        data: its stream.
    """

    def __init__(self, bdf: str | None) -> None:
        self.bdf = bdf
        self.totals = Totals()
        self._session = 0
        self._arcs = Arcs()
        self._images = 0
        self._loads = 0
        self._query_bytes: int | None = None
        self._issued: dict[int, _Issue] = {}
        self.data = DataPath(bdf)
        self._buffers = Buffers()
        self._headers = Headers(bdf)
        self._endings = Endings()

    def step(self, raw: Raw) -> Iterator[Event]:
        """The state machine goes on: the arc before is over, the next one begins."""
        old, _, new, call_ns = raw.value[:4]
        self._buffers.old()
        yield from self._walked(self._arcs.step(raw))
        if raw.result:
            return
        if (state_name(old), state_name(new)) in _STARTS:
            yield from self._saves_over(call_ns)
            self._session += 1
            self.totals.sessions += 1
            self._images = self._loads = 0
            self._endings.begin()
            self.data.begin(self._session)
        self._arcs.begin(raw, self._who(raw))

    def set_state(self, raw: Raw) -> Iterator[Event]:
        """A SET_STATE returned."""
        self.totals.state_changes += 1
        self.totals.failed_state_changes += raw.result != 0
        self._buffers.old()
        yield from self._walked(self._arcs.set_state(raw, self._who(raw)))
        # Nothing of these is missing.
        self.totals.unseen_arcs -= self._arcs.belated
        self._arcs.belated = 0

    def ioctl(self, raw: Raw) -> Iterator[Event]:
        """A call of the pre-copy ioctl returned."""
        if raw.value[0] != uapi.VFIO_MIG_GET_PRECOPY_INFO:
            # An ioctl that the file does not have, which the driver refused.
            return
        self.data.asked()
        self._buffers.old()
        known = not raw.result and not raw.flags & FLAG_UNREADABLE
        yield Ioctl(
            **self._who(raw),
            precopy_init_size_bytes=raw.value[2] if known else None,
            precopy_dirty_size_bytes=raw.value[3] if known else None,
            latency_ns=raw.boot_ns - raw.value[1],
            errno=-raw.result,
            error=errno_name(-raw.result),
        )

    def data_size(self, raw: Raw) -> Iterator[Event]:
        """A question for the size of a stop-copy was answered."""
        yield Estimate(
            **self._who(raw),
            stopcopy_size_bytes=None if raw.result else raw.value[1],
            latency_ns=raw.boot_ns - raw.value[0],
            errno=-raw.result,
            error=errno_name(-raw.result),
        )

    def header(self, raw: Raw) -> Iterator[Event]:
        """A header is on its way into the driver."""
        return self._headers.record(raw, self._session)

    def flow(self, raw: Raw, direction: str) -> Iterator[Event]:
        """A snapshot of the read or write totals."""
        return self.data.flow(
            raw,
            direction,
            in_flight=bool(self._issued),
            in_precopy=self._arcs.state in _PRECOPY and not self._arcs.walks,
        )

    def flowing(self, raw: Raw) -> Iterator[Event]:
        """A look at the read or write totals between two snapshots."""
        return self.data.flowing(raw)

    def no_data_reason(self) -> str:
        """Why there is no data for now; after a temporary end nobody has asked again."""
        return self.data.reason(in_flight=bool(self._issued))

    def buffer(self, raw: Raw) -> Iterator[Event]:
        """A buffer came, went, or got a memory key."""
        yield self._buffers.record(raw, self._who(raw))

    def drained(self, raw: Raw) -> Iterator[Event]:
        """An image was read to its end."""
        return self.data.drained(raw)

    def content(self, raw: Raw) -> Iterator[Event]:
        """The sum of what went through reads or writes."""
        return self.data.content(raw)

    def histogram(self, raw: Raw) -> Iterator[Event]:
        """A part of a histogram of reads or writes."""
        return self.data.histogram(raw)

    def longest(self, raw: Raw) -> Iterator[Event]:
        """How long a question for the state took at most so far."""
        self.totals.asked_states.saw(raw.value[0])
        return iter(())

    def save_issue(self, raw: Raw) -> Iterator[Event]:
        """A SAVE goes to the firmware."""
        work = raw.value[0]
        before = self._issued.pop(work, None)
        if before is not None:
            yield self._unseen(before, raw.boot_ns, None)
        kind = self._kind(raw.value[3], state_name(raw.value[6]))
        image = None
        if kind != "cleanup":
            self._images += 1
            image = self._images
        buffer = self._buffers.of_save(raw.value[7])
        self._buffers.old()
        self._issued[work] = _Issue(raw, kind, image, self._session, self._query_bytes, buffer)
        self._query_bytes = None

    def save_done(self, raw: Raw) -> Iterator[Event]:
        """The callback of a SAVE runs, or it was refused and has none."""
        work, issue_ns, status, syndrome, size, _, images, unread = raw.value[:8]
        issue = self._issued.pop(work, None)
        began = issue.raw.boot_ns if issue else issue_ns or None
        # For a status of the firmware the driver gets EREMOTEIO, which says less.
        errno = -raw.result if raw.result and not status else 0
        failed = bool(status or errno)
        # The firmware has never seen it, and so has neither a status nor a time.
        refused = bool(raw.flags & FLAG_REFUSED)
        save = Save(
            **self._issue_keys(issue, raw),
            image_bytes=None if failed else size,
            queued_images=images,
            queued_bytes=unread,
            issue_boot_ns=began,
            fw_ns=raw.boot_ns - began if began and not refused else None,
            fw_max_ns=None,
            callback_seen=True,
            status=None if refused else status,
            status_name="" if refused else status_name(status),
            syndrome=None if refused else syndrome,
            errno=errno,
            error=errno_name(errno),
        )
        self.data.saved(began or 0, save)
        yield save

    def save_unseen(self, raw: Raw) -> Iterator[Event]:
        """A SAVE turned out to be complete without its callback having been seen."""
        issue = self._issued.pop(raw.value[0], None)
        if issue is not None:
            save = self._unseen(issue, raw.boot_ns, _unseen_size(raw))
            self.data.saved(issue.raw.boot_ns, save)
            yield save

    def command(self, raw: Raw) -> Iterator[Event]:
        """A command other than SAVE returned."""
        start, opcode, op_mod, flags, size, status, syndrome, query, remaining, vhca_id = raw.value
        common = {
            **self._who(raw),
            "vhca_id": vhca_id,
            "fw_ns": raw.boot_ns - start,
            "status": status,
            "status_name": status_name(status),
            "syndrome": syndrome,
            "errno": -raw.result,
            "error": errno_name(-raw.result),
        }
        if opcode == Opcode.LOAD_VHCA_STATE:
            self._loads += 1
            yield Load(**common, image=self._loads, image_bytes=size)
            return
        is_query = opcode == Opcode.QUERY_VHCA_MIGRATION_STATE and not status and not raw.result
        self._query_bytes = query if is_query else self._query_bytes
        yield Command(
            **common,
            opcode=opcode,
            name=mailbox.opcode_name(opcode),
            op_mod=mailbox.op_mod_name(opcode, op_mod),
            incremental=bool(flags & mailbox.INCREMENTAL),
            query_bytes=query if is_query else None,
            remaining_bytes=remaining if is_query else None,
        )

    def open_call(self, raw: Raw) -> Iterator[Event]:
        """A call had not returned when tracing ended."""
        kind, start_ns, word = raw.value[:3]
        names = opencalls.describe(kind, word)
        # The arc of a SET_STATE is told at the end.
        if names is None or (kind == opencalls.Call.STATE and self._arcs.walks_in(raw.tid)):
            return
        call, what = names
        yield Open(
            **self._who(raw),
            call=call,
            what=what,
            start_boot_ns=start_ns,
            open_ns=max(0, raw.boot_ns - start_ns),
        )

    def frame(self, raw: Raw) -> Iterator[Event]:
        """A function on the stack of the record that comes next."""
        self._endings.frame(raw)
        return iter(())

    def reset(self, raw: Raw) -> Iterator[Event]:
        """A reset of the VF is done."""
        ending = self._endings.reset(raw)
        self.totals.resets = self._endings.resets
        return self._aborted(ending)

    def session_end(self, raw: Raw) -> Iterator[Event]:
        """The driver takes the data files away."""
        return self._aborted(self._endings.session_end(raw))

    def pending(self, boot_ns: int) -> Iterator[Event]:
        """What has begun and, as far as was seen, is not over at ``boot_ns``."""
        yield from self._arcs.pending(boot_ns)
        yield from self._in_flight(boot_ns)

    def finish(self, boot_ns: int, *, returned: bool = False) -> Iterator[Event]:
        """Tracing ended at ``boot_ns``: what is still open.

        ``returned``: all SET_STATEs had returned, whether it was seen or not.
        """
        yield from self._walked(self._arcs.finish(boot_ns, returned=returned))
        yield from self._in_flight(boot_ns)
        self._issued.clear()

    def _aborted(self, ending: Ending | None) -> Iterator[Event]:
        if ending is None:
            return
        yield Abort(
            **self._who(ending.raw),
            cause=ending.cause,
            direction=ending.direction,
            state=ending.state or self._arcs.state,
            stack=ending.stack,
        )
        if ending.cause == "reset":
            self._arcs.reset()

    def _walked(self, arcs: Iterator[State | Open]) -> Iterator[Event]:
        """Arcs that are over, and before each what is over with it."""
        for arc in arcs:
            if isinstance(arc, State) and arc.is_walked and arc.new_state not in _SAVING:
                yield from self._saves_over(arc.boot_ns)
            yield arc

    def _kind(self, flags: int, state: str) -> str:
        if flags & mailbox.SET_TRACK:
            return "middle" if flags & mailbox.INCREMENTAL else "initial"
        if flags & mailbox.INCREMENTAL:
            return "final"
        # A cleanup that failed may be made up for on any later arc but the one to STOP_COPY.
        if self._arcs.aim is not None:
            return "final" if self._arcs.aim == "STOP_COPY" else "cleanup"
        return "cleanup" if state in ("RUNNING", "RUNNING_P2P", "PRE_COPY") else "final"

    def _saves_over(self, boot_ns: int) -> Iterator[Event]:
        """The session's file is gone, and the driver waits for its SAVEs before that."""
        over = [work for work, issue in self._issued.items() if issue.raw.boot_ns <= boot_ns]
        for work in over:
            yield self._unseen(self._issued.pop(work), boot_ns, None)

    def _in_flight(self, boot_ns: int) -> Iterator[Save]:
        for issue in self._issued.values():
            yield self._unseen(issue, boot_ns, None, in_flight=True)

    def _unseen(
        self, issue: _Issue, boot_ns: int, size: int | None, *, in_flight: bool = False
    ) -> Save:
        """A SAVE without its callback: over by ``boot_ns``, or ``in_flight`` then."""
        age = boot_ns - issue.raw.boot_ns
        return Save(
            **{**self._issue_keys(issue, issue.raw), "boot_ns": boot_ns},
            image_bytes=size,
            queued_images=None,
            queued_bytes=None,
            issue_boot_ns=issue.raw.boot_ns,
            fw_ns=None,
            fw_max_ns=None if in_flight else age,
            fw_min_ns=age if in_flight else None,
            callback_seen=False,
            status=None,
            status_name="",
            syndrome=None,
            errno=0,
            error="",
        )

    def _issue_keys(self, issue: _Issue | None, raw: Raw) -> dict[str, Any]:
        """What the issue told; the callback's own task is whoever was interrupted."""
        if issue is None:
            return {
                **self._who(raw),
                "pid": 0,
                "tid": 0,
                "comm": "",
                "kind": "unknown",
                "image": None,
                "query_bytes": None,
                "requested_bytes": None,
                "buffer": None,
                "wait_ns": None,
            }
        entered = issue.raw.value[4]
        return {
            **self._who(issue.raw),
            "boot_ns": raw.boot_ns,
            "session": issue.session,
            "kind": issue.kind,
            "image": issue.image,
            "query_bytes": issue.query_bytes,
            "requested_bytes": issue.raw.value[1],
            "buffer": issue.buffer,
            "wait_ns": issue.raw.boot_ns - entered if entered else None,
        }

    def _who(self, raw: Raw) -> dict[str, Any]:
        return {
            "bdf": self.bdf,
            "boot_ns": raw.boot_ns,
            "session": self._session,
            "pid": raw.pid,
            "tid": raw.tid,
            "comm": raw.command_name,
        }


def _unseen_size(raw: Raw) -> int | None:
    """The image's size from the driver's buffer; else from how far the stream grew.

    A buffer that was drained before anyone looked has no place in the stream any more. Before
    Linux 6.2 there is one image without a header, whose size is the stream's.
    """
    _, _, before, now, start, length, has_buffers = raw.value[:7]
    if not has_buffers:
        return now
    if length and start >= before:
        return length
    return max(0, now - before - RECORD_HEADER)
