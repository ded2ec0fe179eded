# SPDX-License-Identifier: GPL-2.0-or-later
"""Accessors of the fields of a firmware struct, and the text tables that describe them.

A table's first line is ``struct BITS`` or ``union BITS``; each other line is a field: its offset
and width in bits (of one element, for an array), its name with ``[N]`` for each dimension and
``[]`` for a flexible array, and what it holds: nothing for a number, ``@CLASS`` for a struct,
``=ENUM`` for an enum's value.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterator, Sequence
from operator import index as as_int
from struct import Struct, unpack_from
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

if TYPE_CHECKING:
    from mlxuapi.ifc import Layout

_read_dword = Struct(">I").unpack_from
_write_dword = Struct(">I").pack_into
_read_qword = Struct(">Q").unpack_from
_write_qword = Struct(">Q").pack_into

Resolve = Callable[[str], Any]


class FieldInfo(NamedTuple):
    """A field; ``offset`` and ``width`` (of one element) are bits.

    A flexible array has the dimension None.
    """

    name: str
    offset: int
    width: int
    dimensions: tuple[int | None, ...]
    layout: str
    enum: str

    @property
    def flexible(self) -> bool:
        """Whether it is a flexible array."""
        return bool(self.dimensions) and self.dimensions[0] is None

    @property
    def attribute(self) -> str:
        """Its name in Python: a C name that Python reserves gets a ``_``."""
        return f"{self.name}_" if keyword.iskeyword(self.name) else self.name


def parse(text: str) -> tuple[int, bool, dict[str, FieldInfo]]:
    """Return the size in bits, whether it is a union, and the fields, of a table."""
    head, *lines = text.strip().splitlines()
    kind, bits = head.split()
    fields: dict[str, FieldInfo] = {}
    for line in lines:
        offset, width, declared, *holds = line.split()
        name, *dimensions = declared.replace("]", "").split("[")
        what = holds[0] if holds else ""
        fields[name] = FieldInfo(
            name,
            int(offset, 16),
            int(width, 16),
            tuple(int(size) if size else None for size in dimensions),
            what[1:] if what.startswith("@") else "",
            what[1:] if what.startswith("=") else "",
        )
    return int(bits, 16), kind == "union", fields


def properties(fields: dict[str, FieldInfo], bits: int, resolve: Resolve) -> dict[str, property]:
    """Return the properties that give access to ``fields`` of a struct of ``bits`` bits."""
    return {field.attribute: _property(field, bits, resolve) for field in fields.values()}


def _property(field: FieldInfo, bits: int, resolve: Resolve) -> property:
    if field.dimensions:
        get, put = _array(field, resolve)
    elif field.layout:
        get, put = _nested(field, resolve)
    else:
        get, put = _number(field, bits)
        if field.enum:
            get = _as_enum(get, field.enum, resolve)
    return property(get, put)


Getter = Callable[[Any], Any]
Setter = Callable[[Any, Any], None]


def _number(field: FieldInfo, bits: int) -> tuple[Getter, Setter]:
    offset, width = field.offset, field.width
    at = offset // 32 * 4
    # The last dword of a struct that is not made of dwords may be outside the buffer.
    if offset % 32 + width <= 32 and at * 8 + 32 <= bits:
        return _in_dword(field.name, at, 32 - width - offset % 32, width)
    if width == 64 and offset % 8 == 0:
        return _qword(field.name, offset // 8)
    return _wide(field.name, offset, width)


def _in_dword(name: str, at: int, shift: int, width: int) -> tuple[Getter, Setter]:
    mask = (1 << width) - 1
    keep = 0xFFFFFFFF ^ (mask << shift)

    def get(view: Any) -> int:
        return (_read_dword(view._buffer, view._at + at)[0] >> shift) & mask  # type: ignore[no-any-return]

    def put(view: Any, value: int) -> None:
        if not 0 <= value <= mask:
            raise _overflow(name, value, width)
        where = view._at + at
        dword = _read_dword(view._buffer, where)[0]
        _write_dword(view._buffer, where, (dword & keep) | (value << shift))

    return get, put


def _qword(name: str, at: int) -> tuple[Getter, Setter]:
    def get(view: Any) -> int:
        return int(_read_qword(view._buffer, view._at + at)[0])

    def put(view: Any, value: int) -> None:
        if not 0 <= value < 1 << 64:
            raise _overflow(name, value, 64)
        _write_qword(view._buffer, view._at + at, value)

    return get, put


def _wide(name: str, offset: int, width: int) -> tuple[Getter, Setter]:
    def get(view: Any) -> int:
        return read_bits(view._buffer, view._at * 8 + offset, width)

    def put(view: Any, value: int) -> None:
        if not 0 <= value < 1 << width:
            raise _overflow(name, value, width)
        write_bits(view._buffer, view._at * 8 + offset, width, value)

    return get, put


def _as_enum(get: Getter, enum: str, resolve: Resolve) -> Getter:
    members: dict[int, Any] = {}

    def get_member(view: Any) -> Any:
        if not members:
            members.update(resolve(enum)._value2member_map_)
        value = get(view)
        return members.get(value, value)

    return get_member


def _nested(field: FieldInfo, resolve: Resolve) -> tuple[Getter, Setter]:
    at = field.offset // 8
    kind: Any = None
    new: Any = None

    def get(view: Any) -> Any:
        nonlocal kind, new
        if kind is None:
            kind = resolve(field.layout)
            new = kind.__new__
        found = new(kind)
        found._buffer = view._buffer
        found._at = view._at + at
        found._size = kind.BYTES
        return found

    def put(view: Any, value: Any) -> None:
        get(view)._assign(value)

    return get, put


def _array(field: FieldInfo, resolve: Resolve) -> tuple[Getter, Setter]:
    def get(view: Any) -> Any:
        count = field.dimensions[0]
        start = view._at * 8 + field.offset
        width = field.width
        for inner in field.dimensions[1:]:
            width *= inner or 0
        if count is None:
            count = max(0, len(view._buffer) * 8 - start) // width
        if field.layout:
            return LayoutArray(view._buffer, start // 8, count, resolve(field.layout))
        return NumberArray(view._buffer, start, field.dimensions[1:], count, field)

    def put(view: Any, values: Sequence[Any]) -> None:
        array = get(view)
        if len(values) != len(array):
            raise ValueError(f"{field.name} has {len(array)} elements, {len(values)} were given")
        for number, value in enumerate(values):
            array[number] = value

    return get, put


_Item = TypeVar("_Item")


class NumberArray(Sequence[_Item]):
    """The elements of an array of numbers, in place in the buffer."""

    __slots__ = ("_buffer", "_count", "_field", "_inner", "_start")

    def __init__(
        self, buffer: Any, start: int, inner: tuple[int | None, ...], count: int, field: FieldInfo
    ) -> None:
        """View ``count`` elements from bit ``start`` of ``buffer``; ``inner`` dimensions follow."""
        self._buffer = buffer
        self._start = start
        self._inner = inner
        self._count = count
        self._field = field

    def __len__(self) -> int:
        return self._count

    def _element(self, number: int) -> int:
        number = _checked(number, self._count, self._field.name)
        width = self._field.width
        for size in self._inner:
            width *= size or 0
        return self._start + number * width

    @overload
    def __getitem__(self, number: int) -> _Item: ...
    @overload
    def __getitem__(self, number: slice) -> list[_Item]: ...
    def __getitem__(self, number: int | slice) -> Any:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(self._count))]
        at = self._element(number)
        if self._inner:
            size = self._inner[0] or 0
            return NumberArray(self._buffer, at, self._inner[1:], size, self._field)
        return read_bits(self._buffer, at, self._field.width)

    def __setitem__(self, number: int, value: int) -> None:
        at = self._element(number)
        if self._inner:
            raise TypeError(f"{self._field.name}[{number}] is an array: set its elements")
        if not 0 <= value < 1 << self._field.width:
            raise _overflow(f"{self._field.name}[{number}]", value, self._field.width)
        write_bits(self._buffer, at, self._field.width, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # a view of a buffer that can change

    def __repr__(self) -> str:
        return f"[{', '.join(f'{item:#x}' for item in self)}]"


class LayoutArray(Sequence[_Item]):
    """The elements of an array of structs, in place in the buffer."""

    __slots__ = ("_at", "_buffer", "_count", "_kind")

    def __init__(self, buffer: Any, at: int, count: int, kind: type[Layout]) -> None:
        """View ``count`` structs of type ``kind`` from byte ``at`` of ``buffer``."""
        self._buffer = buffer
        self._at = at
        self._count = count
        self._kind = kind

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> _Item: ...
    @overload
    def __getitem__(self, number: slice) -> list[_Item]: ...
    def __getitem__(self, number: int | slice) -> Any:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(self._count))]
        kind = self._kind
        found = kind.__new__(kind)
        found._buffer = self._buffer
        found._at = self._at + _checked(number, self._count, kind.__name__) * kind.BYTES
        found._size = kind.BYTES
        return found

    def __setitem__(self, number: int, value: Any) -> None:
        element: Any = self[number]
        element._assign(value)

    def __iter__(self) -> Iterator[_Item]:
        return (self[number] for number in range(self._count))

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self))}]"


def read_bits(buffer: Any, offset: int, width: int) -> int:
    """Return ``width`` bits of ``buffer`` from bit ``offset`` on, the most significant first."""
    first, last = offset // 8, (offset + width + 7) // 8
    whole = int.from_bytes(buffer[first:last], "big")
    return (whole >> (last * 8 - offset - width)) & ((1 << width) - 1)


def write_bits(buffer: Any, offset: int, width: int, value: int) -> None:
    """Set ``width`` bits of ``buffer`` from bit ``offset`` on; the bits around them stay."""
    first, last = offset // 8, (offset + width + 7) // 8
    shift = last * 8 - offset - width
    mask = ((1 << width) - 1) << shift
    whole = int.from_bytes(buffer[first:last], "big") & ~mask
    buffer[first:last] = (whole | as_int(value) << shift).to_bytes(last - first, "big")


def plan_decode(kind: type[Layout]) -> Callable[[Layout], dict[str, Any]]:
    """Return a function that decodes a whole struct: one read of its dwords, then shifts."""
    dwords = kind.BITS // 32
    layout = f">{dwords}I"
    quick: list[tuple[str, int, int, int]] = []
    slow: list[tuple[str, str]] = []
    for name, field in kind.FIELDS.items():
        number = field.offset // 32
        plain = not (field.dimensions or field.layout or field.enum)
        if plain and field.offset % 32 + field.width <= 32 and number < dwords:
            shift = 32 - field.width - field.offset % 32
            quick.append((name, number, shift, (1 << field.width) - 1))
        else:
            slow.append((name, field.attribute))
    order = list(kind.FIELDS)

    def decode(view: Layout) -> dict[str, Any]:
        words = unpack_from(layout, view._buffer, view._at)
        found: dict[str, Any] = {
            name: (words[number] >> shift) & mask for name, number, shift, mask in quick
        }
        if slow:
            for name, attribute in slow:
                found[name] = plain_value(getattr(view, attribute))
            return {name: found[name] for name in order}
        return found

    return decode


def plain_value(value: Any) -> Any:
    """Return ``value`` with structs as dicts and arrays as lists, through all levels."""
    if isinstance(value, int):
        return value
    if isinstance(value, Sequence):
        return [plain_value(item) for item in value]
    return value.to_dict()


def _checked(number: int, count: int, name: str) -> int:
    number = as_int(number)
    if not -count <= number < count:
        raise IndexError(f"{name}: index {number} is outside its {count} elements")
    return number % count


def _overflow(name: str, value: int, width: int) -> OverflowError:
    return OverflowError(f"{name}: {value:#x} does not fit in {width} bits")
