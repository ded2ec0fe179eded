# SPDX-License-Identifier: GPL-2.0-or-later
"""What a header says that is not so: names that lie about offsets, comments that are stale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.ifc import DWORD, reserved_offset
from genbindings.ifc_commands import commands
from genbindings.model import RecordRef

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genbindings.model import Header, Location


_WITHOUT = "left without a struct"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: where it is, and what it is about."""

    location: Location | None
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.location}: {self.message} [{self.rule}]"


def lint(header: Header) -> list[Finding]:
    """Return the findings about ``header``, in the order of its lines."""
    found = list(_bits(header)) if header.dialect == "bits" else list(_bytes(header))
    return sorted(
        found, key=lambda f: (f.location.file, f.location.line) if f.location else ("", 0)
    )


def unresolved(header: Header) -> list[Finding]:
    """Return what a header's comments say of its ioctls that could not be made sense of."""
    return [
        finding
        for finding in _bytes(header)
        if finding.rule == "stale-number" or finding.message.endswith(_WITHOUT)
    ]


def _bytes(header: Header) -> Iterator[Finding]:
    for ioctl in header.ioctls.values():
        if ioctl.stale:
            meant = f"taken as struct {ioctl.struct}" if ioctl.struct else _WITHOUT
            name = ioctl.stale.split()[-1]
            why = "is not its argument" if name in header.structs else "does not exist"
            message = f"{ioctl.name}'s comment names {ioctl.stale}, which {why}; {meant}"
            yield Finding(ioctl.location, "stale-struct", message)
        if ioctl.misnumbered:
            message = f"{ioctl.name} is not the {ioctl.misnumbered} of its comment"
            yield Finding(ioctl.location, "stale-number", message)


def _bits(header: Header) -> Iterator[Finding]:
    for struct in header.own_structs():
        if "." not in struct.name and struct.kind == "struct" and struct.size % DWORD:
            message = f"{struct.name} has {struct.size:#x} bits, not a multiple of 32"
            yield Finding(struct.location, "partial-dword", message)
        for field in header.flat_fields(struct):
            path = f"{struct.name}.{field.name}"
            claimed = reserved_offset(field.name)
            # In a member's own type, names may count from the outer struct.
            if claimed not in (None, field.offset) and "." not in struct.name:
                message = f"{path} is at {field.offset:#x}"
                yield Finding(field.location, "reserved-offset", message)
            if isinstance(field.type, RecordRef) or field.count:
                continue
            first = field.offset % DWORD
            if field.size <= DWORD and first + field.size > DWORD:
                message = f"{path} ({field.size} bits at {field.offset:#x}) straddles a dword"
                yield Finding(field.location, "straddles-dword", message)
    table = commands(header)
    opcodes = {name: enum.location for enum in header.enums for name in enum.values}
    for name in table.without_layout:
        yield Finding(opcodes[name], "no-layout", f"{name} has no input struct in {header.name}")
    for short in table.without_opcode:
        place = header.structs[f"mlx5_ifc_{short}_bits"].location
        yield Finding(place, "no-opcode", f"{short} has no opcode in {header.name}")
