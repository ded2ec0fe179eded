# SPDX-License-Identifier: GPL-2.0-or-later
"""Which field of a bit-dialect struct holds which enum.

The header never says so in C, but its naming does: the values of ``qpc.state`` are called
``MLX5_QPC_STATE_RST`` and so on. Nothing looser than that whole prefix is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.ifc import short_name
from genbindings.ifc_commands import is_command_input, opcode_enumerators
from genbindings.model import RecordRef

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genbindings.model import Header

OPCODES = "cmd_op"


@dataclass(frozen=True, slots=True)
class EnumClass:
    """An enum that is a class in Python; ``fields`` are pairs of struct and field (C names)."""

    name: str
    values: dict[str, int]
    fields: tuple[tuple[str, str], ...]


def enum_classes(header: Header) -> list[EnumClass]:
    """Return the named enums of ``header`` and those that belong to a field."""
    by_prefix = _fields_by_prefix(header)
    taken = {short_name(struct.name) for struct in header.own_structs()}
    found: list[EnumClass] = []
    for enum in header.enums:
        values = dict(enum.values)
        prefix = next((p for p in _prefixes(list(values)) if p in by_prefix), "")
        if not prefix and not enum.name:
            continue
        name = enum.name.removeprefix("mlx5_ifc_").removeprefix("mlx5_") if enum.name else ""
        name = name or "_".join(short_name(part) for part in by_prefix[prefix][0])
        found.append(
            EnumClass(_free(name, taken), values, tuple(by_prefix[prefix]) if prefix else ())
        )
    opcodes = opcode_enumerators(header)
    if opcodes:
        users = tuple(
            (struct.name, "opcode")
            for struct in header.own_structs()
            if is_command_input(short_name(struct.name))
            and any(field.name == "opcode" for field in struct.fields)
        )
        found.append(EnumClass(_free(OPCODES, taken), opcodes, users))
    return found


def _free(name: str, taken: set[str]) -> str:
    """Return ``name``, with ``_enum`` behind it where a struct is called so; then it is taken."""
    while name in taken:
        name += "_enum"
    taken.add(name)
    return name


def _fields_by_prefix(header: Header) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for struct in header.own_structs():
        for field in header.flat_fields(struct):
            if not isinstance(field.type, RecordRef):
                prefix = f"MLX5_{short_name(struct.name)}_{field.name}_".upper()
                found.setdefault(prefix, []).append((struct.name, field.name))
    return found


def _prefixes(names: list[str]) -> Iterator[str]:
    """Yield what all ``names`` begin with, up to an underscore, the longest first."""
    first = names[0] if names else ""
    for at in range(len(first), 0, -1):
        if first[at - 1] == "_" and all(name.startswith(first[:at]) for name in names):
            yield first[:at]
