# SPDX-License-Identifier: GPL-2.0-or-later
"""A C layout said in ctypes, with natural alignment only.

ctypes lays members out as C does by default. Where the compiler reported something else (a packed
struct, an aligned attribute, a bitfield) the difference becomes explicit: padding members, a
zero-length array that raises the alignment, and members read through their bytes. ``_pack_`` and
ctypes' own bitfields are not used: both differ between Python versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genbindings.errors import Error
from genbindings.model import Field, Header, RecordRef, Struct

_MAXIMUM = 8  # the strictest alignment of a ctypes integer


@dataclass(frozen=True, slots=True)
class Slot:
    """A member of ``_fields_``: a field, padding of ``size`` bytes, or an alignment."""

    kind: Literal["field", "padding", "alignment"]
    name: str
    offset: int
    size: int
    field: Field | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A struct in ctypes: its ``_fields_``, and the fields that become descriptors."""

    slots: tuple[Slot, ...]
    descriptors: tuple[Field, ...]


def plan(struct: Struct, header: Header) -> Plan:
    """Return how ctypes is told the layout of ``struct``.

    Raises:
        Error: its alignment is beyond what ctypes can express.
    """
    if struct.align > _MAXIMUM:
        raise Error(
            f"{struct.location}: {struct.name} is aligned to {struct.align} bytes, which ctypes"
            " cannot express",
            "choose the others with --select",
        )
    layout = _Layout(struct)
    ordered = sorted(struct.fields, key=lambda field: field.offset)
    for field in struct.fields if struct.kind == "union" else ordered:
        layout.add(field, alignment(field, header), header)
    return layout.finish()


def alignment(field: Field, header: Header) -> int:
    """Return the alignment that ctypes gives the type of ``field``, in bytes."""
    if isinstance(field.type, RecordRef):
        return header.structs[field.type.name].align
    return 1 if field.type.kind == "opaque" else max(1, field.type.size)


def _reachable(field: Field, header: Header) -> list[Field]:
    """Return ``field``, or the members of an anonymous one, placed in the struct around it."""
    if field.name or not isinstance(field.type, RecordRef):
        return [field]
    return list(header.flat_fields(header.structs[field.type.name], field.offset))


class _Layout:
    """Follows what ctypes would do, member by member."""

    def __init__(self, struct: Struct) -> None:
        self._struct = struct
        self._slots: list[Slot] = []
        self._descriptors: list[Field] = []
        self._at = 0
        self._align = 1
        self._paddings = 0
        self._longest = 0  # of a union's members

    def add(self, field: Field, align: int, header: Header) -> None:
        misplaced = field.offset % align or align > self._struct.align
        if field.bit_size is not None or misplaced or field.offset < self._at:
            self._descriptors += _reachable(field, header)
            return
        natural = -(-self._at // align) * align
        if natural != field.offset:
            self._pad(field.offset - self._at)
        self._slots.append(Slot("field", field.name, field.offset, field.size, field))
        self._align = max(self._align, align)
        if not field.name and isinstance(field.type, RecordRef):
            # ctypes lifts an anonymous member's fields into its outer type, but no descriptors.
            inner = {
                each.name for each in plan(header.structs[field.type.name], header).descriptors
            }
            lifted = _reachable(field, header)
            self._descriptors += [each for each in lifted if each.name in inner]
        if self._struct.kind == "struct":
            self._at = field.offset + field.size
        else:
            self._longest = max(self._longest, field.size)

    def _pad(self, size: int) -> None:
        self._slots.append(Slot("padding", f"_pad{self._paddings}", self._at, size))
        self._paddings += 1
        self._at += size

    def finish(self) -> Plan:
        end = self._at if self._struct.kind == "struct" else self._longest
        if -(-end // self._struct.align) * self._struct.align != self._struct.size:
            self._at = 0 if self._struct.kind == "union" else self._at
            self._pad(self._struct.size - self._at)
        if self._align < self._struct.align:
            self._slots.insert(0, Slot("alignment", "_align", 0, self._struct.align))
        return Plan(tuple(self._slots), tuple(self._descriptors))
