# SPDX-License-Identifier: GPL-2.0-or-later
"""What a trace tells, one class per ``type`` of docs/events.md.

The attributes are the keys of the JSON lines: their names carry the unit, and a None is a value
that could not be known. ``boot_ns`` is CLOCK_BOOTTIME when the thing was over.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

SCHEMA = 1
"""Version of docs/events.md; it grows when a key changes its meaning or goes away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have: the VF and the time. ``bdf`` is None for what concerns no one VF."""

    type: ClassVar[str]

    bdf: str | None
    boot_ns: int

    def to_json(self) -> dict[str, Any]:
        """Return the keys of the JSON line, ``type`` first."""
        return {"type": self.type, **{f.name: getattr(self, f.name) for f in fields(self)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta(Event):
    """The first line: what was traced, with what, on which clock."""

    type: ClassVar[str] = "meta"

    schema: int
    version: str
    host: str
    kernel: str
    monotonic_ns: int
    realtime_ns: int
    layout: str
    filter: list[str]
    vfs: list[str]
    probes: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class State(Event):
    """One arc of the migration state machine, or a SET_STATE that walked none."""

    type: ClassVar[str] = "state"

    session: int
    old_state: str
    new_state: str
    asked_state: str
    start_boot_ns: int
    duration_ns: int | None
    duration_max_ns: int | None = None
    errno: int | None
    error: str
    pid: int
    tid: int
    comm: str

    @property
    def is_walked(self) -> bool:
        """Whether it is known that it led where it was to lead."""
        return self.errno == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Open(Event):
    """A call that had not returned when tracing ended."""

    type: ClassVar[str] = "open"

    session: int
    call: str
    what: str
    start_boot_ns: int
    open_ns: int
    pid: int
    tid: int
    comm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Save(Event):
    """One SAVE_VHCA_STATE command."""

    type: ClassVar[str] = "save"

    session: int
    image: int | None
    kind: str
    query_bytes: int | None
    requested_bytes: int | None
    buffer: str | None
    queued_images: int | None
    queued_bytes: int | None
    image_bytes: int | None
    issue_boot_ns: int | None
    wait_ns: int | None
    fw_ns: int | None
    fw_max_ns: int | None
    fw_min_ns: int | None = None
    callback_seen: bool
    status: int | None
    status_name: str
    syndrome: int | None
    errno: int
    error: str
    pid: int
    tid: int
    comm: str

    @property
    def in_flight(self) -> bool:
        """Whether it was issued, and nothing told of its end before the trace's."""
        return self.fw_min_ns is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ioctl(Event):
    """One VFIO_MIG_GET_PRECOPY_INFO."""

    type: ClassVar[str] = "ioctl"

    session: int
    precopy_init_size_bytes: int | None
    precopy_dirty_size_bytes: int | None
    latency_ns: int
    errno: int
    error: str
    pid: int
    tid: int
    comm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate(Event):
    """One VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: what a VMM decides with when to stop."""

    type: ClassVar[str] = "estimate"

    session: int
    stopcopy_size_bytes: int | None
    latency_ns: int
    errno: int
    error: str
    pid: int
    tid: int
    comm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Header(Event):
    """The header of a record in a stream that is written, on its way into the driver."""

    type: ClassVar[str] = "header"

    session: int
    offset_bytes: int
    format: str
    tag: str
    flags: int | None
    record_bytes: int | None
    stopcopy_size_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Read(Event):
    """The data reads of a saving VF (or writes of a resuming one) since its last event."""

    type: ClassVar[str] = "read"

    session: int
    direction: str
    calls: int
    bytes: int
    busy_ns: int
    first_boot_ns: int
    last_boot_ns: int
    position_bytes: int | None
    gap_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class End(Event):
    """read() or write() calls that moved no data: temporary end, final end, EAGAIN, error."""

    type: ClassVar[str] = "end"

    session: int
    direction: str
    kind: str
    reason: str
    calls: int
    position_bytes: int | None
    gap_bytes: int | None
    errno: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain(Event):
    """An image was read to its end: the parts of its time, from the driver to the reader."""

    type: ClassVar[str] = "drain"

    session: int
    image: int | None
    kind: str
    start_bytes: int
    end_bytes: int
    wait_ns: int | None
    fw_ns: int | None
    ready_boot_ns: int | None
    queued_ns: int | None
    drain_ns: int
    images_behind: int
    bytes_behind: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer(Event):
    """A buffer for images was allocated or freed, or got its memory key."""

    type: ClassVar[str] = "buffer"

    session: int
    action: str
    asked_bytes: int | None
    allocated_bytes: int | None
    took_ns: int | None
    buffers: int
    held_bytes: int
    errno: int
    error: str
    pid: int
    tid: int
    comm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram(Event):
    """Calls of one kind on a VF since its last such event, by powers of two."""

    type: ClassVar[str] = "histogram"

    session: int
    direction: str
    measure: str
    counts: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content(Event):
    """What went through the reads or writes of a VF since its last such event, as a sum."""

    type: ClassVar[str] = "content"

    session: int
    direction: str
    content_sum: int
    samples: int
    missed_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load(Event):
    """One LOAD_VHCA_STATE command on a target."""

    type: ClassVar[str] = "load"

    session: int
    vhca_id: int
    image: int
    image_bytes: int
    fw_ns: int
    status: int
    status_name: str
    syndrome: int
    errno: int
    error: str
    pid: int
    tid: int
    comm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Event):
    """A QUERY, SUSPEND or RESUME command."""

    type: ClassVar[str] = "command"

    session: int
    vhca_id: int
    opcode: int
    name: str
    op_mod: str
    incremental: bool
    query_bytes: int | None
    remaining_bytes: int | None
    fw_ns: int
    status: int
    status_name: str
    syndrome: int
    errno: int
    error: str
    pid: int
    tid: int
    comm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort(Event):
    """A session that no SET_STATE ended: the device was reset or closed, or the VF disabled."""

    type: ClassVar[str] = "abort"

    session: int
    cause: str
    direction: str
    state: str
    stack: list[str]
    pid: int
    tid: int
    comm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Event):
    """Losses: during the trace those of the ring so far, at its end all of them.

    ``unowned_calls`` is by PID.
    """

    type: ClassVar[str] = "lost"

    lost_records: int | None
    missed_returns: int | None = None
    skipped: int | None = None
    incomplete_saves: int | None = None
    unseen_arcs: int | None = None
    untracked: int | None = None
    unowned_calls: dict[int, int] | None = None
    at_end: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(Event):
    """All of one VF: keys that ``mlxtrace migrate --json`` has too mean the same there."""

    type: ClassVar[str] = "summary"

    sessions: int | None
    state_changes: int
    failed_state_changes: int
    resets: int | None
    saves: int
    images: int
    initial_images: int
    middle_images: int
    final_images: int
    cleanup_saves: int
    failed_saves: int | None
    in_flight_saves: int
    image_bytes: list[int | None]
    read_calls: int | None
    read_bytes: int | None
    write_calls: int | None
    written_bytes: int | None
    ioctls: int | None
    failed_ioctls: int | None
    get_states: int | None
    estimates: int | None
    failed_estimates: int | None
    stream_format: str | None
    temporary_ends: int | None
    temporary_ends_idle: int | None
    temporary_ends_in_flight: int | None
    temporary_ends_fallback: int | None
    temporary_ends_unasked: int | None
    final_ends: int | None
    again_ends: int | None
    stream_errors: int | None
    loads: int
    failed_loads: int
    load_bytes: list[int]
    load_fw_ns: int
    save_fw_p50_ns: int | None
    save_fw_max_ns: int | None
    wait_ns: int | None
    drained_images: int | None
    queued_ns: int | None
    drain_ns: int | None
    queued_bytes_max: int | None
    buffers_allocated: int | None
    buffers_reused: int | None
    buffers_freed: int | None
    buffer_ns: int | None
    held_bytes_max: int | None
    mkeys: int | None
    mkey_ns: int | None
    read_content_sum: int | None
    read_content_samples: int | None
    written_content_sum: int | None
    written_content_samples: int | None
    content_missed_samples: int | None
    gap_bytes: int | None
    precopy_ns: int | None
    precopy_is_open: bool
    stopped_ns: int | None
    dirty_bytes_per_s: int | None
    failed_arcs: int
    aborts: int | None
    lost_records: int | None
    missed_returns: int | None
    skipped: int | None
    incomplete_saves: int
    unseen_arcs: int
    open_calls: int
    save_fw_p99_ns: int | None
    wait_p50_ns: int | None
    wait_p99_ns: int | None
    wait_max_ns: int | None
    queued_p50_ns: int | None
    queued_p99_ns: int | None
    queued_max_ns: int | None
    ioctl_p50_ns: int | None
    ioctl_p99_ns: int | None
    ioctl_max_ns: int | None
    get_state_p50_ns: int | None
    get_state_p99_ns: int | None
    get_state_max_ns: int | None
    rounds: int
    read_bytes_per_s: int | None
    converging: bool | None
    precopy_init_size_bytes: int | None
    precopy_dirty_size_bytes: int | None
    stopcopy_size_bytes: int | None
    stopped_now_bytes: int | None
    stopped_now_save_ns: int | None
    stopped_now_read_ns: int | None
    suspend_initiator_ns: int | None
    suspend_responder_ns: int | None
    final_query_ns: int | None
    final_buffer_ns: int | None
    final_wait_ns: int | None
    final_save_ns: int | None
    final_read_ns: int | None
    final_load_ns: int | None
    resume_fw_ns: int | None
    resume_ns: int | None
