# SPDX-License-Identifier: GPL-2.0-or-later
"""What can still be told of a stream file that :func:`mlxtrace.streamfile.load` refuses."""

from __future__ import annotations

import json
import os
from typing import IO, TYPE_CHECKING, Any

from genbindings.errors import Error
from mlxtrace import streamfile
from mlxtrace.streamfile import END_MAGIC, LENGTHS, MAGIC, PREFIX, SUFFIX_BYTES, StreamFile

if TYPE_CHECKING:
    from pathlib import Path

DESCRIPTION_BYTES = 16 << 20
"""No description is larger: a damaged length must not make a reader fill the memory."""

# The first bytes of files that people take for stream files, and what to do with them.
_FOREIGN = (
    (b"MLXREC\r\n", "a recording of mlxtrace precopy", "mlxtrace report prints it"),
    (b"QEVM", "a migration stream of QEMU", "only QEMU reads it"),
    (b"\x1f\x8b", "compressed (gzip)", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)", "unpack it first"),
    (b"\xfd7zXZ\0", "compressed (xz)", "unpack it first"),
    (b"BZh", "compressed (bzip2)", "unpack it first"),
)


def foreign(path: Path) -> Error | None:
    """Return what ``path`` is if it is no stream file, ``None`` if it is one, damaged or not.

    Raises:
        Error: it cannot be read, or is not a regular file.
    """
    with streamfile.opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(PREFIX.size)
        file.seek(max(0, size - len(END_MAGIC)))
        if head and (MAGIC.startswith(head[: len(MAGIC)]) or file.read() == END_MAGIC):
            return None
    for magic, what, hint in _FOREIGN:
        if head.startswith(magic):
            return Error(f"{path}: not a stream file, but {what}", hint)
    what = "" if size else ", but empty"
    return Error(f"{path}: not a stream file{what}", "mlxtrace migrate --to makes them")


def salvage(path: Path) -> StreamFile:
    """Return what can be read of a damaged stream file: empty descriptions where they cannot.

    Raises:
        Error: it cannot be read.
    """
    with streamfile.opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        data_bytes, trailer_bytes = _lengths(file, size)
        header_bytes = _header_bytes(file, size)
        header = _object(file, PREFIX.size, header_bytes)
        if not header and data_bytes is not None:
            # Its length may be what is damaged: the other three give it.
            rest = size - PREFIX.size - SUFFIX_BYTES - data_bytes - trailer_bytes
            header_bytes = max(0, rest)
            header = _object(file, PREFIX.size, header_bytes)
        offset = min(PREFIX.size + header_bytes, size)
        left = size - offset
        if data_bytes is None:
            return StreamFile(path, header, {}, offset, left)
        trailer = _object(file, size - SUFFIX_BYTES - trailer_bytes, trailer_bytes)
        return StreamFile(path, header, trailer, offset, min(data_bytes, left))


def _lengths(file: IO[bytes], size: int) -> tuple[int | None, int]:
    """Return the lengths of stream and trailer as the end of the file has them, if they can be."""
    if size < PREFIX.size + SUFFIX_BYTES:
        return None, 0
    file.seek(size - SUFFIX_BYTES)
    suffix = file.read(SUFFIX_BYTES)
    data_bytes, trailer_bytes = LENGTHS.unpack_from(suffix)
    room = size - PREFIX.size - SUFFIX_BYTES
    if not suffix.endswith(END_MAGIC) or data_bytes + trailer_bytes > room:
        return None, 0
    return data_bytes, trailer_bytes


def _header_bytes(file: IO[bytes], size: int) -> int:
    """Return the length of the header as the file's beginning has it, 0 if it cannot be."""
    file.seek(0)
    prefix = file.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        return 0
    length = int(PREFIX.unpack(prefix)[2])
    return length if PREFIX.size + length <= size else 0


def _object(file: IO[bytes], offset: int, length: int) -> dict[str, Any]:
    """Return the JSON object there, empty if there is none."""
    if not 0 < length <= DESCRIPTION_BYTES:
        return {}
    file.seek(offset)
    try:
        value = json.loads(file.read(length))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
