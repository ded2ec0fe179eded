# SPDX-License-Identifier: GPL-2.0-or-later
"""A part of a header: what a regular expression names, and what that needs."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from genbindings.errors import UsageError
from genbindings.model import RecordRef

if TYPE_CHECKING:
    from genbindings.model import Header


def select(header: Header, pattern: str) -> Header:
    """Return ``header`` with only the symbols whose C name ``pattern`` matches anywhere.

    The structs that a selected struct or ioctl is made of stay as well, and the numbers and macros
    that a selected function-like macro uses.

    Raises:
        UsageError: the pattern is not a regular expression, or nothing matches it.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--select {pattern}: not a regular expression: {error}") from None
    functions = _used(header, wanted)
    used = {name for function in functions for name in header.functions[function].uses}
    ioctls = {name: ioctl for name, ioctl in header.ioctls.items() if wanted.search(name)}
    names = {name for name in header.structs if wanted.search(name)}
    names |= {ioctl.struct for ioctl in ioctls.values() if ioctl.struct is not None}
    structs = _needed(header, names)
    enums = tuple(
        replace(
            enum,
            values={
                name: value
                for name, value in enum.values.items()
                if wanted.search(name) or (enum.name and wanted.search(enum.name)) or name in used
            },
        )
        for enum in header.enums
    )
    found = replace(
        header,
        structs={name: struct for name, struct in header.structs.items() if name in structs},
        enums=tuple(enum for enum in enums if enum.values),
        constants={
            name: constant
            for name, constant in header.constants.items()
            if wanted.search(name) or name in used
        },
        functions={name: header.functions[name] for name in header.functions if name in functions},
        ioctls=ioctls,
        omitted=tuple(item for item in header.omitted if wanted.search(item.name)),
    )
    if not (found.structs or found.enums or found.constants or found.ioctls or functions):
        raise UsageError(f"--select {pattern}: nothing in {header.name} matches")
    return found


def _used(header: Header, wanted: re.Pattern[str]) -> set[str]:
    found: set[str] = set()
    pending = [name for name in header.functions if wanted.search(name)]
    while pending:
        name = pending.pop()
        if name not in found and name in header.functions:
            found.add(name)
            pending += header.functions[name].uses
    return found


def _needed(header: Header, names: set[str]) -> set[str]:
    needed: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name in needed or name not in header.structs:
            continue
        needed.add(name)
        pending += [
            field.type.name
            for field in header.structs[name].fields
            if isinstance(field.type, RecordRef)
        ]
    return needed
