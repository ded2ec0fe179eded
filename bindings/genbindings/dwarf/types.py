# SPDX-License-Identifier: GPL-2.0-or-later
"""Every struct, union and enum of an object file, as the model has them (without doc comments)."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genbindings.dwarf.dies import Die, Dies
from genbindings.dwarf.layouts import bit_offset, dimensions, member_offset, size_of
from genbindings.errors import Error
from genbindings.model import Enum, Field, Location, RecordRef, Scalar, ScalarKind, Struct

if TYPE_CHECKING:
    from collections.abc import Collection

# DW_ATE_*: DWARF 5, table 7.11.
_ENCODINGS: dict[int, tuple[ScalarKind, bool]] = {
    0x01: ("pointer", False),
    0x02: ("bool", False),
    0x04: ("float", True),
    0x05: ("int", True),
    0x06: ("char", True),
    0x07: ("int", False),
    0x08: ("char", False),
    0x10: ("int", False),
}
_Shape = tuple[Die | None, tuple[int | None, ...], int]
_QUALIFIERS = ("const_type", "volatile_type", "restrict_type", "atomic_type")


@dataclass(frozen=True, slots=True)
class Types:
    """What an object file defines, by name, in the order of definition."""

    structs: dict[str, Struct]
    enums: tuple[Enum, ...]


def read_types(path: Path, own_files: Collection[Path]) -> Types:
    """Return the types that ``own_files`` define, and those that their members need.

    Args:
        path: an object file compiled with ``-g -fno-eliminate-unused-debug-types``.
        own_files: absolute paths of the header and its quoted includes.

    Raises:
        Error: the file has no readable debugging information.
    """
    return _Reader(Dies(path), own_files).read()


class _Reader:
    def __init__(self, dies: Dies, own_files: Collection[Path]) -> None:
        self._dies = dies
        self._own = {os.path.realpath(path) for path in own_files}
        self._structs: dict[str, Struct] = {}
        self._names: dict[int, str] = {}
        self._taken: set[str] = set()
        self._files: list[str] = []
        self._base_names: list[str] = []
        # Thousands of members share some hundred types.
        self._shapes: dict[int, _Shape] = {}
        self._scalars: dict[int, Scalar] = {}

    def read(self) -> Types:
        enums: list[Enum] = []
        for unit in self._dies.units:
            self._files = file_table(self._dies, unit.pyelf)
            self._base_names = [os.path.basename(path) for path in self._files]  # noqa: PTH119
            for die in self._dies.top(unit):
                if die.raw("declaration") or not self._is_own(die):
                    continue
                if die.tag in ("structure_type", "union_type"):
                    name = self._dies.string(die)
                    if name is not None:
                        self._record(die, name, f"{_keyword(die)} {name}")
                elif die.tag == "enumeration_type":
                    enums.append(self._enum(die))
                elif die.tag == "typedef":
                    self._typedef(die)
        return Types(self._structs, tuple(enums))

    def _typedef(self, die: Die) -> None:
        """A typedef names a struct that has no tag of its own."""
        target = self._dies.reference(die)
        name = self._dies.string(die)
        if target is None or name is None or target.tag not in ("structure_type", "union_type"):
            return
        if self._dies.string(target) is None and target.offset not in self._names:
            self._record(target, name, name)

    def _is_own(self, die: Die) -> bool:
        number = die.raw("decl_file")
        return number is not None and self._files[number] in self._own

    def _location(self, die: Die) -> Location | None:
        number, line = die.raw("decl_file"), die.raw("decl_line")
        if number is None or line is None:
            return None
        return Location(self._base_names[number], line)

    def _record(
        self, die: Die, name: str, spelling: str, owner: tuple[str, str] | None = None
    ) -> str:
        """Read a struct or union; return its name.

        ``owner`` is the name and spelling of the struct through which C reaches the members of an
        anonymous one.
        """
        known = self._names.get(die.offset)
        if known is not None:
            return known
        self._names[die.offset] = name
        self._taken.add(name)
        anonymous = 0
        fields: list[Field] = []
        for member in self._dies.children(die):
            if member.tag != "member":
                continue
            label = self._dies.string(member) or ""
            if not label:
                anonymous += 1
            field = self._field(member, label, owner or (name, spelling), anonymous)
            fields += self._without_empty(field)
        # Members first, so that a type precedes its users in the result.
        kind: Literal["struct", "union"] = "union" if die.tag == "union_type" else "struct"
        self._structs[name] = Struct(
            name=name,
            kind=kind,
            size=int(die.raw("byte_size") or 0),
            align=self._alignment(die, fields),
            fields=tuple(fields),
            spelling=spelling,
            location=self._location(die),
            own=self._is_own(die),
        )
        return name

    def _without_empty(self, field: Field) -> list[Field]:
        """Drop a member of an empty struct type, and put what an anonymous empty one has in place.

        ``DECLARE_FLEX_ARRAY`` wraps a flexible array into both, to satisfy the compiler.
        """
        if not isinstance(field.type, RecordRef) or field.count:
            return [field]
        inner = self._structs[field.type.name]
        if inner.size or field.bit_size is not None:
            return [field]
        if not inner.fields:
            return []
        if field.name:
            return [field]
        return [replace(each, offset=field.offset + each.offset) for each in inner.fields]

    def _field(self, member: Die, label: str, owner: tuple[str, str], anonymous: int) -> Field:
        outer, outer_spelling = owner
        target, count, size = self._shape(member)
        if label:
            spelled = f"{label}{'[0]' * len(count)}"
            spelling = f"__typeof__((({outer_spelling} *)0)->{spelled})" if outer_spelling else ""
        else:
            spelling = ""
        offset = member_offset(self._dies, member)
        bit_size = member.raw("bit_size")
        return Field(
            name=label,
            offset=offset,
            size=size,
            type=self._type(
                target,
                f"{outer}.{label or self._anonymous(outer, anonymous)}",
                spelling,
                None if label else owner,
            ),
            count=count,
            location=self._location(member),
            bit_offset=None if bit_size is None else bit_offset(self._dies, member),
            bit_size=bit_size,
        )

    def _shape(self, member: Die) -> _Shape:
        """Return the type of a member's innermost elements, its dimensions, and its size."""
        die = self._dies.reference(member)
        key = die.offset if die is not None else 0
        found = self._shapes.get(key)
        if found is None:
            target, count = self._element(die)
            size = 0 if None in count else size_of(self._dies, die)
            found = self._shapes[key] = (target, count, size)
        return found

    def _element(self, die: Die | None) -> tuple[Die | None, tuple[int | None, ...]]:
        """Split an array type into its innermost element type and all its dimensions."""
        counts: list[int | None] = []
        at = die
        while at is not None and at.tag in (*_QUALIFIERS, "typedef", "array_type"):
            if at.tag == "array_type":
                counts.extend(dimensions(self._dies, at))
                die = self._dies.reference(at)
            at = self._dies.reference(at)
        return die, tuple(counts)

    def _anonymous(self, outer: str, number: int) -> str:
        """Return a name for an anonymous member that no other of ``outer`` has."""
        while f"{outer}.anonymous{number}" in self._taken:
            number += 1
        return f"anonymous{number}"

    def _type(
        self,
        die: Die | None,
        anonymous_name: str,
        spelling: str,
        owner: tuple[str, str] | None = None,
    ) -> Scalar | RecordRef:
        start = die
        if start is not None and start.offset in self._scalars:
            return self._scalars[start.offset]
        typedef = ""
        while die is not None and die.tag in (*_QUALIFIERS, "typedef"):
            if die.tag == "typedef" and not typedef:
                typedef = self._dies.string(die) or ""
            die = self._dies.reference(die)
        if die is not None and die.tag in ("structure_type", "union_type"):
            tag = self._dies.string(die)
            if tag is not None:
                return RecordRef(self._record(die, tag, f"{_keyword(die)} {tag}"))
            name = typedef or anonymous_name
            return RecordRef(self._record(die, name, typedef or spelling, owner))
        scalar = self._scalar(die, typedef)
        if start is not None:
            self._scalars[start.offset] = scalar
        return scalar

    def _scalar(self, die: Die | None, typedef: str) -> Scalar:
        size = size_of(self._dies, die)
        if die is None:
            return Scalar(typedef or "void", 0, "opaque")
        name = self._dies.string(die) or ""
        if die.tag == "base_type":
            kind, signed = _ENCODINGS.get(die.raw("encoding"), ("opaque", False))
            # gcc encodes `signed char` and `char` alike; only the latter is text.
            if kind == "char" and (name != "char" or typedef):
                kind = "int"
            if size > 8:
                kind = "opaque"
            return Scalar(typedef or name, size, kind, signed)
        if die.tag == "enumeration_type":
            # DWARF gives the underlying type, or values that tell: a negative one needs a sign.
            underlying = self._dies.reference(die)
            signed = underlying is not None and underlying.raw("encoding") in (0x05, 0x06)
            return Scalar(typedef or (f"enum {name}" if name else "int"), size, "int", signed)
        if die.tag == "pointer_type":
            return Scalar(typedef or f"{self._pointee(die)} *", size, "pointer")
        raise Error(f"{self._dies.path}: DWARF type {die.tag} is not supported")

    def _pointee(self, pointer: Die) -> str:
        die = self._dies.reference(pointer)
        while die is not None and die.tag in _QUALIFIERS:
            die = self._dies.reference(die)
        if die is None or die.tag == "subroutine_type":
            return "void"
        name = self._dies.string(die) or "void"
        if die.tag in ("structure_type", "union_type"):
            return f"{_keyword(die)} {name}"
        return name if die.tag in ("base_type", "typedef") else "void"

    def _alignment(self, die: Die, fields: list[Field]) -> int:
        """The natural alignment; the compiler's own replaces it where the struct can be named."""
        explicit = int(die.raw("alignment") or 1)
        return max([explicit, *(self._field_alignment(field) for field in fields)])

    def _field_alignment(self, field: Field) -> int:
        if isinstance(field.type, RecordRef):
            return self._structs[field.type.name].align
        return max(1, field.type.size)

    def _enum(self, die: Die) -> Enum:
        values: dict[str, int] = {}
        for child in self._dies.children(die):
            if child.tag == "enumerator":
                values[self._dies.string(child) or ""] = int(child.raw("const_value"))
        return Enum(self._dies.string(die) or "", values, location=self._location(die))


def _keyword(die: Die) -> str:
    return "union" if die.tag == "union_type" else "struct"


def file_table(dies: Dies, unit: object) -> list[str]:
    """Return the absolute paths that DW_AT_decl_file indexes."""
    program = dies.sections.pyelf.line_program_for_CU(unit)
    header = program.header
    directories = [_decode(name) for name in header["include_directory"]]
    paths: list[str] = []
    if header["version"] < 5:
        # Entry 0 of both tables is implied before DWARF 5: the compile directory, and no file.
        directories.insert(0, "")
        paths.append("")
    for entry in header["file_entry"]:
        name = Path(_decode(entry.name))
        paths.append(os.path.realpath(Path(directories[entry.dir_index]) / name))
    return paths


def _decode(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def with_alignments(types: Types, alignments: dict[str, int]) -> Types:
    """Return ``types`` with the alignments that the compiler reported, by spelling."""
    structs = {
        name: replace(struct, align=alignments.get(struct.spelling, struct.align))
        for name, struct in types.structs.items()
    }
    return Types(structs, types.enums)
