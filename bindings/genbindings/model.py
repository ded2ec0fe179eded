# SPDX-License-Identifier: GPL-2.0-or-later
"""The model of a header: what every backend reads and none of them changes.

Sizes, offsets and alignments are bytes, as the compiler reported them. In the bit dialect
(mlx5_ifc.h, where ``u8 name[0x20]`` declares 32 bits) they are bits; ``Header.dialect`` says which.
There the width of a field is its element's size, not a dimension of ``count``.
Names are C names throughout; what they are called in Python is the backends' business.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Dialect = Literal["bytes", "bits"]
ScalarKind = Literal["int", "char", "bool", "float", "pointer", "opaque"]
Direction = Literal["none", "read", "write", "read-write"]


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a header: the file's base name and a line counted from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A type without members. ``name`` is how C spells it, such as ``__u32`` or ``void *``."""

    name: str
    size: int
    kind: ScalarKind
    signed: bool = False


@dataclass(frozen=True, slots=True)
class RecordRef:
    """A struct or union, by its key in :attr:`Header.structs`."""

    name: str


@dataclass(frozen=True, slots=True)
class Field:
    """A member.

    ``count`` holds the dimensions of an array, outermost first; None in it stands for a flexible
    array, whose ``size`` is 0 (so is one of an old-style ``x[0]``). A bitfield has ``bit_offset``
    (from the first byte of the struct, and on little-endian machines from its least significant
    bit) and ``bit_size``. An anonymous struct or union member has the name ``""``.
    """

    name: str
    offset: int
    size: int
    type: Scalar | RecordRef
    count: tuple[int | None, ...] = ()
    doc: str = ""
    location: Location | None = None
    bit_offset: int | None = None
    bit_size: int | None = None

    @property
    def flexible(self) -> bool:
        """Whether this is a flexible array: ``x[]`` or the older ``x[0]``."""
        return bool(self.count) and self.count[0] in (None, 0)


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct or union.

    ``name`` is the tag, the typedef's name where there is no tag, or ``OUTER.member`` for the type
    of a member that has neither. ``spelling`` is how C names the type (``struct x``); it is empty
    for the type of an anonymous member. ``own`` is false for a type from an ``<included>`` header
    that is here only because a member has it.
    """

    name: str
    kind: Literal["struct", "union"]
    size: int
    align: int
    fields: tuple[Field, ...]
    spelling: str
    doc: str = ""
    location: Location | None = None
    own: bool = True


@dataclass(frozen=True, slots=True)
class Enum:
    """An enum; ``name`` is ``""`` for an anonymous one. ``docs`` is by enumerator."""

    name: str
    values: Mapping[str, int]
    doc: str = ""
    docs: Mapping[str, str] = field(default_factory=dict)
    location: Location | None = None


@dataclass(frozen=True, slots=True)
class Constant:
    """An object-like macro with a value; ``source`` is its text in the header."""

    name: str
    value: int | str
    source: str
    doc: str = ""
    location: Location | None = None


@dataclass(frozen=True, slots=True)
class Ioctl:
    """An ioctl: its number for the compiler's target, and what the header says of its argument.

    ``struct`` is a key of :attr:`Header.structs` or None; ``argument`` is the C type as written;
    ``stale`` is the struct in the header's comment where none has that name or the macro names
    another, ``misnumbered`` the number in the comment where it is not the macro's.
    """

    name: str
    number: int
    struct: str | None
    argument: str
    direction: Direction
    doc: str = ""
    stale: str = ""
    misnumbered: str = ""
    location: Location | None = None


@dataclass(frozen=True, slots=True)
class Function:
    """A function-like macro over numbers that means the same in Python.

    ``parameters`` are pairs of the C name and the one in ``expression``, which is Python's notation
    for the value, over C names; ``source`` is the macro's text in the header, ``uses`` the
    constants, enumerators and other macros in it.
    """

    name: str
    parameters: tuple[tuple[str, str], ...]
    expression: str
    source: str
    uses: tuple[str, ...] = ()
    doc: str = ""
    location: Location | None = None


@dataclass(frozen=True, slots=True)
class Omitted:
    """A symbol of the header that has no counterpart in the output, and why."""

    name: str
    reason: str
    location: Location


@dataclass(frozen=True, slots=True)
class Header:
    """Everything known about one header.

    ``needed`` are headers in angle brackets that were included before it, since it does not do so
    itself.
    """

    name: str
    sha256: str
    spdx: str
    target: str
    dialect: Dialect
    structs: Mapping[str, Struct]
    enums: tuple[Enum, ...]
    constants: Mapping[str, Constant]
    ioctls: Mapping[str, Ioctl]
    omitted: tuple[Omitted, ...]
    functions: Mapping[str, Function] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    doc: str = ""
    pointer_size: int = 0

    def own_structs(self) -> Iterator[Struct]:
        """Yield the types of the header itself, those of anonymous members left out."""
        for struct in self.structs.values():
            if struct.own and struct.spelling:
                yield struct

    def reachable(self, enum: Enum) -> dict[str, int]:
        """Return the enumerators that no macro of the same name hides."""
        constants = self.constants
        return {
            name: value
            for name, value in enum.values.items()
            if name not in constants or constants[name].value == value
        }

    def distinct_constants(self) -> Iterator[Constant]:
        """Yield the constants but for those that say again what an enumerator of the name does."""
        enumerators = {name: value for enum in self.enums for name, value in enum.values.items()}
        for constant in self.constants.values():
            if enumerators.get(constant.name) != constant.value:
                yield constant

    def flexible(self, struct: Struct) -> Field | None:
        """Return the flexible array that ``struct`` ends with, or None.

        It may be that of an anonymous member, which the offset then accounts for.
        """
        for member in struct.fields if struct.kind == "union" else struct.fields[-1:]:
            if member.name and member.flexible:
                return member
            if not member.name and isinstance(member.type, RecordRef):
                inner = self.flexible(self.structs[member.type.name])
                if inner is not None:
                    return replace(inner, offset=member.offset + inner.offset)
        return None

    def flat_fields(self, struct: Struct, base: int = 0) -> Iterator[Field]:
        """Yield the members of ``struct``, those of anonymous members with their real offsets."""
        for member in struct.fields:
            offset = base + member.offset
            if member.name and not base:
                yield member
            elif member.name:
                bits = None if member.bit_offset is None else member.bit_offset + 8 * base
                yield replace(member, offset=offset, bit_offset=bits)
            elif isinstance(member.type, RecordRef):
                yield from self.flat_fields(self.structs[member.type.name], offset)
