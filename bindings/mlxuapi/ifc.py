# SPDX-License-Identifier: GPL-2.0-or-later
"""What the generated mlx5_ifc module stands on: views of firmware structs in a buffer.

A struct is a view: a buffer and the byte where it begins. Fields are ranges of bits counted from
the most significant bit of its first byte, which is how the kernel's MLX5_SET, MLX5_SET64 and
MLX5_GET see them: big-endian dwords, filled from the top. Classes are built when first used, from
the text tables of the generated module.
"""

from __future__ import annotations

import mmap
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from mlxuapi.ifc_fields import FieldInfo, LayoutArray, parse, plan_decode, properties

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PLAIN = (bytearray, bytes, mmap.mmap)


class Layout:
    """A firmware struct or union in a buffer.

    Every field of the header is an attribute: an int (an ``IntEnum`` member where the header has
    an enum for it), another :class:`Layout`, or a sequence of either. ``m["qpc.log_rq_size"]`` and
    ``m["pas[3]"]`` reach the same by path. Reserved fields have no attribute and are never changed.

    Attributes:
        BITS, BYTES: the size, without what a flexible array adds.
        FIELDS: what is known of each field, by its C name.
    """

    __slots__ = ("_at", "_buffer", "_size")

    BITS: ClassVar[int]
    BYTES: ClassVar[int]
    FIELDS: ClassVar[Mapping[str, FieldInfo]]
    _decode_: ClassVar[Callable[[Layout], dict[str, Any]] | None] = None
    _tail_: ClassVar[tuple[int, int] | str | None] = "unknown"

    _buffer: Any
    _at: int
    _size: int

    def __init__(self, **fields: Any) -> None:
        """Make a zeroed struct in a buffer of its own, and set ``fields`` by name."""
        self._size = size = self.BYTES
        self._buffer = bytearray(size)
        self._at = 0
        for name, value in fields.items():
            self[name] = value

    @classmethod
    def from_buffer(cls, buffer: Any, offset: int = 0) -> Self:
        """Return a view of ``buffer`` (bytes, bytearray, mmap, memoryview) from byte ``offset`` on.

        Nothing is copied. A flexible array extends to the end of the buffer.

        Raises:
            ValueError: the buffer is too short.
        """
        self = cls.__new__(cls)
        self._buffer = buffer if isinstance(buffer, _PLAIN) else memoryview(buffer).cast("B")
        available = len(self._buffer) - offset
        if offset < 0 or available < cls.BYTES:
            raise ValueError(
                f"{cls.__name__} needs {cls.BYTES} bytes, the buffer has {max(available, 0)}"
                f" from offset {offset} on"
            )
        self._at = offset
        self._size = available if cls._tail() else cls.BYTES
        return self

    @classmethod
    def with_room(cls, count: int, **fields: Any) -> Self:
        """Return a zeroed struct whose flexible array has ``count`` elements.

        Raises:
            TypeError: the struct does not end with a flexible array.
            ValueError: ``count`` is negative.
        """
        tail = cls._tail()
        if tail is None:
            raise TypeError(f"{cls.__name__} does not end with a flexible array")
        if count < 0:
            raise ValueError(f"{cls.__name__}: a flexible array cannot have {count} elements")
        offset, width = tail
        end = (offset + count * width + 7) // 8
        self = cls.from_buffer(bytearray(max(cls.BYTES, end)))
        for name, value in fields.items():
            self[name] = value
        return self

    @classmethod
    def _tail(cls) -> tuple[int, int] | None:
        """Return where the flexible array at the end begins, and the width of an element."""
        if not isinstance(cls._tail_, str):
            return cls._tail_
        cls._tail_ = None
        for field in cls.FIELDS.values():
            if field.flexible:
                cls._tail_ = (field.offset, field.width)
            elif field.layout and not field.dimensions:
                # Or that of the struct it ends with.
                inner = type(getattr(cls(), field.attribute))
                tail = inner._tail()
                if tail is not None and field.offset + inner.BITS == cls.BITS:
                    cls._tail_ = (field.offset + tail[0], tail[1])
        return cls._tail_

    def __bytes__(self) -> bytes:
        return bytes(memoryview(self._buffer)[self._at : self._at + self._size])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layout):
            return NotImplemented
        return type(self) is type(other) and bytes(self) == bytes(other)

    __hash__ = None  # type: ignore[assignment]  # a view of a buffer that can change

    def __getitem__(self, path: str) -> Any:
        """Return the field at ``path``, such as ``qpc.log_rq_size`` or ``pas[3]``."""
        found: Any = self
        for name, indices in _steps(path):
            found = getattr(found, _attribute(found, name))
            for index in indices:
                found = found[index]
        return found

    def __setitem__(self, path: str, value: Any) -> None:
        """Set the field at ``path``."""
        *outer, (name, indices) = _steps(path)
        target: Any = self
        for step, numbers in outer:
            target = getattr(target, _attribute(target, step))
            for index in numbers:
                target = target[index]
        if not indices:
            setattr(target, _attribute(target, name), value)
            return
        target = getattr(target, _attribute(target, name))
        for index in indices[:-1]:
            target = target[index]
        target[indices[-1]] = value

    def to_dict(self) -> dict[str, Any]:
        """Return every field by its C name, nested structs and arrays included."""
        cls = type(self)
        decode = cls._decode_
        if decode is None:
            decode = cls._decode_ = plan_decode(cls)
        return decode(self)

    def __repr__(self) -> str:
        """The fields that are not zero, in the order of the header."""
        shown: list[str] = []
        for name, field in self.FIELDS.items():
            value = getattr(self, field.attribute)
            text = _shown(value)
            if text:
                shown.append(f"{name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _assign(self, value: Any) -> None:
        """Take over ``value``: a struct of the same type, its bytes, or fields by name."""
        if isinstance(value, Layout):
            if type(value) is not type(self):
                raise TypeError(
                    f"a {type(self).__name__} cannot be set to a {type(value).__name__}"
                )
            value = bytes(value)[: self.BYTES]
        if isinstance(value, (bytes, bytearray, memoryview)):
            if len(value) != self.BYTES:
                raise ValueError(
                    f"{type(self).__name__} has {self.BYTES} bytes, {len(value)} were given"
                )
            self._buffer[self._at : self._at + self.BYTES] = bytes(value)
            return
        for name, item in value.items():
            self[name] = item


class Module:
    """The classes of one generated module, built from its tables when first used."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        """Serve the tables ``LAYOUTS`` and ``ENUMS`` of the module with this ``namespace``."""
        self._namespace = namespace

    def lookup(self, name: str) -> Any:
        """Return the class called ``name``; this is the generated module's ``__getattr__``."""
        namespace = self._namespace
        text = namespace["LAYOUTS"].get(name)
        if text is not None:
            found: Any = self._layout(name, text)
        elif name in namespace["ENUMS"]:
            members = namespace["ENUMS"][name].split()
            make: Any = IntEnum
            found = make(name, {member: namespace[member] for member in members})
            found.__module__ = namespace["__name__"]
        else:
            raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")
        namespace[name] = found
        return found

    def names(self) -> list[str]:
        """Return every name of the module; this is the generated module's ``__dir__``."""
        public = {name for name in self._namespace if not name.startswith("_")}
        return sorted(public | set(self._namespace["LAYOUTS"]) | set(self._namespace["ENUMS"]))

    def resolve(self, name: str) -> Any:
        """Return the class called ``name``, built already or not."""
        found = self._namespace.get(name)
        return found if found is not None else self.lookup(name)

    def _layout(self, name: str, text: str) -> type[Layout]:
        bits, union, fields = parse(text)
        said = self._namespace.get("DOCS", {}).get(name, "")
        body: dict[str, Any] = {
            "__slots__": (),
            "__module__": self._namespace["__name__"],
            "__doc__": f"{'union' if union else 'struct'} {name}: {bits} bits.\n{said}".strip(),
            "BITS": bits,
            "BYTES": (bits + 7) // 8,
            "FIELDS": fields,
            **properties(fields, bits, self.resolve),
        }
        return cast("type[Layout]", type(name, (Layout,), body))


def command_classes(
    resolve: Callable[[str], Any], commands: Mapping[int, tuple[str, str, str]], opcode: int
) -> tuple[type[Layout] | None, type[Layout] | None]:
    """Return the input and output classes of firmware command ``opcode``.

    Either is None where the header has no struct for it.

    Raises:
        KeyError: there is no such opcode.
    """
    _, given, returned = commands[opcode]
    return (
        resolve(given) if given else None,
        resolve(returned) if returned else None,
    )


def _steps(path: str) -> list[tuple[str, list[int]]]:
    """Split a path into names and the indices behind each."""
    steps: list[tuple[str, list[int]]] = []
    for part in path.split("."):
        name, *indices = part.split("[")
        steps.append((name, [int(index.removesuffix("]"), 0) for index in indices]))
    return steps


def _attribute(found: Any, name: str) -> str:
    fields = getattr(type(found), "FIELDS", {})
    field = fields.get(name)
    if field is None:
        raise KeyError(f"{type(found).__name__} has no field {name!r}")
    return cast("str", field.attribute)


def _shown(value: Any) -> str:
    """Return ``value`` for a person, or ``""`` where it says nothing but zero."""
    if isinstance(value, IntEnum):
        return f"{value.name} ({int(value):#x})" if value else ""
    if isinstance(value, int):
        return f"{value:#x}" if value else ""
    if isinstance(value, LayoutArray):
        items = [f"[{number}]={item!r}" for number, item in enumerate(value) if any(bytes(item))]
        return ", ".join(items)
    if isinstance(value, Layout):
        return repr(value) if any(bytes(value)) else ""
    return f"[{', '.join(f'{int(item):#x}' for item in value)}]" if any(value) else ""
