# SPDX-License-Identifier: GPL-2.0-or-later
"""What the generated modules stand on: structs that know their size, ioctls that know their struct.

Plain ctypes underneath: every class here is a ctypes type with C's natural alignment, and can be
handed to ``fcntl.ioctl``, ``bytes()``, ``memoryview()`` or embedded in a struct of one's own.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Direction = Literal["none", "read", "write", "read-write"]
_Record = TypeVar("_Record", bound="type[Structure]")


class Structure(ctypes.Structure):
    """A C struct. ``argsz`` is set to the size where the struct has such a member."""

    def __init__(self, *args: Any, **members: Any) -> None:
        """Set members by position or by name, as ``ctypes.Structure`` does."""
        super().__init__(*args, **members)
        if not args and "argsz" not in members and hasattr(type(self), "argsz"):
            self.argsz = ctypes.sizeof(self)

    def __repr__(self) -> str:
        return _describe(self)

    @classmethod
    def with_room(cls, count: int, **members: Any) -> Self:
        """Return a new struct whose flexible array has ``count`` elements.

        ``argsz``, where there is one, covers them. The whole of it is passed to ``fcntl.ioctl``
        and returned by ``bytes()``.

        Raises:
            TypeError: the struct does not end with a flexible array.
            ValueError: ``count`` is negative.
        """
        array = _flexible_array(cls)
        if count < 0:
            raise ValueError(f"{cls.__name__}: a flexible array cannot have {count} elements")
        record = cls(**members)
        size = max(ctypes.sizeof(cls), array.offset + count * ctypes.sizeof(array.element))
        ctypes.resize(record, size)
        record._flexible_count_ = count
        if "argsz" not in members and hasattr(cls, "argsz"):
            record.argsz = size
        return record

    @classmethod
    def with_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Return a copy of ``data``, as many elements in the flexible array as it has room for.

        Raises:
            TypeError: the struct does not end with a flexible array.
            ValueError: ``data`` is shorter than the struct.
        """
        array = _flexible_array(cls)
        if len(data) < ctypes.sizeof(cls):
            raise ValueError(
                f"{cls.__name__}: {len(data)} bytes are fewer than its {ctypes.sizeof(cls)}"
            )
        record = cls.with_room((len(data) - array.offset) // ctypes.sizeof(array.element))
        ctypes.memmove(ctypes.addressof(record), bytes(data), min(len(data), ctypes.sizeof(record)))
        return record


class Union(ctypes.Union):
    """A C union."""

    def __repr__(self) -> str:
        return _describe(self)


class FlexibleArray:
    """The flexible array at the end of a struct: reading it gives a bounds-checked ctypes array.

    The array has as many elements as the struct was made with (:meth:`Structure.with_room`), none
    for a struct made otherwise.
    """

    def __init__(self, offset: int, element: Any) -> None:
        """Describe an array of ``element`` (a ctypes type) ``offset`` bytes into the struct."""
        self.offset = offset
        self.element = element

    def __get__(self, record: Any, owner: type | None = None) -> Any:
        if record is None:
            return self
        count = getattr(record, "_flexible_count_", 0)
        return (self.element * count).from_buffer(record, self.offset)

    def __set__(self, record: Any, values: Iterable[Any]) -> None:
        array = self.__get__(record)
        array[:] = list(values) if not isinstance(values, bytes) else values


class Member:
    """A member that ctypes cannot place, such as one of a packed struct: read through its bytes."""

    def __init__(self, offset: int, kind: Any) -> None:
        """Describe a member of ctypes type ``kind``, ``offset`` bytes into the struct."""
        self._offset = offset
        self._kind = kind

    def __get__(self, record: Any, owner: type | None = None) -> Any:
        if record is None:
            return self
        view = self._kind.from_buffer(record, self._offset)
        return view.value if isinstance(view, ctypes._SimpleCData) else view

    def __set__(self, record: Any, value: Any) -> None:
        view = self._kind.from_buffer(record, self._offset)
        if isinstance(view, ctypes._SimpleCData):
            view.value = value
        else:
            ctypes.memmove(ctypes.byref(view), ctypes.byref(value), ctypes.sizeof(view))


class Bits:
    """A C bitfield, numbered as DWARF does it for the machine.

    On little-endian machines bits count from the least significant one of the first byte, on
    big-endian ones from the most significant.
    """

    def __init__(
        self,
        offset: int,
        width: int,
        *,
        signed: bool = False,
        order: Literal["little", "big"] = sys.byteorder,
    ) -> None:
        """Describe ``width`` bits, ``offset`` bits into the struct."""
        self._start = offset // 8
        self._size = (offset % 8 + width + 7) // 8
        self._shift = offset % 8 if order == "little" else 8 * self._size - offset % 8 - width
        self._width = width
        self._signed = signed
        self._order = order

    def __get__(self, record: Any, owner: type | None = None) -> Any:
        if record is None:
            return self
        value = (self._load(record) >> self._shift) & ((1 << self._width) - 1)
        negative = self._signed and value >> (self._width - 1)
        return value - (1 << self._width) if negative else value

    def __set__(self, record: Any, value: int) -> None:
        low = -(1 << (self._width - 1)) if self._signed else 0
        high = (1 << (self._width - self._signed)) - 1
        if not low <= value <= high:
            raise OverflowError(f"{value} does not fit in a bitfield of {self._width} bits")
        mask = ((1 << self._width) - 1) << self._shift
        whole = (self._load(record) & ~mask) | ((value << self._shift) & mask)
        self._view(record)[:] = list(whole.to_bytes(self._size, self._order))

    def _view(self, record: Any) -> Any:
        return (ctypes.c_ubyte * self._size).from_buffer(record, self._start)

    def _load(self, record: Any) -> int:
        return int.from_bytes(bytes(self._view(record)), self._order)


def flexible(name: str) -> Callable[[_Record], _Record]:
    """Make member ``name`` of the decorated struct a :class:`FlexibleArray`."""

    def decorate(record: _Record) -> _Record:
        field = getattr(record, name)
        setattr(record, name, FlexibleArray(field.offset, _kind(record, name)._type_))
        cast("Any", record)._flexible_ = name
        return record

    return decorate


def _kind(record: Any, name: str) -> Any:
    """Return the ctypes type of member ``name``, which may be that of an anonymous member."""
    anonymous = getattr(record, "_anonymous_", ())
    for label, kind, *_ in record._fields_:
        if label == name:
            return kind
        if label in anonymous and hasattr(kind, name):
            return _kind(kind, name)
    raise AttributeError(f"{record.__name__} has no member {name}")


class Ioctl(int):
    """An ioctl number that knows its name, its argument and what the header says about it.

    Attributes:
        name: as in C.
        struct: the ctypes type of the argument, or None.
        direction: which way the argument goes, seen from the caller.
    """

    name: str
    struct: type[Structure] | type[Union] | None
    direction: Direction

    def __new__(
        cls,
        number: int,
        name: str,
        *,
        struct: type[Structure] | type[Union] | None = None,
        direction: Direction = "none",
        doc: str = "",
    ) -> Self:
        """Make an ioctl of ``number``."""
        self = super().__new__(cls, number)
        self.name = name
        self.struct = struct
        self.direction = direction
        self.__doc__ = doc or None
        return self

    def __repr__(self) -> str:
        return f"<{self.name} {int(self):#x}>"

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        # A pickle holds the number alone: the rest belongs to the module.
        return int, (int(self),)


def names_by_number(ioctls: Iterable[Ioctl]) -> dict[int, tuple[str, ...]]:
    """Return the names of each number: the kernel tells equal ones apart by the file's type."""
    names: dict[int, tuple[str, ...]] = {}
    for ioctl in ioctls:
        names[int(ioctl)] = (*names.get(int(ioctl), ()), ioctl.name)
    return names


def _flexible_array(record: type[Structure]) -> FlexibleArray:
    name = getattr(record, "_flexible_", None)
    if name is None:
        raise TypeError(f"{record.__name__} does not end with a flexible array")
    return cast("FlexibleArray", getattr(record, name))


def _describe(record: ctypes.Structure | ctypes.Union) -> str:
    """Return ``record`` as its constructor would be written, anonymous members flattened."""
    parts: list[str] = []
    for name in _names(type(record)):
        value = getattr(record, name)
        if isinstance(value, ctypes.Array):
            value = list(value) if len(value) <= 16 else f"<{len(value)} elements>"
        parts.append(f"{name}={value!r}" if not isinstance(value, str) else f"{name}={value}")
    return f"{type(record).__name__}({', '.join(parts)})"


def _names(record: type[Any]) -> list[str]:
    names: list[str] = []
    anonymous = getattr(record, "_anonymous_", ())
    for name, kind, *_ in record._fields_:
        if name in anonymous:
            names += _names(kind)
        elif not name.startswith("_pad") and name != "_align":
            names.append(name)
    names += [name for name, kind in vars(record).items() if isinstance(kind, Member | Bits)]
    return names
