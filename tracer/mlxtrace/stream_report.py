# SPDX-License-Identifier: GPL-2.0-or-later
"""What a stream file holds, as text for people and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlxtrace import units
from mlxtrace.migrate_report import format_bytes
from mlxtrace.stream import FLAG_OPTIONAL, Record, Tag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlxtrace.streamcheck import Examination


def render(found: Examination) -> Iterator[str]:
    """Yield the lines that tell what ``found`` holds and what is wrong with it."""
    # Whoever made the file chose the words in it.
    yield from map(units.one_line, _lines(found))


def _lines(found: Examination) -> Iterator[str]:
    file = found.file
    state = "whole" if found.whole else "NOT WHOLE"
    if found.whole and found.problems:
        state = "WRONG, though its checksum fits"
    yield f"{file.path}: {state}: {units.count(len(found.records), 'record')}"
    yield ""
    yield from _origin(file.header)
    yield (
        f"stream    {file.data_bytes} bytes ({format_bytes(file.data_bytes)}), "
        f"from file offset {file.data_offset}"
    )
    yield from _described(file.trailer)
    if found.records:
        yield ""
        yield from _records(found)
    if found.problems:
        yield ""
        for problem in found.problems:
            yield f"problem   {problem}"


def to_json(found: Examination) -> dict[str, Any]:
    """Return the same for programs (docs/migrate.md has the keys)."""
    file = found.file
    return {
        "type": "stream",
        "file": str(file.path),
        "result": "failed" if found.problems else "done",
        "whole": found.whole,
        "problems": found.problems,
        "header": file.header,
        "trailer": file.trailer,
        "data_offset_bytes": file.data_offset,
        "data_bytes": file.data_bytes,
        "stop_copy_size_bytes": found.stop_copy_bytes,
        "records": [
            {
                "offset_bytes": record.offset,
                "size_bytes": record.size_bytes,
                "tag": record.tag,
                "tag_name": _tag(record.tag),
                "flags": record.flags,
                "image": record.index or None,
                "kind": record.kind,
                "crc32": found.crcs.get(record.offset),
            }
            for record in found.records
        ],
    }


def _origin(header: dict[str, Any]) -> Iterator[str]:
    """Where the stream comes from; a damaged header may lack anything."""

    def said(key: str) -> str:
        return str(header.get(key, "?"))

    if not header:
        return
    flags = header.get("migration_flags")
    offers = " ".join(map(str, flags)) if isinstance(flags, list) else "?"
    yield f"made      {said('created')} by mlxtrace {said('mlxtrace')}"
    yield f"source    {said('device')}"
    yield f"device    {_identity(header.get('ids'))}"
    yield f"driver    {said('driver')}: {offers}"
    yield f"kernel    {said('kernel')}"


def _identity(ids: object) -> str:
    """Return ``15b3:101e, subsystem 15b3:0001, revision 00``, as lspci has it."""
    known = ids if isinstance(ids, dict) else {}

    def number(key: str) -> str:
        return str(known.get(key, "?")).removeprefix("0x")

    text = f"{number('vendor')}:{number('device')}"
    if "subsystem_vendor" in known:
        text += f", subsystem {number('subsystem_vendor')}:{number('subsystem_device')}"
    if "revision" in known:
        text += f", revision {number('revision')}"
    return text


def _described(trailer: dict[str, Any]) -> Iterator[str]:
    phases = trailer.get("phases")
    if isinstance(phases, list):
        offsets = ", ".join(
            f"{phase.get('state')} from {phase.get('offset_bytes')}"
            for phase in phases
            if isinstance(phase, dict)
        )
        yield f"phases    {offsets}"
    if trailer.get("state_hash") is not None:
        yield f"state     hash {trailer['state_hash']}"


def _records(found: Examination) -> Iterator[str]:
    """The table. What a cut-off file was made in is not known: its kinds are left out."""
    known = bool(found.file.trailer)
    yield "record  tag             image          offset          size     crc-32"
    for number, record in enumerate(found.records, 1):
        image = "-"
        if record.kind is not None:
            image = f"{record.index} {record.kind}" if known else str(record.index)
        crc = found.crcs.get(record.offset)
        yield (
            f"{number:6}  {_tag(record.tag):14}  {image:9}{record.offset:12}{record.size_bytes:14}"
            f"   {'-' if crc is None else f'{crc:08x}'}{_remark(found, record)}"
        ).rstrip()


def _remark(found: Examination, record: Record) -> str:
    if record.tag == Tag.STOP_COPY_SIZE and found.stop_copy_bytes is not None:
        return f"  announces {format_bytes(found.stop_copy_bytes)}"
    if record.tag not in list(Tag):
        return "  may be skipped" if record.flags & FLAG_OPTIONAL else "  must be understood"
    return ""


def _tag(tag: int) -> str:
    return Tag(tag).name if tag in list(Tag) else f"{tag:#x}"
