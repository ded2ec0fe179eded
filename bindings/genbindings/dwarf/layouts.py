# SPDX-License-Identifier: GPL-2.0-or-later
"""Layouts of named structs, from the debugging information of a module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from genbindings.dwarf.dies import Die, Dies
from genbindings.dwarf.sections import damage_is_told
from genbindings.errors import Error

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

_RECORDS = ("structure_type", "union_type")
_TRANSPARENT = ("typedef", "const_type", "volatile_type", "restrict_type", "atomic_type")

_CHAIN_MAX = 256
"""Typedefs and qualifiers on the way to a type: more are a circle."""


@dataclass(frozen=True, slots=True)
class FieldAt:
    """A member: ``offset`` and ``size`` in bytes, and the tag of the struct or union it embeds."""

    offset: int
    size: int
    struct: str | None


@dataclass(frozen=True, slots=True)
class BitsAt:
    """A bitfield: ``offset`` and ``size`` in bits."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A struct or union: its tag, its size in bytes, and its members by name.

    Members of anonymous structs and unions appear among the fields with their real offsets;
    bitfields are in ``bits``.
    """

    name: str
    size: int
    fields: dict[str, FieldAt]
    bits: dict[str, BitsAt] = field(default_factory=dict)


def struct_layouts(path: Path, names: Collection[str]) -> dict[str, Layout]:
    """Return the layouts of the structs and unions called ``names`` in ``path``.

    Only top-level entries are visited, and their members only where the name matches, so a module
    of several megabytes takes a fraction of a second. Names without a definition are absent.

    Args:
        path: an ELF file with debugging information: ``.o``, ``.ko`` or a ``.debug`` file.
        names: tags, without ``struct`` or ``union``.

    Raises:
        Error: the file cannot be read, is damaged, or has no debugging information.
    """
    with damage_is_told(path):
        return _struct_layouts(path, names)


def _struct_layouts(path: Path, names: Collection[str]) -> dict[str, Layout]:
    dies = Dies(path)
    wanted = _StringMatcher(dies, names)
    found: dict[str, Layout] = {}
    for unit in dies.units:
        for die in dies.top(unit):
            if die.tag not in _RECORDS or die.raw("declaration"):
                continue
            name = wanted.match(die)
            if name is not None and name not in found:
                found[name] = _layout(dies, die, name)
        if len(found) == len(set(names)):
            break
    return found


class _StringMatcher:
    """Says whether an entry's name is wanted, comparing string offsets where it can."""

    def __init__(self, dies: Dies, names: Collection[str]) -> None:
        self._dies = dies
        self._names = frozenset(names)
        self._offsets: dict[int, str] = {}
        strings = dies.sections.strings
        for name in self._names:
            # A linker merges string tails, so a name may begin inside a longer string.
            terminated = name.encode() + b"\0"
            at = strings.find(terminated)
            while at >= 0:
                self._offsets[at] = name
                at = strings.find(terminated, at + 1)

    def match(self, die: Die) -> str | None:
        if die.shape.forms.get("name") == "strp":
            return self._offsets.get(die.raw("name"))
        name = self._dies.string(die)
        return name if name in self._names else None


def _layout(dies: Dies, record: Die, name: str) -> Layout:
    layout = Layout(name, int(record.raw("byte_size") or 0), {})
    for member, at in _walk(dies, record, 0):
        if isinstance(at, BitsAt):
            layout.bits[member] = at
        else:
            layout.fields[member] = at
    return layout


def _walk(dies: Dies, record: Die, base: int) -> Iterator[tuple[str, FieldAt | BitsAt]]:
    for member in dies.children(record):
        if member.tag != "member":
            continue
        name = dies.string(member)
        bits = member.raw("bit_size")
        if bits is not None:
            if name is not None:
                yield name, BitsAt(8 * base + bit_offset(dies, member), int(bits))
            continue
        target = _strip(dies, dies.reference(member))
        offset = base + member_offset(dies, member)
        if name is not None:
            tag = dies.string(target) if target is not None and target.tag in _RECORDS else None
            yield name, FieldAt(offset, size_of(dies, target), tag)
        elif target is not None and target.tag in _RECORDS:
            yield from _walk(dies, target, offset)


def bit_offset(dies: Dies, member: Die) -> int:
    """Return the offset of the bitfield ``member`` in bits, from the start of its record."""
    absolute = member.raw("data_bit_offset")
    if absolute is not None:
        return int(absolute)
    offset = member_offset(dies, member)
    if not dies.sections.little_endian:
        return 8 * offset + int(member.raw("bit_offset") or 0)
    # DWARF 3 and earlier count from the most significant bit of the storage unit.
    storage = member.raw("byte_size") or size_of(dies, dies.reference(member))
    from_top = int(member.raw("bit_offset") or 0) + int(member.raw("bit_size"))
    return int(8 * (offset + storage) - from_top)


def member_offset(dies: Dies, member: Die) -> int:
    """Return the byte offset of ``member`` (0 in a union)."""
    offset = member.raw("data_member_location")
    if offset is None:
        return 0
    if not isinstance(offset, int):
        # DWARF 2 writes an expression: DW_OP_plus_uconst (0x23) and a ULEB128.
        raise Error(f"{dies.path}: member offsets of DWARF 2 are not supported", "use DWARF 3 on")
    return offset


def size_of(dies: Dies, die: Die | None) -> int:
    """Return the size in bytes of the type ``die`` (None is void: 0)."""
    die = _strip(dies, die)
    if die is None:
        return 0
    size = die.raw("byte_size")
    if size is not None:
        return int(size)
    if die.tag == "array_type":
        count = 1
        for dimension in dimensions(dies, die):
            count *= dimension or 0
        return count * size_of(dies, dies.reference(die))
    if die.tag == "pointer_type":
        return die.unit.address_size
    return 0


def dimensions(dies: Dies, array: Die) -> list[int | None]:
    """Return the dimensions of ``array``; None stands for a flexible array member."""
    found: list[int | None] = []
    for child in dies.children(array):
        if child.tag != "subrange_type":
            continue
        count, bound = child.raw("count"), child.raw("upper_bound")
        if isinstance(count, int):
            found.append(count)
        elif isinstance(bound, int):
            found.append((bound + 1) & 0xFFFFFFFF if bound >= 0xFFFFFFFF else bound + 1)
        else:
            found.append(None)
    return found


def _strip(dies: Dies, die: Die | None) -> Die | None:
    for _ in range(_CHAIN_MAX):
        if die is None or die.tag not in _TRANSPARENT:
            return die
        die = dies.reference(die)
    raise Error(f"{dies.path}: damaged DWARF: a type that is made of itself")
