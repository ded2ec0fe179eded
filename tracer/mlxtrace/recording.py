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
        step = _BLOCK_MAX_RECORDS * records.SIZE
        for at in range(0, len(data), step):
            part = data[at : at + step]
            head = _BLOCK.pack(_RECORDS, len(part) // records.SIZE, zlib.crc32(part))
            self._put(head + part)

    def close(self, closing: dict[str, Any]) -> None:
        """Write the end and close the file."""
        data = json.dumps(closing).encode()
        self._put(_BLOCK.pack(_END, len(data), zlib.crc32(data)) + data)
        self._file.close()

    def _put(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise Error(f"cannot write {self._path}: {error.strerror}") from None


class Reader:
    """Reads one recording.

    Attributes:
        header: what the writer knew at the start.
        closing: what it knew at the end; None until :meth:`chunks` is exhausted, and after that
            if the recording has no end.

    Args:
        path: the file.
        warn: called with one sentence when the recording is cut or damaged.

    Raises:
        Error: it is not a recording, of a version unknown, or its header is damaged.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self.closing: dict[str, Any] | None = None
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise Error(f"cannot read {path}: {error.strerror}") from None
        try:
            self.header = self._read_header()
        except Error:
            self._file.close()
            raise

    def chunks(self) -> Iterator[bytes]:
        """Yield whole records, block by block, up to the end or the first damage."""
        try:
            yield from self._chunks()
        finally:
            self._file.close()

    def _read_header(self) -> dict[str, Any]:
        head = self._file.read(_HEAD.size)
        if not head.startswith(MAGIC):
            raise Error(f"{self._path} is not a recording of mlxtrace")
        if len(head) < _HEAD.size:
            raise Error(f"{self._path} ends inside its header: there is nothing in it to show")
        _, version, length, checksum = _HEAD.unpack(head)
        if version != VERSION:
            raise Error(
                f"{self._path} is a recording of version {version}, this reads {VERSION}",
                "use the mlxtrace that wrote it",
            )
        data = self._file.read(length) if length <= _HEADER_MAX else b""
        if length > _HEADER_MAX or len(data) < length:
            raise Error(f"{self._path} ends inside its header: there is nothing in it to show")
        header = _plain_object(data) if zlib.crc32(data) == checksum else None
        if header is None:
            raise Error(f"the header of {self._path} is damaged")
        return header

    def _chunks(self) -> Iterator[bytes]:
        while True:
            at = self._file.tell()
            head = self._file.read(_BLOCK.size)
            if len(head) < _BLOCK.size:
                self._warn(f"{self._path} was cut at byte {at}: its end is missing")
                return
            mark, number, checksum = _BLOCK.unpack(head)
            if mark == _RECORDS and number <= _BLOCK_MAX_RECORDS:
                data = self._file.read(number * records.SIZE)
                if len(data) < number * records.SIZE:
                    whole = len(data) // records.SIZE * records.SIZE
                    self._warn(f"{self._path} was cut in the block at byte {at}")
                    yield data[:whole]
                    return
                if zlib.crc32(data) != checksum:
                    self._warn(f"{self._path} is damaged in the block at byte {at}: it ends there")
                    return
                yield data
                continue
            if mark == _END and number <= _HEADER_MAX:
                data = self._file.read(number)
                if len(data) == number and zlib.crc32(data) == checksum:
                    self.closing = _plain_object(data)
                if self.closing is None:
                    self._warn(f"the end of {self._path} is cut or damaged")
                return
            self._warn(f"{self._path} is damaged at byte {at}: it is read up to there")
            return


def _plain_object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
