# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a migration stream goes: a device, a stream file, or either with one byte damaged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from genbindings.errors import Error
from mlxtrace.migrate_model import Downtime, Migratable, Resuming, Sink, boot_ns
from mlxtrace.migrate_recover import reset_target
from mlxtrace.streamcheck import RecordChecksums
from mlxtrace.streamfile import StreamWriter
from mlxtrace.vfio import MigrationFlags, State

if TYPE_CHECKING:
    from mlxtrace.stream import Piece, StreamParser

STATE_HASHES = Path("/sys/kernel/debug/mlx5_lab")
"""Where the lab's stand-in firmware shows a hash of each VF's state; absent elsewhere."""


def state_hash(device: str) -> str | None:
    """Return the hash of the state of ``device`` where the lab offers one, else ``None``.

    It means something only while the device is stopped.
    """
    try:
        return (STATE_HASHES / device / "state_hash").read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


class DeviceSink:
    """A target device: RESUMING, then STOP, RUNNING_P2P and RUNNING."""

    def __init__(self, device: Migratable, flags: MigrationFlags, downtime: Downtime) -> None:
        """``downtime`` gets the target's share of the times."""
        self._device = device
        self._flags = flags
        self._downtime = downtime
        self._stream: Resuming | None = None
        self._touched = False

    def open(self) -> None:
        self._touched = True
        self._stream = self._device.resume()

    def write(self, piece: Piece) -> None:
        assert self._stream is not None
        view = piece.data
        while view:
            view = view[self._stream.write(view) :]

    def finish(self, parser: StreamParser) -> None:  # noqa: ARG002 - what a file needs
        began = boot_ns()
        self._device.set_state(State.STOP)
        self._downtime.load_ns = boot_ns() - began
        self._close()

    def compare(self, source_hash: str | None) -> str | None:  # noqa: ARG002 - for files
        return state_hash(self._device.name)

    def start(self) -> str:
        began = boot_ns()
        if MigrationFlags.P2P in self._flags:
            self._device.set_state(State.RUNNING_P2P)
        self._device.set_state(State.RUNNING)
        self._downtime.start_ns = boot_ns() - began
        return State.RUNNING.name

    def conclude(self) -> None:
        pass

    def keep(self) -> str:
        return State.RUNNING.name

    def abandon(self) -> str:
        if not self._touched:
            return "not touched"
        try:
            return reset_target(self._device)
        finally:
            self._close()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()


class FileSink:
    """A stream file."""

    def __init__(self, path: Path, header: dict[str, Any], *, held: bool = False) -> None:
        """``held``: the file gets its name, and replaces an older one, by :meth:`conclude` only."""
        self._path = path
        self._header = header
        self._held = held
        self._writer: StreamWriter | None = None
        self._trailer: dict[str, Any] = {}
        self._checksums = RecordChecksums()
        self._published = False

    def open(self) -> None:
        self._writer = StreamWriter(self._path, self._header)

    def write(self, piece: Piece) -> None:
        assert self._writer is not None
        self._writer.write(piece.data)
        self._checksums.add(piece)

    def finish(self, parser: StreamParser) -> None:
        self._trailer.update(describe_stream(parser, self._checksums))

    def compare(self, source_hash: str | None) -> str | None:
        self._trailer["state_hash"] = source_hash
        return None

    def start(self) -> str:
        assert self._writer is not None
        self._writer.complete(self._trailer)
        if not self._held:
            self.conclude()
        return "complete"

    def conclude(self) -> None:
        assert self._writer is not None
        self._writer.publish()
        self._published = True

    def keep(self) -> str:
        assert self._writer is not None
        return f"complete, and kept as {self._writer.temporary}"

    def abandon(self) -> str:
        if self._published:
            return "complete, and kept"
        if self._writer is not None:
            self._writer.discard()
        return "not written"


class FlipByte:
    """Passes a stream on with all bits of one byte inverted: a test aid.

    A target must refuse an image that is not what the source made.
    """

    def __init__(self, sink: Sink, offset: int) -> None:
        self._sink = sink
        self._offset = offset
        self._seen = 0

    def open(self) -> None:
        self._sink.open()

    def write(self, piece: Piece) -> None:
        at = self._offset - piece.offset
        self._seen = piece.offset + len(piece.data)
        if 0 <= at < len(piece.data):
            damaged = bytearray(piece.data)
            damaged[at] ^= 0xFF
            piece = piece._replace(data=memoryview(damaged))
        self._sink.write(piece)

    def finish(self, parser: StreamParser) -> None:
        if self._offset >= self._seen:
            raise Error(
                f"--flip-byte {self._offset}: the stream has {self._seen} bytes, none was damaged"
            )
        self._sink.finish(parser)

    def compare(self, source_hash: str | None) -> str | None:
        return self._sink.compare(source_hash)

    def start(self) -> str:
        return self._sink.start()

    def abandon(self) -> str:
        return self._sink.abandon()


def describe_stream(parser: StreamParser, checksums: RecordChecksums) -> dict[str, Any]:
    """Return the trailer of a stream file: phases and images, offsets and sizes in bytes."""
    phases = [{"state": State.STOP_COPY.name, "offset_bytes": parser.final_from or 0}]
    if parser.final_from:
        phases.insert(0, {"state": State.PRE_COPY.name, "offset_bytes": 0})
    return {
        "phases": phases,
        "images": [
            {
                "index": image.index,
                "kind": image.kind and image.kind.value,
                "offset_bytes": image.offset,
                "size_bytes": image.size_bytes,
                "crc32": checksums.by_offset.get(image.offset),
            }
            for image in parser.images
        ],
    }


def final_from(trailer: dict[str, Any]) -> int:
    """Return where the data made in STOP_COPY begins, as the trailer of a stream file has it."""
    for phase in trailer["phases"]:
        if phase["state"] == State.STOP_COPY.name:
            return int(phase["offset_bytes"])
    return 0
