# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions of a module as the compiler left them, and the structs that its own files define."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from genbindings.dwarf.dies import Die, Dies
from genbindings.dwarf.types import file_table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

_RECORDS = ("structure_type", "union_type")


@dataclass(slots=True)
class Function:
    """A function that is defined in a module's sources.

    Attributes:
        name: as the source has it; the symbol may have a suffix such as ``.isra.0``.
        inlined_into: the functions that hold a copy of it instead of a call.
    """

    name: str
    inlined_into: set[str] = field(default_factory=set)


def functions(path: Path, names: Collection[str]) -> dict[str, Function]:
    """Return those of the functions ``names`` that ``path`` defines, inlined or not.

    Raises:
        Error: the file cannot be read or has no debugging information.
    """
    dies = Dies(path)
    wanted = frozenset(names)
    found: dict[str, Function] = {}
    for unit in dies.units:
        for die in dies.top(unit):
            if die.tag != "subprogram" or die.raw("declaration"):
                continue
            name = _name(dies, die)
            if name in wanted:
                found.setdefault(name, Function(name))
            for inlined in _inlined(dies, die):
                if inlined in wanted and name:
                    found.setdefault(inlined, Function(inlined)).inlined_into.add(name)
    return found


def own_records(path: Path, places: Collection[str]) -> list[str]:
    """Return the tags of the structs and unions that files in ``places`` define, sorted.

    ``places`` are parts of paths, ``/drivers/vfio/`` say.

    Raises:
        Error: the file cannot be read or has no debugging information.
    """
    dies = Dies(path)
    found: set[str] = set()
    for unit in dies.units:
        files = enumerate(file_table(dies, unit.pyelf))
        own = {number for number, file in files if any(place in file for place in places)}
        for die in dies.top(unit):
            if die.tag in _RECORDS and not die.raw("declaration") and die.raw("decl_file") in own:
                found.add(dies.string(die) or "")
    return sorted(found - {""})


def _name(dies: Dies, die: Die) -> str | None:
    """Return the name of a function, which a copy of it has from its origin."""
    origin: Die | None = die
    for _ in range(4):
        if origin is None:
            return None
        name = dies.string(origin)
        if name is not None:
            return name
        origin = dies.reference(origin, "abstract_origin") or dies.reference(
            origin, "specification"
        )
    return None


def _inlined(dies: Dies, die: Die) -> Iterator[str]:
    """Yield the names of the functions that were inlined into ``die``, at any depth."""
    for child in dies.children(die):
        if child.tag == "inlined_subroutine":
            name = _name(dies, child)
            if name is not None:
                yield name
        if child.tag in ("inlined_subroutine", "lexical_block"):
            yield from _inlined(dies, child)
