# SPDX-License-Identifier: GPL-2.0-or-later
"""Proof that a generated ctypes module lays its structs out as the compiler does."""

from __future__ import annotations

import ctypes
import platform
import struct
from typing import TYPE_CHECKING, Any

from genbindings.backends.python_text import identifier
from genbindings.errors import Error

if TYPE_CHECKING:
    from genbindings.model import Header


def verify_module(header: Header, text: str) -> None:
    """Compare sizes, alignments and offsets of the module ``text`` with the model.

    A module for another architecture cannot be laid out by this machine's ctypes: its layout is
    left to the compiled check.

    Raises:
        Error: they differ.
    """
    if header.dialect == "bits" or not _is_native(header):
        return
    namespace: dict[str, Any] = {"__name__": header.name}
    exec(compile(text, header.name, "exec"), namespace)
    for item in header.structs.values():
        kind = namespace[identifier(item.name)]
        found = {"size": ctypes.sizeof(kind), "alignment": ctypes.alignment(kind)}
        expected = {"size": item.size, "alignment": item.align}
        for field in header.flat_fields(item):
            at = getattr(getattr(kind, identifier(field.name), -1), "offset", -1)
            if not hasattr(kind, identifier(field.name)) or (at != -1 and field.bit_size is None):
                found[field.name], expected[field.name] = at, field.offset
        for what, value in expected.items():
            if found[what] != value:
                raise Error(
                    f"{item.location}: {item.name}: ctypes makes {what} {found[what]}, C {value}",
                    "this is a bug in gen-bindings; please report it with the header",
                )


def _is_native(header: Header) -> bool:
    if header.target.split("-", 1)[0] != platform.machine():
        return False
    # `-m32` and its like do not change the target's name, but they do change pointers.
    return header.pointer_size in (0, struct.calcsize("P"))
