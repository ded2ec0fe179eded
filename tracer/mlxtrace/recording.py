# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings (``.mlxrec``): the raw record stream in a file, with all that decoding it needs.

Layout, little-endian (docs/events.md, "Recordings")::

    magic "MLXREC\\r\\n", u32 version, u32 length of header, u32 CRC-32 of header, header (JSON)
    blocks: "RECS", u32 number of records, u32 CRC-32 of them, the records
    at last: "ENDS", u32 length, u32 CRC-32, closing (JSON)

Blocks are flushed as they are written. A recording whose writer was killed lacks its end, and
is read as far as it goes.
"""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

from genbindings.errors import Error
from mlxtrace import records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MAGIC = b"MLXREC\r\n"
VERSION = 1
SUFFIX = ".mlxrec"

_HEAD = struct.Struct("<8sIII")
_BLOCK = struct.Struct("<4sII")
_RECORDS = b"RECS"
_END = b"ENDS"
_HEADER_MAX = 16 << 20
_BLOCK_MAX_RECORDS = 1 << 20
_BLOCK_RECORDS = 1 << 13
"""Of a block that is written: damage costs a block, and 1 MiB of records fits a cache."""


class Writer:
    """Writes one recording.

    Raises:
        Error: the file cannot be written.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self._path = path
        try:
            self._file: BinaryIO = path.open("wb")
        except OSError as error:
            raise Error(f"cannot write {path}: {error.strerror}") from None
        data = json.dumps(header).encode()
        self._put(_HEAD.pack(MAGIC, VERSION, len(data), zlib.crc32(data)) + data)

    def write(self, data: bytes) -> None:
        """Append whole records; nothing for an empty ``data``."""
        step = _BLOCK_RECORDS * records.SIZE
        for at in range(0, len(data), step):
            part = data[at : at + step]
            head = _BLOCK.pack(_RECORDS, len(part) // records.SIZE, zlib.crc32(part))
            self._put(head + part)

    def close(self, closing: dict[str, Any]) -> None:
        """Write the end and close the file."""
        data = json.dumps(closing).encode()
        self._put(_BLOCK.pack(_END, len(data), zlib.crc32(data)) + data)
        try:
            self._file.close()
        except OSError as error:
            raise self._unwritten(error) from None

    def abandon(self) -> None:
        """Close the file as it is: it is read up to there, as one whose writer was killed."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _put(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise self._unwritten(error) from None

    def _unwritten(self, error: OSError) -> Error:
        return Error(f"cannot write {self._path}: {error.strerror}")


class UnreadableError(Error):
    """A recording is cut or damaged before its first record: there is nothing in it to show."""


class Reader:
    """Reads one recording, which may come through a pipe.

    Attributes:
        header: what the writer knew at the start.
        closing: what it knew at the end; None until :meth:`chunks` is exhausted, and after that
            if the recording has no end.

    Args:
        path: the file.
        warn: called with one sentence, which has the offset in bytes, when the recording is cut
            or damaged.

    Raises:
        UnreadableError: its header is cut or damaged.
        Error: it cannot be read, is not a recording, or is of a version unknown.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._at = 0
        self.closing: dict[str, Any] | None = None
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise Error(f"cannot read {path}: {error.strerror}") from None
        try:
            self.header = self._read_header()
        except OSError as error:
            self._file.close()
            raise Error(f"cannot read {path}: {error.strerror}") from None
        except Error:
            self._file.close()
            raise

    def chunks(self) -> Iterator[bytes]:
        """Yield whole records, block by block, up to the end or the first damage."""
        try:
            yield from self._chunks()
        except OSError as error:
            self._warn(f"{self._path} cannot be read from byte {self._at} on: {error.strerror}")
        finally:
            self._file.close()

    def _read_header(self) -> dict[str, Any]:
        head = self._read(_HEAD.size)
        if not head.startswith(MAGIC[: len(head)]):
            raise Error(f"{self._path} is not a recording of mlxtrace")
        if len(head) < _HEAD.size:
            raise UnreadableError(f"{self._path} was cut at byte {self._at}, inside its header")
        _, version, length, checksum = _HEAD.unpack(head)
        if version != VERSION:
            raise Error(
                f"{self._path} is a recording of version {version}, this reads {VERSION}",
                "use the mlxtrace that wrote it",
            )
        data = self._read(length) if length <= _HEADER_MAX else b""
        if length <= _HEADER_MAX and len(data) < length:
            raise UnreadableError(f"{self._path} was cut at byte {self._at}, inside its header")
        header = _plain_object(data) if zlib.crc32(data) == checksum else None
        if header is None:
            raise UnreadableError(f"{self._path} is damaged in its header, which begins at byte 0")
        return header

    def _chunks(self) -> Iterator[bytes]:
        while True:
            start = self._at
            head = self._read(_BLOCK.size)
            if len(head) < _BLOCK.size:
                self._cut()
                return
            mark, number, checksum = _BLOCK.unpack(head)
            if mark == _RECORDS and number <= _BLOCK_MAX_RECORDS:
                data = self._read(number * records.SIZE)
                if len(data) < number * records.SIZE:
                    if _has_block(data):
                        self._damaged(start)
                        return
                    self._cut()
                    yield data[: len(data) // records.SIZE * records.SIZE]
                    return
                if zlib.crc32(data) != checksum:
                    self._damaged(start)
                    return
                yield data
                continue
            if mark == _END and number <= _HEADER_MAX:
                data = self._read(number)
                if len(data) < number:
                    self._cut()
                    return
                if zlib.crc32(data) == checksum:
                    self.closing = _plain_object(data)
                if self.closing is None:
                    self._damaged(start)
                elif self._read(1):
                    self._warn(f"{self._path} goes on after its end, from byte {self._at - 1}")
                return
            self._damaged(start)
            return

    def _cut(self) -> None:
        self._warn(f"{self._path} was cut at byte {self._at}: its end is missing")

    def _damaged(self, start: int) -> None:
        self._warn(
            f"{self._path} is damaged in the block that begins at byte {start}: "
            "it is read up to there"
        )

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        self._at += len(data)
        return data


def _has_block(data: bytes) -> bool:
    """Whether another block begins in what should be records: then their number is damaged."""
    return any(
        mark in (_RECORDS, _END) and number <= _BLOCK_MAX_RECORDS
        for mark, number, _ in (
            _BLOCK.unpack_from(data, at) for at in range(0, len(data) - _BLOCK.size, records.SIZE)
        )
    )


def _plain_object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
