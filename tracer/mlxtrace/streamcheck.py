# SPDX-License-Identifier: GPL-2.0-or-later
"""Checking a stream file: that it is whole, and that what it says of its stream is so."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from genbindings.errors import Error
from mlxtrace import streamfile
from mlxtrace.stream import FLAG_OPTIONAL, HEADER, Framing, Record, StreamParser, Tag
from mlxtrace.streamsalvage import foreign, salvage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlxtrace.stream import Piece
    from mlxtrace.streamfile import StreamFile

RECORDS_MAX = 10_000
"""Records after which the listing ends: a migration makes some dozens, zeros look like many."""
RECORD_PROBLEMS_MAX = 20
"""Wrong records to name: when one length is wrong, all that follows it is."""

_HEADER_KEYS = {
    "device": str,
    "ids": dict,
    "driver": str,
    "kernel": str,
    "migration_flags": list,
    "framing": str,
    "created": str,
    "mlxtrace": str,
}


class RecordChecksums:
    """The CRC-32 of each record, its header included, from the pieces of the stream."""

    def __init__(self) -> None:
        self.by_offset: dict[int, int] = {}
        """The checksum of each record, by its offset in the stream."""
        self._head = 0

    def add(self, piece: Piece) -> None:
        """Take the next piece into account."""
        if piece.record is None:
            self._head = zlib.crc32(piece.data, self._head)
            return
        offset = piece.record.offset
        before = self.by_offset.get(offset, self._head)
        self.by_offset[offset] = zlib.crc32(piece.data, before)
        self._head = 0


@dataclass
class Examination:
    """What a stream file holds and what is wrong with it.

    Attributes:
        file: what it says of itself; of a damaged file what could still be read.
        whole: its end is there and its checksum fits.
        framing: how its stream is divided, ``None`` if that is not known.
        records: the records, the last one incomplete where the stream is cut off.
        crcs: CRC-32 of each record, by its offset.
        stop_copy_bytes: what the STOP_COPY_SIZE record announced, if there is one.
        lacks: what the stream lacks to be a state, in words.
        problems: what is wrong, in words; empty when everything holds.
        hint: what to do about the first problem.
    """

    file: StreamFile
    whole: bool
    framing: Framing | None = None
    records: list[Record] = field(default_factory=list)
    crcs: dict[int, int] = field(default_factory=dict)
    stop_copy_bytes: int | None = None
    lacks: str = ""
    problems: list[str] = field(default_factory=list)
    hint: str = ""


def examine(path: Path) -> Examination:
    """Read the stream file ``path``, whole, and check it.

    Raises:
        Error: it cannot be read, or is not a stream file at all.
    """
    if (other := foreign(path)) is not None:
        raise other
    try:
        found = Examination(streamfile.load(path), whole=True)
    except Error as error:
        found = Examination(salvage(path), whole=False, hint=error.hint)
        found.problems.append(str(error).removeprefix(f"{path}: "))
    if found.file.header or found.whole:
        found.problems += _header_problems(found.file.header)
    else:
        found.problems.append("its header cannot be read")
    _read_records(found)
    if found.file.trailer or found.whole:
        found.problems += _trailer_problems(found)
    return found


def final_offset(trailer: dict[str, Any]) -> int | None:
    """Return where the data made in STOP_COPY begins, ``None`` if ``trailer`` does not say."""
    for phase in _objects(trailer.get("phases")):
        offset = phase.get("offset_bytes")
        if phase.get("state") == "STOP_COPY" and isinstance(offset, int):
            return offset
    return None


def _objects(value: object) -> list[dict[str, Any]]:
    """Return the objects in ``value`` if it is a list, else nothing."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _header_problems(header: dict[str, Any]) -> Iterator[str]:
    for key, kind in _HEADER_KEYS.items():
        if not isinstance(header.get(key), kind):
            yield f"its header does not say {key!r}"
    if isinstance(framing := header.get("framing"), str) and framing not in list(Framing):
        yield f"its header names the stream format {framing!r}, which is not known"


def _read_records(found: Examination) -> None:
    """Follow the stream as far as it goes."""
    try:
        found.framing = Framing(str(found.file.header.get("framing")))
    except ValueError:
        return
    parser = StreamParser(found.framing, final_offset(found.file.trailer))
    checksums = RecordChecksums()
    try:
        for data in found.file.chunks():
            for piece in parser.feed(data):
                checksums.add(piece)
                if len(parser.records) >= RECORDS_MAX:
                    raise Error(f"it has {RECORDS_MAX} records or more: this is no migration's")
        parser.finish()
    except Error as error:
        found.problems.append(str(error))
    found.records, found.crcs = parser.records, checksums.by_offset
    found.stop_copy_bytes, found.lacks = parser.stop_copy_bytes, parser.lacks
    if found.framing is Framing.RECORDS:
        wrong = (problem for record in parser.records for problem in _record_problems(record))
        found.problems += islice(wrong, RECORD_PROBLEMS_MAX)


def _record_problems(record: Record) -> Iterator[str]:
    what = record.describe()
    if record.tag not in list(Tag) and not record.flags & FLAG_OPTIONAL:
        yield f"{what}: no driver that does not know the tag may load this"
    if record.flags & ~FLAG_OPTIONAL:
        yield f"{what}: unknown flags {record.flags & ~FLAG_OPTIONAL:#x}"
    if record.tag == Tag.FW_DATA and record.size_bytes == 0:
        yield f"{what}: it is empty"
    if record.tag == Tag.STOP_COPY_SIZE and record.size_bytes < 8:
        yield f"{what}: a STOP_COPY_SIZE record holds 8 bytes"


def _trailer_problems(found: Examination) -> Iterator[str]:
    """Compare the trailer with what is in the file."""
    trailer, size = found.file.trailer, found.file.data_bytes
    final = final_offset(trailer)
    phases = _objects(trailer.get("phases"))
    offsets = [phase.get("offset_bytes") for phase in phases]
    states = [phase.get("state") for phase in phases]
    if final is None or states not in (["STOP_COPY"], ["PRE_COPY", "STOP_COPY"]):
        yield "its trailer does not name the phases: [PRE_COPY and] STOP_COPY"
    elif offsets[0] != 0 or not 0 <= final <= size:
        yield f"its trailer gives the phases the offsets {offsets} in a stream of {size} bytes"
    elif found.lacks:
        yield found.lacks
    yield from _image_problems(found, trailer)


def _image_problems(found: Examination, trailer: dict[str, Any]) -> Iterator[str]:
    """Compare the trailer's list of images with the images."""
    if found.framing is None:
        return
    listed = trailer.get("images")
    if not isinstance(listed, list):
        yield "its trailer does not list the images"
        return
    images = [record for record in found.records if record.kind is not None]
    if len(listed) != len(images):
        yield f"its trailer lists {len(listed)} images, the stream has {len(images)}"
    for said, image in zip(_objects(listed), images, strict=False):
        if any(
            said.get(key) != value
            for key, value in (
                ("index", image.index),
                ("kind", image.kind),
                ("offset_bytes", image.offset),
                ("size_bytes", image.size_bytes),
            )
        ):
            yield (
                f"its trailer lists image {said.get('index')} ({said.get('kind')}), stream offset "
                f"{said.get('offset_bytes')}, {said.get('size_bytes')} bytes; the stream has "
                f"{image.describe()}"
            )
        elif "crc32" in said and said["crc32"] != found.crcs.get(image.offset):
            head = f"{HEADER.size} header bytes and " if found.framing is Framing.RECORDS else ""
            yield f"{image.describe()}: damaged: the CRC-32 of its {head}data does not fit"
