# SPDX-License-Identifier: GPL-2.0-or-later
"""Debugging information entries (DIEs), decoded fast enough for whole kernel modules.

An abbreviation describes all entries of one shape, so it is turned once into the
:class:`struct.Struct` objects that unpack such an entry; reading it is then one call. Names and
values follow DWARF 5, section 7.5; versions 2 to 5 are read, 32 and 64 bit formats.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genbindings.dwarf.sections import Sections, open_sections
from genbindings.errors import Error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FIXED = {
    "data1": "B",
    "data2": "H",
    "data4": "I",
    "data8": "Q",
    "data16": "16s",
    "flag": "B",
    "ref1": "B",
    "ref2": "H",
    "ref4": "I",
    "ref8": "Q",
    "ref_sig8": "Q",
    "strx1": "B",
    "strx2": "H",
    "strx3": "3s",
    "strx4": "I",
    "addrx1": "B",
    "addrx2": "H",
    "addrx3": "3s",
    "addrx4": "I",
}
_OFFSETS = {"strp", "line_strp", "sec_offset", "strp_sup", "GNU_strp_alt", "GNU_ref_alt"}
_ULEB = {"udata", "ref_udata", "strx", "addrx", "loclistx", "rnglistx"}
_LOCAL_REFERENCES = {"ref1", "ref2", "ref4", "ref8", "ref_udata"}
# Big-endian 3-byte forms do not occur in the files read here; little-endian ones are padded.
_STRX = {"strx", "strx1", "strx2", "strx3", "strx4"}


@dataclass(slots=True)
class Abbreviation:
    """The shape of an entry: its tag, and how to decode and find its attributes."""

    tag: str
    has_children: bool
    steps: list[tuple[struct.Struct | None, str]]
    index: dict[str, int]
    forms: dict[str, str]
    constants: dict[str, int]


@dataclass(slots=True)
class Unit:
    """A compile unit: where it is in ``.debug_info`` and how its entries are decoded."""

    offset: int
    end: int
    first: int
    address_size: int
    wide: bool
    abbreviations: Any
    shapes: dict[int, Abbreviation] = field(default_factory=dict)
    pyelf: Any = None
    string_offsets: int = 0


@dataclass(slots=True)
class Die:
    """One entry. ``offset`` and ``end`` (of the entry itself) are offsets in ``.debug_info``."""

    unit: Unit
    offset: int
    end: int
    shape: Abbreviation
    values: list[Any]

    @property
    def tag(self) -> str:
        """The tag without ``DW_TAG_``, such as ``structure_type``."""
        return self.shape.tag

    def raw(self, name: str) -> Any:
        """Return attribute ``name`` (without ``DW_AT_``) as encoded, or None."""
        at = self.shape.index.get(name)
        return self.values[at] if at is not None else self.shape.constants.get(name)


class Dies:
    """All entries of one ELF file."""

    def __init__(self, path: Path) -> None:
        """Open ``path``.

        Raises:
            Error: it cannot be read, is not ELF, or has no debugging information.
        """
        self.path = path
        self.sections: Sections = open_sections(path)
        self.info = self.sections.info
        self._order = "<" if self.sections.little_endian else ">"
        self._shape_tables: dict[tuple[int, int, bool, int], dict[int, Abbreviation]] = {}
        self.units = [self._unit(cu) for cu in self.sections.pyelf.iter_CUs()]
        self._starts = [unit.offset for unit in self.units]

    def _unit(self, cu: Any) -> Unit:
        header = cu.header
        wide = cu.structs.dwarf_format == 64
        table = self.sections.pyelf.get_abbrev_table(header["debug_abbrev_offset"])
        unit = Unit(
            offset=cu.cu_offset,
            end=cu.cu_offset + header["unit_length"] + cu.structs.initial_length_field_size(),
            first=cu.cu_die_offset,
            address_size=header["address_size"],
            wide=wide,
            abbreviations=table,
            pyelf=cu,
        )
        key = (header["debug_abbrev_offset"], header["address_size"], wide, header["version"])
        unit.shapes = self._shape_tables.setdefault(key, {})
        # The base precedes the strings it serves only by convention, so read it on its own.
        root = self.at(unit, unit.first)
        if root is not None:
            unit.string_offsets = root.raw("str_offsets_base") or 0
        return unit

    def unit_at(self, offset: int) -> Unit:
        """Return the unit that contains ``offset`` of ``.debug_info``."""
        return self.units[bisect_right(self._starts, offset) - 1]

    def at(self, unit: Unit, offset: int) -> Die | None:
        """Return the entry at ``offset``, or None for the null entry that ends a list."""
        info = self.info
        code = info[offset]
        pos = offset + 1
        if code >= 0x80:
            code, pos = _uleb(info, offset)
        if code == 0:
            return None
        shape = unit.shapes.get(code)
        if shape is None:
            shape = unit.shapes[code] = self._shape(unit, code)
        values: list[Any] = []
        for layout, form in shape.steps:
            if layout is not None:
                values.extend(layout.unpack_from(info, pos))
                pos += layout.size
            else:
                value, pos = _variable(info, pos, form, self._order)
                values.append(value)
        return Die(unit, offset, pos, shape, values)

    def children(self, die: Die) -> Iterator[Die]:
        """Yield the entries directly below ``die``."""
        if not die.shape.has_children:
            return
        offset = die.end
        while (child := self.at(die.unit, offset)) is not None:
            yield child
            offset = self.after(child)

    def after(self, die: Die) -> int:
        """Return the offset of the entry that follows ``die`` and everything below it."""
        if not die.shape.has_children:
            return die.end
        sibling = die.raw("sibling")
        if sibling is not None:
            following = int(sibling) + (
                die.unit.offset if die.shape.forms["sibling"] in _LOCAL_REFERENCES else 0
            )
            if following < die.end:
                raise Error(f"{self.path}: damaged DWARF: the entry after {die.offset} is before")
            return following
        offset = die.end
        while (child := self.at(die.unit, offset)) is not None:
            offset = self.after(child)
        return offset + 1

    def top(self, unit: Unit) -> Iterator[Die]:
        """Yield the entries at the top level of ``unit``."""
        root = self.at(unit, unit.first)
        if root is not None:
            yield from self.children(root)

    def reference(self, die: Die, name: str = "type") -> Die | None:
        """Return the entry that attribute ``name`` refers to, or None without the attribute."""
        value = die.raw(name)
        if value is None:
            return None
        form = die.shape.forms[name]
        if form in _LOCAL_REFERENCES:
            return self.at(die.unit, die.unit.offset + int(value))
        if form != "ref_addr":
            raise Error(f"{self.path}: DWARF reference form {form} is not supported")
        return self.at(self.unit_at(int(value)), int(value))

    def string(self, die: Die, name: str = "name") -> str | None:
        """Return the string attribute ``name``, or None."""
        value = die.raw(name)
        if value is None:
            return None
        form = die.shape.forms[name]
        if form == "string":
            return bytes(value).decode("utf-8", "replace")
        if form == "strp":
            return _text(self.sections.strings, value)
        if form == "line_strp":
            return _text(self.sections.line_strings, value)
        if form in _STRX:
            if isinstance(value, bytes):
                value = int.from_bytes(value, "little" if self._order == "<" else "big")
            width = 8 if die.unit.wide else 4
            at = die.unit.string_offsets + value * width
            layout = self._order + ("Q" if die.unit.wide else "I")
            (offset,) = struct.unpack_from(layout, self.sections.string_offsets, at)
            return _text(self.sections.strings, offset)
        raise Error(f"{self.path}: DWARF string form {form} is not supported")

    def _shape(self, unit: Unit, code: int) -> Abbreviation:
        try:
            declaration = unit.abbreviations.get_abbrev(code)
        except KeyError:
            raise Error(f"{self.path}: damaged DWARF: no abbreviation {code}") from None
        steps: list[tuple[struct.Struct | None, str]] = []
        index: dict[str, int] = {}
        forms: dict[str, str] = {}
        constants: dict[str, int] = {}
        run, count = "", 0

        def close_run() -> None:
            nonlocal run
            if run:
                steps.append((struct.Struct(self._order + run), ""))
                run = ""

        for spec in declaration["attr_spec"]:
            name, form = (
                str(spec.name).removeprefix("DW_AT_"),
                str(spec.form).removeprefix("DW_FORM_"),
            )
            forms[name] = form
            if form == "implicit_const":
                constants[name] = int(spec.value)
                continue
            if form == "flag_present":
                constants[name] = 1
                continue
            fixed = _fixed(form, unit)
            if fixed:
                run += fixed
            else:
                close_run()
                steps.append((None, form))
            index[name] = count
            count += 1
        close_run()
        tag = str(declaration["tag"]).removeprefix("DW_TAG_")
        return Abbreviation(tag, declaration.has_children(), steps, index, forms, constants)


def _fixed(form: str, unit: Unit) -> str:
    """Return the struct character of a form of fixed size, or ''."""
    if form == "addr":
        return "Q" if unit.address_size == 8 else "I"
    if form in _OFFSETS or form == "ref_addr":
        return "Q" if unit.wide else "I"
    return _FIXED.get(form, "")


def _variable(info: bytes, pos: int, form: str, order: str) -> tuple[Any, int]:
    """Decode a form of variable size at ``pos``; return the value and the position after it."""
    if form in _ULEB:
        return _uleb(info, pos)
    if form == "sdata":
        return _sleb(info, pos)
    if form == "string":
        end = info.index(0, pos)
        return info[pos:end], end + 1
    if form in ("exprloc", "block"):
        size, pos = _uleb(info, pos)
        return info[pos : pos + size], pos + size
    if form in ("block1", "block2", "block4"):
        width = int(form[-1])
        size = int.from_bytes(info[pos : pos + width], "little" if order == "<" else "big")
        pos += width
        return info[pos : pos + size], pos + size
    raise Error(f"DWARF form {form} is not supported")


def _uleb(info: bytes, pos: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = info[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, pos
        shift += 7


def _sleb(info: bytes, pos: int) -> tuple[int, int]:
    start = pos
    value, pos = _uleb(info, pos)
    bits = 7 * (pos - start)
    return (value - (1 << bits) if value >> (bits - 1) else value), pos


def _text(table: bytes, offset: int) -> str:
    return table[offset : table.index(0, offset)].decode("utf-8", "replace")
