# SPDX-License-Identifier: GPL-2.0-or-later
"""A model restated as static assertions, for the C compiler to check beside the header."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genbindings.model import Field, Header, Struct


def assertions(header: Header) -> list[str]:
    """Return the assertions alone, a line each; they belong behind the header."""
    lines: list[str] = []
    for struct in header.structs.values():
        if struct.spelling:
            lines += _struct(struct, header)
    for enum in header.enums:
        reachable = header.reachable(enum)
        lines += [_equal(name, _number(value)) for name, value in reachable.items()]
    for constant in header.constants.values():
        if isinstance(constant.value, int):
            cast = "(unsigned int)" if constant.value >> 31 == 1 else ""
            lines.append(_equal(f"{cast}({constant.name})", _number(constant.value)))
        else:
            # Static assertions cannot compare text; its size at least is a number.
            lines.append(_equal(f"sizeof({constant.name})", str(_c_size(constant.value))))
    for ioctl in header.ioctls.values():
        lines.append(_equal(f"(unsigned int){ioctl.name}", f"0x{ioctl.number:X}U"))
    return lines


def _struct(struct: Struct, header: Header) -> list[str]:
    spelling = struct.spelling
    lines = [_equal(f"sizeof({spelling})", str(struct.size))]
    lines.append(_equal(f"_Alignof({spelling})", str(struct.align)))
    for field in header.flat_fields(struct):
        # Neither offsetof nor sizeof applies to a bitfield.
        if field.bit_size is None:
            lines.append(_equal(f"__builtin_offsetof({spelling}, {field.name})", str(field.offset)))
            lines += _size(spelling, field)
    return lines


def _size(spelling: str, field: Field) -> list[str]:
    if field.flexible and field.count[0] is None:
        return []
    return [_equal(f"sizeof((({spelling} *)0)->{field.name})", str(field.size))]


def _c_size(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape")) + 1


def _number(value: int) -> str:
    if value > 0x7FFFFFFFFFFFFFFF:
        return f"{value}ULL"
    # The most negative number has no literal of its own.
    return f"({value + 1}LL - 1)" if value == -(1 << 63) else f"{value}LL"


def _equal(left: str, right: str) -> str:
    return f'_Static_assert({left} == {right}, "{left} is not {right}");'
