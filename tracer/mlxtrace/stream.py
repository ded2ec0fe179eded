# SPDX-License-Identifier: GPL-2.0-or-later
"""The migration stream of mlx5-vfio-pci: records, and the images in them.

Since Linux 6.3 (6.2 with flags and tag 0), when the device offers PRE_COPY, the stream is a
sequence of records: a 16-byte little-endian header (u64 size of what follows in bytes, u32 flags,
u32 tag) and its data. One record of tag FW_DATA is one image, the product of one SAVE command.
Without PRE_COPY the stream is one raw image, and the streams of other drivers are raw as well:
what is in them is the driver's own affair.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from genbindings.errors import Error

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct("<QII")
FLAG_OPTIONAL = 1 << 0
"""The reader may skip the record if it does not know the tag."""


class Tag(enum.IntEnum):
    """Record tags that mlx5-vfio-pci makes."""

    FW_DATA = 0
    STOP_COPY_SIZE = 1
    """u64: size in bytes that the final image may have, so that the target can allocate early."""


class Framing(enum.StrEnum):
    """How a stream is divided."""

    RECORDS = "records"
    RAW = "raw"


class Kind(enum.StrEnum):
    """What an image holds."""

    INITIAL = "initial"
    """The whole state, made on entry to PRE_COPY."""
    MIDDLE = "middle"
    """What changed since the image before, made in PRE_COPY."""
    FINAL = "final"
    """The rest, made in STOP_COPY; or everything, without PRE_COPY."""


@dataclass
class Record:
    """A record, or a raw image.

    Attributes:
        offset: where its header (or its first byte, if raw) is in the stream, in bytes.
        size_bytes: size of its data, without the header. Of a raw image: what was seen of it.
        tag: its tag; a raw image counts as FW_DATA.
        flags: its flags.
        kind: kind of the image; ``None`` when the record is not an image.
        index: number of the image in the stream, from 1; 0 when the record is not an image.
    """

    offset: int
    size_bytes: int
    tag: int = Tag.FW_DATA
    flags: int = 0
    kind: Kind | None = None
    index: int = 0

    def describe(self) -> str:
        """Return ``image 3 (middle), stream offset 1234, 567 bytes``, or so for a record."""
        what = f"image {self.index} ({self.kind})" if self.kind else f"record with tag {self.tag}"
        return f"{what}, stream offset {self.offset}, {self.size_bytes} bytes"


class Piece(NamedTuple):
    """A part of the stream that lies in one record.

    Attributes:
        data: its bytes, header bytes included.
        offset: where it is in the stream.
        record: the record; ``None`` while its header is incomplete.
        complete: the piece ends the record.
    """

    data: memoryview
    offset: int
    record: Record | None
    complete: bool


@dataclass
class StreamParser:
    """Divides a stream that comes in arbitrary parts, without holding more than a header.

    Attributes:
        framing: how the stream is divided.
        final_from: stream offset at which data made in STOP_COPY begins: 0 without PRE_COPY,
            ``None`` while the device is in PRE_COPY. What begins before it is the initial image
            or a middle one.
        offset: bytes seen so far.
        records: the records seen so far, the one being read included.
        stop_copy_bytes: what the STOP_COPY_SIZE record announced, if there was one.
    """

    framing: Framing
    final_from: int | None = None
    offset: int = 0
    records: list[Record] = field(default_factory=list)
    stop_copy_bytes: int | None = None
    _header: bytearray = field(default_factory=bytearray)
    _payload: bytearray = field(default_factory=bytearray)
    _missing: int = 0
    _open: Record | None = None
    _images: int = 0

    @property
    def images(self) -> list[Record]:
        """The images seen so far, the one being read included."""
        return [record for record in self.records if record.kind is not None]

    @property
    def current(self) -> Record | None:
        """The record being read, ``None`` between records."""
        return self._open

    @property
    def at_boundary(self) -> bool:
        """Whether no record is half read. A raw stream does not tell: always true."""
        return self.framing is Framing.RAW or (self._open is None and not self._header)

    def feed(self, data: bytes | memoryview) -> Iterator[Piece]:
        """Divide the next part of the stream. No piece goes beyond the end of a record.

        Everything that the parser knows is up to date with a piece when the piece is yielded.
        """
        view = memoryview(data)
        if self.framing is Framing.RAW:
            yield from self._feed_raw(view)
            return
        while view:
            used = self._feed_record(view)
            record, complete = self._open, self._open is not None and self._missing == 0
            start = self.offset
            self.offset += used
            if complete:
                self._close_record()
            yield Piece(view[:used], start, record, complete)
            view = view[used:]

    def end_part(self) -> None:
        """Note that the driver said "end", temporary or final: it ends a raw image."""
        if self.framing is Framing.RAW:
            self._open = None

    def finish(self) -> None:
        """Note the final end of the stream.

        Raises:
            Error: the stream ends inside a record.
        """
        self.end_part()
        if self._open is not None:
            raise Error(
                f"the stream ends inside {self._open.describe()}: {self._missing} bytes are missing"
            )
        if self._header:
            raise Error(
                f"the stream ends inside a record header, {len(self._header)} of {HEADER.size} "
                f"bytes, stream offset {self.offset - len(self._header)}"
            )

    @property
    def lacks(self) -> str:
        """What a stream that ends here lacks to be a state, in words; empty if nothing is known.

        A driver's "end" is no proof: one that meets a failure, or a reader at the wrong moment, may
        say it before it gave what it saved in STOP_COPY. Without that image a target would go on
        with whatever the images before it hold. Of a raw stream only its size is known.
        """
        if self.framing is Framing.RAW:
            return "" if self.offset else "the stream is empty: there is no state in it"
        if any(image.kind is Kind.FINAL and image.size_bytes for image in self.images):
            return ""
        return "there is no final image: the state is not complete"

    def finish_state(self, origin: str) -> None:
        """Note the final end of a stream that is to be a whole state; ``origin`` made it.

        Raises:
            Error: as :meth:`finish`, or it lacks something: see :attr:`lacks`.
        """
        self.finish()
        if lacks := self.lacks:
            raise Error(
                f"{origin}: the stream has ended after {self.offset} bytes, and {lacks}",
                "it was ended too early: dmesg where it was saved may say why; save it again",
            )

    def where(self) -> str:
        """Describe the record being read, or what lies at the current offset."""
        if self._open is not None:
            return self._open.describe()
        start, index = self.offset - len(self._header), self._images + 1
        return f"image {index} ({self._kind(start, index)}), stream offset {start}"

    def _feed_raw(self, view: memoryview) -> Iterator[Piece]:
        if not view:
            return
        if self._open is None:
            self._begin(Record(self.offset, 0))
        assert self._open is not None
        self._open.size_bytes += len(view)
        start = self.offset
        self.offset += len(view)
        yield Piece(view, start, self._open, complete=False)

    def _feed_record(self, view: memoryview) -> int:
        """Take what belongs to the current record from ``view`` and return its length."""
        used = 0
        if self._open is None:
            used = min(HEADER.size - len(self._header), len(view))
            self._header += view[:used]
            if len(self._header) < HEADER.size:
                return used
            size, flags, tag = HEADER.unpack(self._header)
            # self.offset is the start of this part; the header may have begun in an earlier one.
            start = self.offset + used - HEADER.size
            self._header.clear()
            self._missing = size
            self._begin(Record(start, size, tag, flags))
        taken = min(self._missing, len(view) - used)
        if self._open is not None and self._open.tag == Tag.STOP_COPY_SIZE:
            self._payload += view[used : used + min(taken, 8 - len(self._payload))]
        self._missing -= taken
        return used + taken

    def _begin(self, record: Record) -> None:
        """Open ``record``, and say which image it is if it is one."""
        if record.tag == Tag.FW_DATA:
            self._images += 1
            record.index = self._images
            record.kind = self._kind(record.offset, record.index)
        self.records.append(record)
        self._open = record

    def _kind(self, offset: int, index: int) -> Kind:
        """Return the kind of image ``index``, which begins at ``offset``."""
        if self.final_from is not None and offset >= self.final_from:
            return Kind.FINAL
        return Kind.INITIAL if index == 1 else Kind.MIDDLE

    def _close_record(self) -> None:
        assert self._open is not None
        if self._open.tag == Tag.STOP_COPY_SIZE and len(self._payload) == 8:
            self.stop_copy_bytes = int.from_bytes(self._payload, "little")
        self._payload.clear()
        self._open = None
