# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON backend: the model for programs in other languages. docs/bindings.md has the schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from genbindings import resources

if TYPE_CHECKING:
    from genbindings.model import Field, Header, Location, Struct


def render(header: Header) -> str:
    """Return the model as JSON."""
    structs = {struct.name: _struct(struct, header) for struct in header.own_structs()}
    constants = {name: constant.value for name, constant in header.constants.items()}
    # An ioctl is an object-like macro as well: whoever looks for a macro's value finds them all.
    constants.update({name: ioctl.number for name, ioctl in header.ioctls.items()})
    enums: dict[str, dict[str, int]] = {}
    for enum in header.enums:
        enums.setdefault(enum.name, {}).update(enum.values)
    ioctls = {
        name: {
            "number": ioctl.number,
            "struct": ioctl.struct,
            "direction": ioctl.direction,
            "doc": ioctl.doc,
        }
        for name, ioctl in header.ioctls.items()
    }
    omitted = [
        {"name": item.name, "reason": item.reason, "location": str(item.location)}
        for item in header.omitted
    ]
    # JSON has no place for what a macro computes.
    omitted += [
        {"name": f.name, "reason": "function-like macro", "location": str(f.location)}
        for f in header.functions.values()
    ]
    return (
        resources.environment()
        .get_template("model.json.j2")
        .render(
            header=json.dumps({"name": header.name, "sha256": header.sha256}),
            structs=_lines(structs),
            enums=_lines(enums),
            constants=_lines(constants),
            ioctls=_lines(ioctls),
            omitted=",\n".join(f"    {json.dumps(item)}" for item in omitted),
        )
    )


def _lines(items: dict[str, Any]) -> str:
    """Return the members of an object, one a line, so that two models can be compared by line."""
    return ",\n".join(f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in items.items())


def _struct(struct: Struct, header: Header) -> dict[str, Any]:
    size = {"bits" if header.dialect == "bits" else "size": struct.size}
    return {
        "kind": struct.kind,
        **size,
        "align": struct.align,
        "doc": struct.doc,
        "location": _place(struct.location),
        "fields": [_field(field, header) for field in header.flat_fields(struct)],
    }


def _field(field: Field, header: Header) -> dict[str, Any]:
    found: dict[str, Any] = {"name": field.name}
    if header.dialect == "bits":
        found.update(bit_offset=field.offset, bit_size=field.size)
    else:
        found.update(offset=field.offset, size=field.size)
        if field.bit_size is not None:
            found.update(bit_offset=field.bit_offset, bit_size=field.bit_size)
    found["type"] = field.type.name
    found["count"] = None if field.flexible else list(field.count)
    found["doc"] = field.doc
    return found


def _place(location: Location | None) -> str | None:
    return str(location) if location is not None else None
