# SPDX-License-Identifier: GPL-2.0-or-later
"""The ctypes backend: a Python module with the header's structs, constants and ioctls."""

from __future__ import annotations

import re
from dataclasses import dataclass

from genbindings import resources
from genbindings.backends.python_functions import function_text
from genbindings.backends.python_text import (
    WIDTH,
    call,
    docstring,
    identifier,
    import_from,
    module_doc,
    string,
    tidy,
)
from genbindings.backends.python_values import constant_text, enum_text
from genbindings.ctypes_layout import Plan, plan
from genbindings.model import Field, Header, Ioctl, RecordRef, Scalar, Struct

_FLOATS = {4: "c_float", 8: "c_double"}
_PYTHON = {"int": "int", "bool": "bool", "float": "float", "char": "bytes", "pointer": "int | None"}


@dataclass(frozen=True, slots=True)
class Class:
    """A struct as the template prints it; every string is finished Python text."""

    name: str
    base: str
    flexible: str
    docstring: str
    annotations: tuple[str, ...]
    anonymous: str
    slots: tuple[str, ...]
    descriptors: tuple[str, ...]
    alias: str


@dataclass(frozen=True, slots=True)
class IoctlText:
    """An ioctl: its name and the arguments of its constructor."""

    name: str
    number: str
    quoted: str
    struct: str
    direction: str
    doc: str


def render(header: Header) -> str:
    """Return the Python module for ``header``."""
    text = ModuleText(header)
    rendered = (
        resources.environment()
        .get_template("ctypes_module.py.j2")
        .render(
            spdx=header.spdx,
            docstring=docstring(module_doc(header), 0),
            imports=[
                import_from("ctypes", sorted(text.ctypes_names, key=_natural)),
                import_from("mlxuapi.runtime", sorted(text.runtime_names)),
            ],
            constants=[constant_text(constant) for constant in header.distinct_constants()],
            enums=[enum_text(enum, header) for enum in header.enums],
            functions=[function_text(function) for function in header.functions.values()],
            classes=text.classes,
            ioctls=[_ioctl(ioctl) for ioctl in header.ioctls.values()],
            ioctl_table=_table([identifier(name) for name in header.ioctls]),
        )
    )
    return tidy(rendered, 2)


class ModuleText:
    """The structs of a module as text, and what they need imported.

    A class gets a second name where its own cannot be used inside a class: there a name that is
    also a field's means the field, and one that begins with two underscores is mangled.
    """

    def __init__(self, header: Header) -> None:
        self._header = header
        self.ctypes_names: set[str] = set()
        self.runtime_names = {"Ioctl", "names_by_number"} if header.ioctls else set()
        self._users = _users(header)
        fields = {
            identifier(field.name)
            for struct in header.structs.values()
            for field in header.flat_fields(struct)
        }
        self._shadowed = fields & {identifier(name) for name in header.structs}
        self.classes = [self._struct(struct) for struct in header.structs.values()]

    def annotation_names(self) -> list[str]:
        """Return what the annotations alone need from ctypes."""
        words = re.findall(r"\b\w+\b", " ".join(" ".join(c.annotations) for c in self.classes))
        return sorted(self.ctypes_names & set(words), key=_natural)

    def base_names(self) -> list[str]:
        """Return what the classes' bases and the ioctls alone need from the runtime."""
        return sorted(self.runtime_names & {"Ioctl", "Structure", "Union"})

    def _struct(self, struct: Struct) -> Class:
        base = "Union" if struct.kind == "union" else "Structure"
        layout = plan(struct, self._header)
        self.runtime_names.add(base)
        # ctypes lifts the fields of an anonymous member as they are: the array is its owner's.
        owns = struct.spelling and struct.kind == "struct"
        flexible = self._header.flexible(struct) if owns else None
        if flexible is not None and flexible.name in {each.name for each in layout.descriptors}:
            flexible = None
        if flexible is not None:
            self.runtime_names.add("flexible")
        anonymous = [
            _anonymous_name(struct, slot.field)
            for slot in layout.slots
            if slot.field is not None and not slot.field.name
        ]
        return Class(
            name=identifier(struct.name),
            base=base,
            flexible=string(flexible.name) if flexible is not None else "",
            docstring=docstring(self._doc(struct), 4),
            annotations=tuple(
                f"{identifier(field.name)}: {self._annotation(field)}"
                for field in self._header.flat_fields(struct)
                if field.name not in {each.name for each in layout.descriptors}
            ),
            anonymous=_tuple("    _anonymous_ = ", anonymous).strip() if anonymous else "",
            slots=self._slots(struct, layout),
            alias=self._alias(identifier(struct.name)),
            descriptors=tuple(self._descriptor(field) for field in layout.descriptors),
        )

    def _doc(self, struct: Struct) -> str:
        users = self._users.get(struct.name, [])
        summary = f"{struct.kind} {struct.name}: {struct.size} bytes, aligned to {struct.align}."
        parts = [summary]
        if users:
            parts.append(f"Argument of {', '.join(users)}.")
        elif struct.doc:
            parts.append(struct.doc)
        documented = [field for field in self._header.flat_fields(struct) if field.doc]
        if documented:
            parts.append("\n".join(f"{field.name}: {field.doc}" for field in documented))
        return "\n\n".join(parts)

    def _slots(self, struct: Struct, layout: Plan) -> tuple[str, ...]:
        lines: list[str] = []
        for slot in layout.slots:
            if slot.kind == "padding":
                kind = f"{self._ctypes('c_ubyte')} * {slot.size}"
            elif slot.kind == "alignment":
                kind = f"{self._ctypes(f'c_uint{8 * slot.size}')} * 0"
            else:
                assert slot.field is not None
                kind = self._kind(slot.field)
            name = slot.name or (_anonymous_name(struct, slot.field) if slot.field else "")
            lines.append(f"({string(identifier(name))}, {kind}),  # {slot.offset}")
        return tuple(lines)

    def _descriptor(self, field: Field) -> str:
        if field.bit_size is not None:
            self.runtime_names.add("Bits")
            signed = ", signed=True" if isinstance(field.type, Scalar) and field.type.signed else ""
            text = f"Bits({field.bit_offset}, {field.bit_size}{signed})"
        else:
            self.runtime_names.add("Member")
            text = f"Member({field.offset}, {self._kind(field)})"
        if field.name.startswith("__"):
            # Python would mangle such a name in a class body.
            return f"locals()[{string(field.name)}] = {text}"
        name = f"{identifier(field.name)}: {self._annotation(field)}"
        ignored = "  # type: ignore[assignment]"
        line = f"{name} = {text}{ignored}"
        # A comment for a tool does not count.
        if len(line) - len(ignored) + 4 <= WIDTH:
            return line
        kind, _, arguments = text.removesuffix(")").partition("(")
        return f"{name} = {kind}(\n        {arguments}\n    ){ignored}"

    def _ctypes(self, name: str) -> str:
        self.ctypes_names.add(name)
        return name

    def _kind(self, field: Field) -> str:
        """The ctypes type of ``field``, arrays included (C's dimensions, innermost first)."""
        text = self._element(field.type)
        for number, count in enumerate(reversed(field.count)):
            text = f"({text}) * {count or 0}" if number else f"{text} * {count or 0}"
        return text

    def _element(self, kind: Scalar | RecordRef) -> str:
        if isinstance(kind, RecordRef):
            return self._class(kind)
        if kind.kind == "int":
            sign = "" if kind.signed else "u"
            return self._ctypes(f"c_{sign}int{8 * kind.size}")
        if kind.kind == "float":
            return self._ctypes(_FLOATS[kind.size])
        if kind.kind == "opaque":
            return f"({self._ctypes('c_ubyte')} * {kind.size})"
        return self._ctypes({"char": "c_char", "bool": "c_bool", "pointer": "c_void_p"}[kind.kind])

    def _class(self, kind: RecordRef) -> str:
        """The class of ``kind`` as an annotation inside a class names it."""
        name = identifier(kind.name)
        return self._alias(name) or name

    def _alias(self, name: str) -> str:
        if name.startswith("__"):
            return f"_c{name}"
        return f"_{name}" if name in self._shadowed else ""

    def _annotation(self, field: Field) -> str:
        if not field.count:
            if isinstance(field.type, RecordRef):
                return self._class(field.type)
            if field.type.kind == "opaque":
                return f"{self._ctypes('Array')}[{self._ctypes('c_ubyte')}]"
            return _PYTHON[field.type.kind]
        if isinstance(field.type, Scalar) and field.type.kind == "char" and len(field.count) == 1:
            return "bytes"
        if isinstance(field.type, RecordRef):
            text = self._class(field.type)
        else:
            text = self._element(field.type)
        if text.startswith("("):
            text = f"{self._ctypes('Array')}[c_ubyte]"
        for _ in field.count:
            text = f"{self._ctypes('Array')}[{text}]"
        return text


def _tuple(before: str, names: list[str]) -> str:
    """Return a tuple of strings, one a line where a line is too long for all."""
    if len(names) == 1:
        return f"{before}({string(names[0])},)"
    return call(before, [string(name) for name in names], "")


def _table(names: list[str]) -> str:
    """Return the tuple of all ioctls."""
    if len(names) == 1:
        return f"IOCTLS = ({names[0]},)"
    return "IOCTLS = (\n" + "".join(f"    {name},\n" for name in names) + ")"


def _natural(name: str) -> list[tuple[str, int]]:
    """The order of imported names: capitals first, numbers by value."""
    return [
        (text, int(digits or 0))
        for text, digits in re.findall(r"([^0-9]*)([0-9]*)", name)
        if text or digits
    ]


def _anonymous_name(struct: Struct, field: Field) -> str:
    """Return the attribute that holds the anonymous member ``field``."""
    unnamed = [each for each in struct.fields if not each.name]
    return f"_anonymous{unnamed.index(field) + 1}"


def _users(header: Header) -> dict[str, list[str]]:
    """Return the ioctls that take each struct."""
    users: dict[str, list[str]] = {}
    for ioctl in header.ioctls.values():
        if ioctl.struct is not None:
            users.setdefault(ioctl.struct, []).append(ioctl.name)
    return users


def _ioctl(ioctl: Ioctl) -> IoctlText:
    return IoctlText(
        name=identifier(ioctl.name),
        number=f"0x{ioctl.number:X}",
        quoted=string(ioctl.name),
        struct=identifier(ioctl.struct) if ioctl.struct else "",
        direction=string(ioctl.direction),
        doc=docstring(ioctl.doc, 4).strip(),
    )
