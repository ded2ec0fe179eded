# SPDX-License-Identifier: GPL-2.0-or-later
"""What a module file says of itself: what it imports, its functions, sizes, release, build id."""

from __future__ import annotations

import lzma
import re
import shutil
import struct
import subprocess
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from genbindings.errors import Error

if TYPE_CHECKING:
    from pathlib import Path

# include/linux/module.h, struct modversion_info: an unsigned long, and the name up to 64 bytes.
_VERSION_ENTRY = 64
_SIGNED = b"~Module signature appended~\n"
_SHF_WRITE, _SHF_ALLOC = 1, 2
# elf.h: the type of the note that holds a build id.
_NT_GNU_BUILD_ID = 3


@dataclass(frozen=True)
class Module:
    """A module file.

    Attributes:
        name: as lsmod has it, with underscores.
        release: the kernel release that it was built for, from its vermagic.
        imports: the symbols that it uses, each with its CRC; empty without CONFIG_MODVERSIONS.
        functions: names of the functions in its symbol table.
        sizes: bytes in memory: ``text``, ``data`` (written to), ``bss``.
        build_id: the linker's hash of its content, in hex digits.
        signed: whether a signature is appended.
    """

    path: Path
    name: str
    release: str
    imports: dict[str, int]
    functions: frozenset[str]
    sizes: dict[str, int]
    build_id: str
    signed: bool


def content(path: Path) -> bytes:
    """Return the ELF file that is the module ``path``, decompressed.

    Raises:
        Error: it cannot be read or decompressed.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".xz":
            return lzma.decompress(data)
        if path.suffix == ".gz":
            return zlib.decompress(data, wbits=31)
        if path.suffix == ".zst":
            return _zstd(path, data)
    except OSError as error:
        raise Error(f"cannot read {path}: {error.strerror}") from None
    except (lzma.LZMAError, zlib.error) as error:
        raise Error(f"{path} is damaged: {error}") from None
    return data


def _zstd(path: Path, data: bytes) -> bytes:
    if shutil.which("zstd") is None:
        raise Error(f"{path} is compressed, and zstd is missing", "run: apt-get install zstd")
    done = subprocess.run(["zstd", "-dc"], input=data, capture_output=True)
    if done.returncode:
        raise Error(f"{path} is damaged: zstd cannot decompress it")
    return done.stdout


def read(path: Path) -> Module:
    """Return what the module ``path`` says of itself.

    Raises:
        Error: it is not a module, or cannot be read.
    """
    data = content(path)
    try:
        elf = ELFFile(BytesIO(data))
        info = _info(elf)
        if "vermagic" not in info:
            raise Error(f"{path} is not a kernel module: it has no vermagic")
        return Module(
            path,
            info.get("name") or path.name.partition(".")[0].replace("-", "_"),
            info["vermagic"].split(" ")[0],
            _imports(elf),
            _functions(elf),
            _sizes(elf),
            build_id(_section(elf, ".note.gnu.build-id")),
            data.endswith(_SIGNED),
        )
    except (ELFError, struct.error) as error:
        raise Error(f"{path} is not a kernel module: {error}") from None


def build_id(notes: bytes) -> str:
    """Return the build id in ``notes``, ELF notes as a file or /sys/module/*/notes has them."""
    at = 0
    while at + 12 <= len(notes):
        name, size, kind = struct.unpack_from("<III", notes, at)
        at += 12 + (name + 3) // 4 * 4
        if kind == _NT_GNU_BUILD_ID:
            return notes[at : at + size].hex()
        at += (size + 3) // 4 * 4
    return ""


def _section(elf: Any, name: str) -> bytes:
    section = elf.get_section_by_name(name)
    return bytes(section.data()) if section is not None else b""


def _info(elf: Any) -> dict[str, str]:
    pairs = (item.partition(b"=") for item in _section(elf, ".modinfo").split(b"\0") if item)
    return {key.decode(): value.decode("utf-8", "replace") for key, _, value in pairs}


def _imports(elf: Any) -> dict[str, int]:
    found = {}
    order, width = ("<" if elf.little_endian else ">"), elf.elfclass // 8
    data = _section(elf, "__versions")
    for at in range(0, len(data) - _VERSION_ENTRY + 1, _VERSION_ENTRY):
        (crc,) = struct.unpack_from(order + ("Q" if width == 8 else "I"), data, at)
        name = data[at + width : at + _VERSION_ENTRY].rstrip(b"\0").decode()
        found[name] = crc & 0xFFFFFFFF
    return found


def _functions(elf: Any) -> frozenset[str]:
    table = elf.get_section_by_name(".symtab")
    if not isinstance(table, SymbolTableSection):
        return frozenset()
    return frozenset(
        symbol.name
        for symbol in table.iter_symbols()
        if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_shndx"] != "SHN_UNDEF"
    )


def _sizes(elf: Any) -> dict[str, int]:
    sizes = {"text": 0, "data": 0, "bss": 0}
    for section in elf.iter_sections():
        # The loader discards what belongs to symbol versions and to the module's own description.
        if not section["sh_flags"] & _SHF_ALLOC or re.match(r"__versions|\.modinfo", section.name):
            continue
        kind = "bss" if section["sh_type"] == "SHT_NOBITS" else "data"
        sizes[kind if section["sh_flags"] & _SHF_WRITE else "text"] += section["sh_size"]
    return sizes
