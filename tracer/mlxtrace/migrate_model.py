# SPDX-License-Identifier: GPL-2.0-or-later
"""What a migration is made of: the devices it needs, its options, what it counts, how it fails."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from genbindings.errors import Error
from mlxtrace.devices import MLX5_DRIVER
from mlxtrace.migrate_policy import Decision, Policy
from mlxtrace.stream import Framing, Kind, Piece, Record
from mlxtrace.vfio import End, MigrationFlags, PrecopyInfo, State, VfioError

if TYPE_CHECKING:
    from mlxtrace.stream import StreamParser

READ_BYTES = 1 << 20
"""Size of a read in bytes; QEMU's is the same."""


class Saving(Protocol):
    """The saving stream, as :class:`mlxtrace.vfio.SavingStream` has it."""

    def read(self, max_bytes: int) -> bytes | End: ...
    def wait(self, timeout_s: float) -> bool: ...
    def precopy_info(self) -> PrecopyInfo: ...
    def close(self) -> None: ...


class Resuming(Protocol):
    """The resuming stream, as :class:`mlxtrace.vfio.ResumingStream` has it."""

    def write(self, data: bytes | memoryview) -> int: ...
    def close(self) -> None: ...


class Migratable(Protocol):
    """A device that can migrate, as :class:`mlxtrace.vfio.Device` is one."""

    @property
    def name(self) -> str: ...
    @property
    def driver(self) -> str: ...
    @property
    def ids(self) -> dict[str, str]: ...
    def migration_flags(self) -> MigrationFlags: ...
    def require_migration(self) -> MigrationFlags: ...
    def state(self) -> State: ...
    def set_state(self, state: State) -> None: ...
    def save(self, state: State) -> Saving: ...
    def resume(self) -> Resuming: ...
    def stop_copy_bytes(self) -> int: ...
    def reset(self) -> None: ...


class Sink(Protocol):
    """Where the stream goes."""

    def open(self) -> None:
        """Make ready to take the stream."""

    def write(self, piece: Piece) -> None:
        """Take a part of the stream. A record is never continued in a piece of another."""

    def finish(self, parser: StreamParser) -> None:
        """Take note that the stream is complete: the state is loaded, but nothing runs yet."""

    def compare(self, source_hash: str | None) -> str | None:
        """Return the hash of what was loaded, where there is one; a file keeps the source's."""

    def start(self) -> str:
        """Run the device, or make the file final. Return how it is left, in words."""

    def abandon(self) -> str:
        """Undo: leave the device usable, or remove the file. Return what was done."""


class HeldSink(Sink, Protocol):
    """One that another host's source is to give up its state for, once it has started."""

    def conclude(self) -> None:
        """Take note that the source has: the file gets its name."""

    def keep(self) -> str:
        """Leave what has started as it is, whatever the source does. Return how that is."""


@dataclass(frozen=True)
class Options:
    """How to migrate.

    Attributes:
        precopy: use PRE_COPY where the device offers it.
        policy: what decides when to stop.
        rounds: middle rounds to make, for Policy.ROUNDS.
        downtime_limit_s: allowed downtime, for the decision to stop (QEMU's default is 0.3).
        min_rounds: middle images to send at least before stopping.
        max_rounds: middle rounds after which to stop though the device changes too fast.
        idle_rounds: times in a row that a device may report nothing dirty before
            ``min_rounds`` is given up.
        idle_pause_s: pause after a report of nothing dirty.
        data_timeout_s: how long to wait for data that the driver announced. A firmware command
            may take 60 s before mlx5_core gives it up.
        switchover_bandwidth: bytes a second to reckon with, for Policy.QEMU; ``None``: as
            measured.
        bandwidth_limit: most bytes a second to pass on; ``None``: no limit.
        ask_again_s: after how long without any of that data to ask whether it will come at all.
    """

    precopy: bool = True
    policy: Policy = Policy.ESTIMATE
    rounds: int = 0
    downtime_limit_s: float = 0.3
    min_rounds: int = 2
    max_rounds: int = 30
    idle_rounds: int = 20
    idle_pause_s: float = 0.05
    data_timeout_s: float = 70.0
    ask_again_s: float = 1.0
    switchover_bandwidth: float | None = None
    bandwidth_limit: float | None = None


@dataclass
class Round:
    """One question and the data read after it.

    Attributes:
        kind: which images it reads.
        initial_bytes, dirty_bytes: what VFIO_MIG_GET_PRECOPY_INFO said, ``None`` if not asked.
        read_bytes: bytes read, record headers included.
        images: images completed.
        duration_ns: from the question to the end of the data.
    """

    kind: Kind
    initial_bytes: int | None
    dirty_bytes: int | None
    read_bytes: int = 0
    images: int = 0
    duration_ns: int = 0


@dataclass
class Downtime:
    """Where the time went between the source's last moment of running and the target's first.

    Attributes:
        quiesce_ns: the source stops initiating DMA (PRE_COPY_P2P or RUNNING_P2P).
        stop_ns: the source stops (STOP_COPY): the final SAVE begins.
        final_ns: the rest is read and forwarded, until the end of the stream.
        load_ns: the target leaves RESUMING.
        start_ns: the target runs.
        hash_ns: comparing hashes, which only the lab does; not part of the total.
    """

    quiesce_ns: int = 0
    stop_ns: int = 0
    final_ns: int = 0
    load_ns: int = 0
    start_ns: int = 0
    hash_ns: int = 0

    @property
    def total_ns(self) -> int:
        """The downtime: the sum of the parts but ``hash_ns``."""
        return self.quiesce_ns + self.stop_ns + self.final_ns + self.load_ns + self.start_ns


@dataclass
class Result:
    """What happened, as far as it went.

    ``source`` and ``target`` are device names or file names. ``*_state`` say how each was left,
    in words. ``state_hashes`` holds the source's and the target's, ``None`` where not known.
    ``options`` is how the source was saved, ``None`` where that was not done here.
    """

    source: str
    target: str
    precopy: bool = False
    framing: Framing = Framing.RAW
    started_boot_ns: int = 0
    rounds: list[Round] = field(default_factory=list)
    images: list[Record] = field(default_factory=list)
    read_bytes: int = 0
    written_bytes: int = 0
    ioctls: int = 0
    temporary_ends: int = 0
    final_ends: int = 0
    stop_copy_estimate_bytes: int | None = None
    options: Options | None = None
    stop_reason: str = ""
    decision: Decision = field(default_factory=Decision)
    precopy_ns: int = 0
    total_ns: int = 0
    downtime: Downtime = field(default_factory=Downtime)
    state_hashes: tuple[str | None, str | None] = (None, None)
    source_state: str = ""
    target_state: str = ""
    flipped_byte_offset: int | None = None
    error: MigrationError | None = None

    def count(self, kind: Kind) -> int:
        """Return the number of images of ``kind``."""
        return sum(image.kind is kind for image in self.images)


class MigrationError(Error):
    """A migration failed.

    Attributes:
        errno: the kernel's answer, ``None`` when it was not a call that failed.
        record: the image (or record) that was on its way, ``None`` when none was.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        errno: int | None = None,
        record: Record | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.errno = errno
        self.record = record

    @classmethod
    def of(cls, error: Error) -> MigrationError:
        """Return ``error`` as a MigrationError."""
        if isinstance(error, MigrationError):
            return error
        number = error.errno if isinstance(error, VfioError) else None
        return cls(str(error), error.hint, errno=number)


def framing_of(device: Migratable, flags: MigrationFlags) -> Framing:
    """Return how the streams of ``device`` are divided.

    Only mlx5-vfio-pci makes records, and only when it offers PRE_COPY.
    """
    if device.driver == MLX5_DRIVER and MigrationFlags.PRE_COPY in flags:
        return Framing.RECORDS
    return Framing.RAW


def boot_ns() -> int:
    """Return CLOCK_BOOTTIME in nanoseconds: the clock of the tracer's records."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def summary(result: Result) -> dict[str, Any]:
    """Return the machine-readable summary of ``result`` (docs/migrate.md has the keys)."""
    source_hash, target_hash = result.state_hashes
    both = source_hash is not None and target_hash is not None
    downtime, options, decision = result.downtime, result.options, result.decision
    lines: dict[str, Any] = {
        "type": "summary",
        "bdf": result.source,
        "boot_ns": result.started_boot_ns,
        "source": result.source,
        "target": result.target,
        "result": "failed" if result.error else "done",
        "precopy": result.precopy,
        "framing": result.framing.value,
        "images": len(result.images),
        "initial_images": result.count(Kind.INITIAL),
        "middle_images": result.count(Kind.MIDDLE),
        "final_images": result.count(Kind.FINAL),
        "image_bytes": [image.size_bytes for image in result.images],
        "read_bytes": result.read_bytes,
        "written_bytes": result.written_bytes,
        "ioctls": result.ioctls,
        "temporary_ends": result.temporary_ends,
        "final_ends": result.final_ends,
        "stop_copy_estimate_bytes": result.stop_copy_estimate_bytes,
        "policy": options and options.policy.value,
        "downtime_limit_ns": options and round(options.downtime_limit_s * 1e9),
        "bandwidth_limit_bytes_per_s": options and options.bandwidth_limit,
        "stop_reason": result.stop_reason,
        "remaining_bytes": decision.remaining_bytes,
        "bandwidth_bytes_per_s": decision.bandwidth_bytes_per_s,
        "threshold_bytes": decision.threshold_bytes,
        "rounds": [
            {
                "kind": each.kind.value,
                "initial_bytes": each.initial_bytes,
                "dirty_bytes": each.dirty_bytes,
                "read_bytes": each.read_bytes,
                "images": each.images,
                "duration_ns": each.duration_ns,
            }
            for each in result.rounds
        ],
        "precopy_ns": result.precopy_ns,
        "downtime_ns": downtime.total_ns,
        "downtime_quiesce_ns": downtime.quiesce_ns,
        "downtime_stop_ns": downtime.stop_ns,
        "downtime_final_ns": downtime.final_ns,
        "downtime_load_ns": downtime.load_ns,
        "downtime_start_ns": downtime.start_ns,
        "total_ns": result.total_ns,
        "source_state_hash": source_hash,
        "target_state_hash": target_hash,
        "state_hashes_equal": source_hash == target_hash if both else None,
        "source_state": result.source_state,
        "target_state": result.target_state,
        "flipped_byte_offset": result.flipped_byte_offset,
    }
    if (error := result.error) is not None:
        lines["error"] = str(error)
        lines["errno"] = error.errno
        lines["failed_image"] = image_of(error.record)
    return lines


def image_of(record: Record | None) -> dict[str, Any] | None:
    """Return ``record`` as a summary has it."""
    if record is None:
        return None
    return {
        "index": record.index,
        "kind": record.kind and record.kind.value,
        "offset_bytes": record.offset,
        "size_bytes": record.size_bytes,
    }
