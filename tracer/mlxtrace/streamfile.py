# SPDX-License-Identifier: GPL-2.0-or-later
"""Stream files (``.mlxstream``): the saved state of a device, self-describing and checksummed.

    offset  bytes  content (integers are little-endian)
    0       8      magic "MLXSTRM\\0"
    8       4      u32 version: 1
    12      4      u32 size of the header, H
    16      H      header, JSON: where the stream comes from (docs/migrate.md has the keys)
    16+H    D      the stream, as read from the device
    16+H+D  T      trailer, JSON: phases, images, state hash
    ...     8      u64 size of the stream, D
    ...     4      u32 size of the trailer, T
    ...     32     SHA-256 of everything before this field
    ...     8      magic "MLXSTRME"

A file is written under a temporary name and renamed when it is complete, so one that has the
final name is whole; reading verifies that all the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from genbindings.errors import Error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

MAGIC = b"MLXSTRM\0"
END_MAGIC = b"MLXSTRME"
VERSION = 1
PREFIX = struct.Struct("<8sII")
LENGTHS = struct.Struct("<QI")
DIGEST_BYTES = hashlib.sha256().digest_size
SUFFIX_BYTES = LENGTHS.size + DIGEST_BYTES + len(END_MAGIC)
CHUNK_BYTES = 1 << 20


class StreamWriter:
    """Writes a stream file. Leaving the ``with`` block without :meth:`commit` removes it.

    Attributes:
        path: the file's name.
        temporary: its name until it is published.
        data_bytes: size of the stream so far.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        """Create the temporary file beside ``path`` and write ``header``.

        Raises:
            Error: the file cannot be made there.
        """
        self.path = path
        self.data_bytes = 0
        if path.exists() and not path.is_file():
            raise Error(f"{path} is not a regular file", "name a file to be made")
        with _explained(f"cannot write {path}"):
            fd, name = tempfile.mkstemp(
                prefix=f".{path.name}.", suffix=".partial", dir=path.parent or Path()
            )
        self.temporary = Path(name)
        self._file: IO[bytes] = os.fdopen(fd, "wb")
        self._hash = hashlib.sha256()
        text = json.dumps(header, sort_keys=True).encode()
        try:
            self._put(PREFIX.pack(MAGIC, VERSION, len(text)) + text)
        except Error:
            self.discard()
            raise

    def write(self, data: bytes | memoryview) -> None:
        """Append to the stream.

        Raises:
            Error: no space, for one.
        """
        self._put(data)
        self.data_bytes += len(data)

    def commit(self, trailer: dict[str, Any]) -> None:
        """Complete the file and give it its name: see :meth:`complete` and :meth:`publish`."""
        self.complete(trailer)
        self.publish()

    def complete(self, trailer: dict[str, Any]) -> None:
        """Write ``trailer`` and the checksum. The file is whole then, under its temporary name.

        Raises:
            Error: as :meth:`write`.
        """
        text = json.dumps(trailer, sort_keys=True).encode()
        self._put(text + LENGTHS.pack(self.data_bytes, len(text)))
        digest = self._hash.digest()
        with _explained(f"cannot write {self.path}"):
            self._file.write(digest + END_MAGIC)
            self._file.flush()
            os.fchmod(self._file.fileno(), 0o666 & ~_umask())
            os.fsync(self._file.fileno())
            self._file.close()

    def publish(self) -> None:
        """Give a complete file its name. An older file of that name is replaced.

        Raises:
            Error: it cannot be renamed; it is there under its temporary name.
        """
        with _explained(f"cannot rename {self.temporary} to {self.path}"):
            self.temporary.replace(self.path)

    def discard(self) -> None:
        """Remove what was written, unless it was published. May be repeated."""
        with contextlib.suppress(OSError):
            self._file.close()
        self.temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()

    def _put(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        with _explained(f"cannot write {self.path}"):
            self._file.write(data)


@dataclass(frozen=True)
class StreamFile:
    """A stream file that was verified.

    Attributes:
        path: the file.
        header: what it says of its origin.
        trailer: phases, images and state hash.
        data_offset: where the stream begins in the file, in bytes.
        data_bytes: size of the stream.
    """

    path: Path
    header: dict[str, Any]
    trailer: dict[str, Any]
    data_offset: int
    data_bytes: int

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Yield the stream in parts of at most ``max_bytes``.

        Raises:
            Error: the file changed since it was verified, or cannot be read.
        """
        left = self.data_bytes
        with opened(self.path) as file:
            file.seek(self.data_offset)
            while left:
                data = file.read(min(left, max_bytes))
                if not data:
                    raise Error(f"{self.path}: it became shorter while it was read")
                left -= len(data)
                yield data


def load(path: Path) -> StreamFile:
    """Verify the stream file ``path``, whole, and return what it says of itself.

    Raises:
        Error: it cannot be read, is not a stream file, was made by a newer version, is cut off
            or is damaged.
    """
    with opened(path) as file:
        return _verify(path, file)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open the regular file ``path`` for reading.

    Raises:
        Error: it cannot be read, or is something else: opening a pipe would wait.
    """
    with _explained(f"cannot read {path}"):
        if not stat.S_ISREG(path.stat().st_mode):
            raise Error(f"{path} is not a regular file", "name a stream file")
        with path.open("rb") as file:
            yield file


def _verify(path: Path, file: IO[bytes]) -> StreamFile:
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(PREFIX.size)
    if prefix[: len(MAGIC)] != MAGIC[: len(prefix)] or not prefix:
        raise Error(f"{path}: not a stream file", "mlxtrace migrate --to makes them")
    cut = Error(f"{path}: it is cut off ({size} bytes)", "copy it again, or save the state again")
    if len(prefix) < PREFIX.size:
        raise cut
    _, version, header_bytes = PREFIX.unpack(prefix)
    if version != VERSION:
        raise Error(
            f"{path}: format version {version}, this mlxtrace reads version {VERSION}",
            "it was made by another version of mlxtrace, or it is damaged",
        )
    if size < PREFIX.size + SUFFIX_BYTES:
        raise cut
    file.seek(size - SUFFIX_BYTES)
    suffix = file.read(SUFFIX_BYTES)
    if not suffix.endswith(END_MAGIC):
        raise cut
    if _digest(file, size - DIGEST_BYTES - len(END_MAGIC)) != suffix[LENGTHS.size : -8]:
        raise Error(
            f"{path}: it is damaged: its checksum does not fit its content",
            "copy it again, or save the state again",
        )
    data_bytes, trailer_bytes = LENGTHS.unpack_from(suffix)
    if PREFIX.size + header_bytes + data_bytes + trailer_bytes + SUFFIX_BYTES != size:
        raise Error(f"{path}: the sizes in it contradict each other")
    file.seek(PREFIX.size)
    header = _json(path, file.read(header_bytes))
    file.seek(size - SUFFIX_BYTES - trailer_bytes)
    trailer = _json(path, file.read(trailer_bytes))
    return StreamFile(path, header, trailer, PREFIX.size + header_bytes, data_bytes)


def _digest(file: IO[bytes], size: int) -> bytes:
    """Return the SHA-256 of the first ``size`` bytes of ``file``."""
    digest = hashlib.sha256()
    file.seek(0)
    while size and (data := file.read(min(size, CHUNK_BYTES))):
        digest.update(data)
        size -= len(data)
    return digest.digest()


def _json(path: Path, text: bytes) -> dict[str, Any]:
    """Return the JSON object ``text``."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Error(f"{path}: its description cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise Error(f"{path}: its description is not a JSON object")
    return value


def _umask() -> int:
    """Return the process's umask: mkstemp makes files that only their owner may read."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn an OSError into an Error that begins with ``what``."""
    try:
        yield
    except OSError as error:
        raise Error(f"{what}: {error.strerror or error}") from None
