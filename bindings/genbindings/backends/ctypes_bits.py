# SPDX-License-Identifier: GPL-2.0-or-later
"""The ctypes backend's counterpart for the bit dialect: a module of lazily built accessors.

Hundreds of classes with thousands of properties would take most of a second to import, so the
module carries tables of text, and ``mlxuapi.ifc`` builds a class when it is first asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings import resources
from genbindings.backends.python_functions import function_text
from genbindings.backends.python_text import call, docstring, identifier, module_doc, string, tidy
from genbindings.backends.python_values import constant_text, enum_text
from genbindings.ifc import is_reserved, short_name
from genbindings.ifc_commands import Command, commands
from genbindings.ifc_enums import EnumClass, enum_classes
from genbindings.model import Field, Header, RecordRef, Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

# What a firmware struct's class has besides the header's fields.
_METHODS = ("from_buffer", "with_room", "to_dict")


@dataclass(frozen=True, slots=True)
class Table:
    """A struct as the template prints it: its quoted name and the lines of its table."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EnumTable:
    """An enum class: its quoted name, and the enumerators it is made of."""

    name: str
    members: tuple[str, ...]


def render(header: Header) -> str:
    """Return the Python module for a header of the bit dialect."""
    enums = enum_classes(header)
    kinds = field_enums(enums)
    rendered = (
        resources.environment()
        .get_template("ifc_module.py.j2")
        .render(
            spdx=header.spdx,
            docstring=docstring(module_doc(header), 0),
            constants=[constant_text(constant) for constant in header.distinct_constants()],
            enums=[enum_text(enum, header) for enum in header.enums],
            functions=[function_text(function) for function in header.functions.values()],
            enum_classes=[EnumTable(string(enum.name), tuple(enum.values)) for enum in enums],
            docs=[_doc(struct, header) for struct in header.own_structs() if _text(struct, header)],
            tables=[_table(struct, header, kinds) for struct in header.own_structs()],
            commands=[_command(command) for command in commands(header).table],
        )
    )
    return tidy(rendered, 2)


def field_enums(enums: list[EnumClass]) -> dict[tuple[str, str], str]:
    """Return the enum class of each field that has one, by struct and field."""
    return {field: enum.name for enum in enums for field in enum.fields}


def class_name(struct: str) -> str:
    """Return the name of the class for the C struct ``struct``."""
    return identifier(short_name(struct))


def _table(struct: Struct, header: Header, kinds: Mapping[tuple[str, str], str]) -> Table:
    lines = [f"{struct.kind} 0x{struct.size:X}"]
    for field in header.flat_fields(struct):
        assert field.name not in _METHODS, f"{struct.name}.{field.name} hides a method"
        if not is_reserved(field.name):
            lines.append(_line(field, header, kinds.get((struct.name, field.name), "")))
    return Table(string(class_name(struct.name)), tuple(lines))


def _doc(struct: Struct, header: Header) -> Table:
    text = docstring(_text(struct, header), 0).replace('"""', "")
    return Table(string(class_name(struct.name)), tuple(text.strip("\n").split("\n")))


def _text(struct: Struct, header: Header) -> str:
    """Return what the header's comments say of a struct and its fields."""
    fields = [f"{field.name}: {field.doc}" for field in header.flat_fields(struct) if field.doc]
    return "\n\n".join(filter(None, (struct.doc, "\n".join(fields))))


def _line(field: Field, header: Header, enum: str) -> str:
    if isinstance(field.type, RecordRef):
        width, holds = header.structs[field.type.name].size, f" @{class_name(field.type.name)}"
    else:
        width, holds = field.type.size, f" ={enum}" if enum else ""
    dimensions = "".join(f"[{size or ''}]" for size in field.count)
    return f"0x{field.offset:X} 0x{width:X} {field.name}{dimensions}{holds}"


def _command(command: Command) -> str:
    names = [string(name) for name in (command.name, command.input, command.output)]
    return call(f"    0x{command.opcode:X}: ", names, ",").strip()
