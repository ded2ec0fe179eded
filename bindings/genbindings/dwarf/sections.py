# SPDX-License-Identifier: GPL-2.0-or-later
"""The debug sections of an ELF file, decompressed and relocated."""

from __future__ import annotations

import struct
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from elftools.common.exceptions import DWARFError, ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from genbindings.errors import Error

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

# ELF machine -> {relocation type: struct character} of the absolute relocations in debug
# sections whose addend is in the relocation (RELA). Everything else in debug sections concerns
# code addresses, which layouts do not need. Numbers: the psABI of each architecture.
_ABSOLUTE = {
    "EM_X86_64": {1: "Q", 10: "I"},
    "EM_AARCH64": {257: "Q", 258: "I"},
    "EM_PPC64": {1: "I", 38: "Q"},
    "EM_S390": {4: "I", 22: "Q"},
    "EM_RISCV": {1: "I", 2: "Q"},
}


# What reading a damaged file ends in, here and in pyelftools, which checks little.
_SIGNS_OF_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ConstructError,
    DWARFError,
    ELFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@contextmanager
def damage_is_told(path: Path) -> Iterator[None]:
    """Turn whatever reading a damaged file at ``path`` trips over into an :class:`Error`."""
    try:
        yield
    except _SIGNS_OF_DAMAGE as error:
        raise Error(f"{path} is damaged: {error or type(error).__name__}") from error


@dataclass(slots=True)
class Sections:
    """Bytes of the debug sections; ``pyelf`` is pyelftools' DWARFInfo over the same bytes."""

    pyelf: Any
    little_endian: bool
    info: bytes
    strings: bytes
    line_strings: bytes
    string_offsets: bytes


def open_sections(path: Path) -> Sections:
    """Return the debug sections of ``path``.

    Raises:
        Error: the file cannot be read, is not ELF, or has no debugging information.
    """
    try:
        with path.open("rb") as stream:
            elf = ELFFile(stream)
            if not elf.has_dwarf_info(strict=True):
                raise Error(
                    f"{path} has no debugging information (.debug_info)",
                    "build it with -g, or install its debug package",
                )
            # pyelftools applies relocations one by one in Python objects; ours take a
            # hundredth of the time, which is what makes 10 MB modules practical.
            quick = elf["e_machine"] in _ABSOLUTE
            pyelf = elf.get_dwarf_info(relocate_dwarf_sections=not quick, follow_links=False)
            if quick and elf["e_type"] == "ET_REL":
                for section in (
                    pyelf.debug_info_sec,
                    pyelf.debug_line_sec,
                    pyelf.debug_str_offsets_sec,
                ):
                    _relocate(elf, section)
            return Sections(
                pyelf,
                elf.little_endian,
                _content(pyelf.debug_info_sec),
                _content(pyelf.debug_str_sec),
                _content(pyelf.debug_line_str_sec),
                _content(pyelf.debug_str_offsets_sec),
            )
    except OSError as error:
        raise Error(f"cannot read {path}: {error.strerror}") from None
    except (ELFError, struct.error) as error:
        raise Error(f"{path} is not a readable ELF file: {error}") from None


def read_object(path: Path, names: Collection[str]) -> tuple[str, dict[str, bytes]]:
    """Return the byte order (``<`` or ``>``) of an object file, and its sections ``names``.

    A section that the file does not have is empty.
    """
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        found: dict[str, bytes] = {}
        for name in names:
            section = elf.get_section_by_name(name)
            found[name] = bytes(section.data()) if section is not None else b""
        return ("<" if elf.little_endian else ">"), found


def _content(section: Any) -> bytes:
    return bytes(section.stream.getvalue()) if section is not None else b""


def _relocate(elf: Any, section: Any) -> None:
    """Apply the absolute relocations of ``section`` in place."""
    if section is None:
        return
    relocations = elf.get_section_by_name(f".rela{section.name}")
    if relocations is None:
        return
    order = "<" if elf.little_endian else ">"
    if elf.elfclass == 64:
        entry, type_bits = struct.Struct(order + "QQq"), 32
    else:
        entry, type_bits = struct.Struct(order + "IIi"), 8
    symbols = _symbol_values(elf, relocations["sh_link"], order)
    writers = {
        kind: struct.Struct(order + char).pack_into
        for kind, char in _ABSOLUTE[elf["e_machine"]].items()
    }
    limits = {
        kind: (1 << (64 if char == "Q" else 32)) - 1
        for kind, char in _ABSOLUTE[elf["e_machine"]].items()
    }
    buffer = section.stream.getbuffer()
    mask = (1 << type_bits) - 1
    for offset, info, addend in entry.iter_unpack(relocations.data()):
        kind = info & mask
        write = writers.get(kind)
        if write is not None:
            write(buffer, offset, (symbols[info >> type_bits] + addend) & limits[kind])
    buffer.release()


def _symbol_values(elf: Any, number: int, order: str) -> list[int]:
    data = elf.get_section(number).data()
    if elf.elfclass == 64:
        return [value for _, _, value, _ in struct.iter_unpack(order + "IIQQ", data)]
    return [value for _, value, _, _ in struct.iter_unpack(order + "IIII", data)]
