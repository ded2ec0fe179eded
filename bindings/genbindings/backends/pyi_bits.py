# SPDX-License-Identifier: GPL-2.0-or-later
"""The pyi backend for the bit dialect: types of the classes that the module builds when used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings import resources
from genbindings.backends.ctypes_bits import class_name, field_enums
from genbindings.backends.python_functions import stub_lines
from genbindings.backends.python_text import WIDTH, docstring, identifier, module_doc, tidy
from genbindings.ifc import is_reserved
from genbindings.ifc_enums import EnumClass, enum_classes
from genbindings.model import Field, Header, RecordRef, Struct

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class StubClass:
    """A class of the stub: its name and the lines of its body."""

    name: str
    lines: tuple[str, ...]


def render(header: Header) -> str:
    """Return the stub for :func:`genbindings.backends.ctypes_bits.render`'s module."""
    enums = enum_classes(header)
    kinds = field_enums(enums)
    structs = list(header.own_structs())
    names = {class_name(struct.name) for struct in structs} | {enum.name for enum in enums}
    shadowed = _shadowed(header, names)
    classes = [_class(struct, header, kinds, shadowed) for struct in structs]
    rendered = (
        resources.environment()
        .get_template("ifc_stub.pyi.j2")
        .render(
            spdx=header.spdx,
            docstring=docstring(module_doc(header), 0),
            functions=stub_lines(header),
            constants=[
                f"{identifier(constant.name)}: {type(constant.value).__name__}"
                for constant in header.distinct_constants()
            ],
            enumerators=[
                f"{identifier(name)}: int"
                for enum in header.enums
                for name in header.reachable(enum)
            ],
            enums=[_enum(enum) for enum in enums],
            classes=classes,
            imports=_imports(enums, classes),
            aliases=[f"_{name} = {name}" for name in sorted(shadowed)],
        )
    )
    return tidy(rendered, 1)


def _imports(enums: list[EnumClass], classes: list[StubClass]) -> list[str]:
    """Return the imports that the stub needs."""
    lines = ["from enum import IntEnum", ""] if enums else []
    lines.append("from mlxuapi.ifc import Layout")
    text = "\n".join(line for each in classes for line in each.lines)
    for kind, name in (("LayoutArray", "Structs"), ("NumberArray", "Numbers")):
        if f"{name}[" in text:
            lines.append(f"from mlxuapi.ifc_fields import {kind} as {name}")
    return lines


def _shadowed(header: Header, names: set[str]) -> set[str]:
    """Return the classes that also are the name of some field: there, the name means the field."""
    fields = {
        identifier(field.name)
        for struct in header.own_structs()
        for field in header.flat_fields(struct)
    }
    return fields & names


def _enum(enum: EnumClass) -> StubClass:
    return StubClass(enum.name, tuple(f"{name} = {value}" for name, value in enum.values.items()))


def _class(
    struct: Struct, header: Header, kinds: Mapping[tuple[str, str], str], shadowed: set[str]
) -> StubClass:
    lines: list[str] = []
    for field in header.flat_fields(struct):
        if not is_reserved(field.name):
            kind = _type(field, kinds.get((struct.name, field.name), ""), shadowed)
            line = f"{identifier(field.name)}: {kind}"
            lines.append(line if len(line) + 4 <= WIDTH else f"{line}  # noqa: E501")
    return StubClass(class_name(struct.name), tuple(lines) or ("pass",))


def _type(field: Field, enum: str, shadowed: set[str]) -> str:
    name = class_name(field.type.name) if isinstance(field.type, RecordRef) else enum
    if name in shadowed:
        name = f"_{name}"
    if isinstance(field.type, RecordRef):
        return f"Structs[{name}]" if field.count else name
    if field.count:
        kind = "int"
        for _ in field.count:
            kind = f"Numbers[{kind}]"
        return kind
    return f"{name} | int" if enum else "int"
