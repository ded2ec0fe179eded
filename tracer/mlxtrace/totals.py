# SPDX-License-Identifier: GPL-2.0-or-later
"""What adds up over one VF's events, for the closing summary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlxtrace.buckets import Buckets
from mlxtrace.content import ContentSum
from mlxtrace.convergence import Convergence, spread
from mlxtrace.downtime import Downtime
from mlxtrace.events import (
    Abort,
    Buffer,
    Command,
    Content,
    Drain,
    End,
    Estimate,
    Event,
    Header,
    Histogram,
    Ioctl,
    Load,
    Open,
    Read,
    Save,
    State,
    Summary,
)
from mlxtrace.spans import Spans

if TYPE_CHECKING:
    from mlxtrace.counters import Counters


@dataclass(slots=True)
class Totals:
    """Counts and times of one VF. Only :meth:`add` changes them."""

    sessions: int = 0
    state_changes: int = 0
    failed_state_changes: int = 0
    resets: int = 0
    saves: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    failed_saves: int = 0
    in_flight_saves: int = 0
    incomplete_saves: int = 0
    unseen_arcs: int = 0
    open_calls: int = 0
    image_bytes: list[int | None] = field(default_factory=list)
    fw_ns: list[int] = field(default_factory=list)
    wait_ns: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    gaps: dict[tuple[int, str], int] = field(default_factory=dict)
    drained_images: int = 0
    queued_ns: int = 0
    drain_ns: int = 0
    queued_bytes_max: int = 0
    buffers_allocated: int = 0
    buffers_reused: int = 0
    buffers_freed: int = 0
    buffer_ns: int = 0
    held_bytes_max: int = 0
    mkeys: int = 0
    mkey_ns: int = 0
    ioctls: int = 0
    failed_ioctls: int = 0
    ioctls_ns: list[int] = field(default_factory=list)
    asked_states: Buckets = field(default_factory=Buckets)
    estimates: int = 0
    failed_estimates: int = 0
    stream_format: str = ""
    loads: int = 0
    failed_loads: int = 0
    load_bytes: list[int] = field(default_factory=list)
    load_fw_ns: int = 0
    failed_arcs: int = 0
    aborts: int = 0
    waits_ns: list[int] = field(default_factory=list)
    queues_ns: list[int] = field(default_factory=list)
    downtime: Downtime = field(default_factory=Downtime)
    convergence: Convergence = field(default_factory=Convergence)
    spans: Spans = field(default_factory=Spans)
    content: dict[str, ContentSum] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Take one event of this VF into account."""
        self.downtime.add(event)
        self.convergence.add(event)
        self.spans.add(event)
        match event:
            case State():
                self._state(event)
            case Save():
                self._save(event)
            case Ioctl():
                self.ioctls += 1
                self.failed_ioctls += event.errno != 0
                self.ioctls_ns.append(event.latency_ns)
            case Histogram(direction="get_state"):
                self.asked_states.add(event.counts)
            case Read():
                self.calls[event.direction] = self.calls.get(event.direction, 0) + event.calls
                self.bytes[event.direction] = self.bytes.get(event.direction, 0) + event.bytes
                self._gap(event)
            case End():
                self.ends[event.kind] = self.ends.get(event.kind, 0) + event.calls
                self.reasons[event.reason] = self.reasons.get(event.reason, 0) + event.calls
                self._gap(event)
            case Drain():
                self.drained_images += 1
                if event.queued_ns is not None:
                    self.queued_ns += event.queued_ns
                    self.queues_ns.append(event.queued_ns)
                self.drain_ns += event.drain_ns
            case Estimate():
                self.estimates += 1
                self.failed_estimates += event.errno != 0
            case Header() if not event.offset_bytes:
                self.stream_format = event.format
            case Buffer():
                self._buffer(event)
            case Load():
                self.loads += 1
                self.load_fw_ns += event.fw_ns
                if event.errno or event.status:
                    self.failed_loads += 1
                else:
                    self.load_bytes.append(event.image_bytes)
            case Abort():
                self.aborts += 1
            case Content():
                found = self.content.setdefault(event.direction, ContentSum())
                found.add(event.content_sum, event.samples, event.missed_samples)
            case Open():
                self.open_calls += 1
            case Command():
                pass

    def summary(self, bdf: str | None, boot_ns: int, counters: Counters | None) -> Summary:
        """Return the summary; ``counters`` are those of the whole trace, if they are known."""
        derived: dict[str, Any] = {
            **spread("save_fw", self.fw_ns),
            **spread("wait", self.waits_ns),
            **spread("queued", self.queues_ns),
            **spread("ioctl", self.ioctls_ns),
            **self.asked_states.spread("get_state"),
            **self.convergence.to_json(boot_ns),
            **self.downtime.to_json(),
            **self.spans.to_json(boot_ns),
            **self._content(),
        }
        return Summary(
            **derived,
            bdf=bdf,
            boot_ns=boot_ns,
            sessions=self.sessions,
            state_changes=self.state_changes,
            failed_state_changes=self.failed_state_changes,
            resets=self.resets,
            saves=self.saves,
            images=len(self.image_bytes),
            initial_images=self.kinds.get("initial", 0),
            middle_images=self.kinds.get("middle", 0),
            final_images=self.kinds.get("final", 0),
            cleanup_saves=self.kinds.get("cleanup", 0),
            failed_saves=self.failed_saves,
            in_flight_saves=self.in_flight_saves,
            image_bytes=self.image_bytes,
            read_calls=self.calls.get("read", 0),
            read_bytes=self.bytes.get("read", 0),
            write_calls=self.calls.get("write", 0),
            written_bytes=self.bytes.get("write", 0),
            ioctls=self.ioctls,
            failed_ioctls=self.failed_ioctls,
            # They are told at the ends of sessions and of the trace: a cut recording lacks some.
            get_states=self.asked_states.calls if counters else None,
            estimates=self.estimates,
            failed_estimates=self.failed_estimates,
            stream_format=self.stream_format,
            temporary_ends=self.ends.get("temporary", 0),
            temporary_ends_idle=self.reasons.get("idle", 0),
            temporary_ends_in_flight=self.reasons.get("save-in-flight", 0),
            temporary_ends_fallback=self.reasons.get("fallback", 0),
            temporary_ends_unasked=self.reasons.get("nobody-asked", 0),
            final_ends=self.ends.get("final", 0),
            again_ends=self.ends.get("again", 0),
            stream_errors=self.ends.get("error", 0),
            loads=self.loads,
            failed_loads=self.failed_loads,
            load_bytes=self.load_bytes,
            load_fw_ns=self.load_fw_ns,
            wait_ns=self.wait_ns,
            drained_images=self.drained_images,
            queued_ns=self.queued_ns,
            drain_ns=self.drain_ns,
            queued_bytes_max=self.queued_bytes_max,
            buffers_allocated=self.buffers_allocated,
            buffers_reused=self.buffers_reused,
            buffers_freed=self.buffers_freed,
            buffer_ns=self.buffer_ns,
            held_bytes_max=self.held_bytes_max,
            mkeys=self.mkeys,
            mkey_ns=self.mkey_ns,
            gap_bytes=sum(abs(gap) for gap in self.gaps.values()),
            failed_arcs=self.failed_arcs,
            aborts=self.aborts,
            lost_records=counters.lost_records if counters else None,
            missed_returns=counters.missed_returns if counters else None,
            skipped=counters.skipped if counters else None,
            incomplete_saves=self.incomplete_saves,
            unseen_arcs=self.unseen_arcs,
            open_calls=self.open_calls,
        )

    def _content(self) -> dict[str, int | None]:
        """Return a summary's fields about the content; None where no sum was taken."""
        fields: dict[str, int | None] = {}
        for direction, name in (("read", "read"), ("write", "written")):
            found = self.content.get(direction)
            fields[f"{name}_content_sum"] = found.total if found else None
            fields[f"{name}_content_samples"] = found.samples if found else None
        missed = [found.missed_samples for found in self.content.values()]
        return {**fields, "content_missed_samples": sum(missed) if missed else None}

    def _buffer(self, event: Buffer) -> None:
        held = event.held_bytes
        if event.action == "free":
            self.buffers_freed += 1
            held += event.allocated_bytes or 0
        elif event.action == "mkey":
            self.mkeys += not event.errno
            self.mkey_ns += event.took_ns or 0
        else:
            self.buffers_allocated += not event.errno
            self.buffer_ns += event.took_ns or 0
        self.held_bytes_max = max(self.held_bytes_max, held)

    def _gap(self, event: Read | End) -> None:
        if event.gap_bytes is not None:
            self.gaps[event.session, event.direction] = event.gap_bytes

    def _state(self, event: State) -> None:
        self.unseen_arcs += event.duration_ns is None
        self.failed_arcs += bool(event.errno)

    def _save(self, event: Save) -> None:
        self.saves += 1
        self.buffers_reused += event.buffer == "reused"
        if event.queued_bytes is not None:
            queued = event.queued_bytes + (event.image_bytes or 0)
            self.queued_bytes_max = max(self.queued_bytes_max, queued)
        if event.wait_ns is not None:
            self.wait_ns += event.wait_ns
            self.waits_ns.append(event.wait_ns)
        if event.fw_ns is not None:
            self.fw_ns.append(event.fw_ns)
        if event.in_flight:
            # It was seen to begin, which is all that there is to see so far: nothing is missing.
            self.in_flight_saves += 1
            return
        self.incomplete_saves += not event.callback_seen
        if event.status or event.errno:
            self.failed_saves += 1
            return
        self.kinds[event.kind] = self.kinds.get(event.kind, 0) + 1
        if event.kind == "cleanup":
            return
        self.image_bytes.append(event.image_bytes)
