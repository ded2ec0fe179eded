# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of a module that may have its DWARF, found without kmod's tools, compressed or not."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import platform
import re
import shutil
import subprocess
import tempfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

from genbindings.errors import Error

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULES = Path("/lib/modules")
DEBUG_FILES = Path("/usr/lib/debug/lib/modules")

_COMPRESSED = (".xz", ".zst", ".gz")


class PackedError(Error):
    """A file cannot be decompressed. The message says why, not which, for a list of what failed."""


def candidates(module: str) -> list[Path]:
    """Return the files of the running kernel's ``module`` that exist: its own, those for debugging.

    A distribution that compresses its modules does not compress what it keeps for debugging.
    """
    release = platform.release()
    own = _own(MODULES / release, module)
    if own is None:
        return []
    found = [own]
    below = own.relative_to(MODULES / release)
    plain = below.with_suffix("") if below.suffix in _COMPRESSED else below
    for name in dict.fromkeys((plain, below)):
        debug = DEBUG_FILES / release / name
        found += [debug, debug.with_name(f"{debug.name}.debug")]
    return [path for path in found if path.is_file()]


@contextlib.contextmanager
def plain(path: Path) -> Iterator[Path]:
    """Yield ``path``, or the name of a temporary copy where it is compressed.

    Raises:
        PackedError: it cannot be decompressed.
    """
    if path.suffix not in _COMPRESSED:
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=".ko") as file:
        try:
            with path.open("rb") as packed:
                _decompress(path.suffix, packed, file)
            file.flush()
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise PackedError(f"cannot be decompressed: {error}") from None
        yield Path(file.name)


def _decompress(suffix: str, packed: IO[bytes], file: IO[bytes]) -> None:
    if suffix == ".xz":
        with lzma.LZMAFile(packed) as unpacked:
            shutil.copyfileobj(unpacked, file)
    elif suffix == ".gz":
        with gzip.GzipFile(fileobj=packed) as unpacked:
            shutil.copyfileobj(unpacked, file)
    elif shutil.which("zstd") is None:
        raise OSError("zstd is not installed")
    elif subprocess.run(["zstd", "-dcq"], stdin=packed, stdout=file, check=False).returncode:
        raise OSError("zstd says that it is damaged")


def _own(root: Path, module: str) -> Path | None:
    """Return the file that modprobe would load, or one that depmod does not know."""
    # KBUILD_MODNAME has underscores, the file may have dashes.
    name = module.replace("_", "[-_]")
    try:
        listing = (root / "modules.dep").read_text(encoding="utf-8", errors="replace")
    except OSError:
        listing = ""
    if match := re.search(rf"^((?:.*/)?{name}\.ko(?:\.\w+)?):", listing, re.MULTILINE):
        own = root / match[1]
        if own.is_relative_to(root) and own.is_file():
            return own
    return min(root.rglob(f"{name}.ko*"), default=None)
