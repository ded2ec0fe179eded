# SPDX-License-Identifier: GPL-2.0-or-later
"""Constants and enumerators as Python text, alike in every Python module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.backends.python_text import WIDTH, comment, identifier, integer, string

if TYPE_CHECKING:
    from genbindings.model import Constant, Enum, Header


@dataclass(frozen=True, slots=True)
class Number:
    """A constant or an enumerator: the comment lines above it, and its line."""

    comments: tuple[str, ...]
    line: str


@dataclass(frozen=True, slots=True)
class NumberGroup:
    """An enum: the comment lines above it, and its enumerators."""

    comments: tuple[str, ...]
    numbers: tuple[Number, ...]


def constant_text(constant: Constant) -> Number:
    """Return ``constant`` as an assignment, its C text beside it where that says more."""
    return _number(constant.name, constant.value, constant.source, constant.doc)


def enum_text(enum: Enum, header: Header) -> NumberGroup:
    """Return ``enum`` as a group of assignments, without what a macro hides."""
    title = f"enum {enum.name}" if enum.name else "enum (anonymous)"
    return NumberGroup(
        (f"# {title}", *comment(" ".join(enum.doc.split()), 0)),
        tuple(
            _number(name, value, "", enum.docs.get(name, ""))
            for name, value in header.reachable(enum).items()
        ),
    )


def _number(name: str, value: int | str, source: str, doc: str) -> Number:
    text = string(value) if isinstance(value, str) else integer(value, source)
    line = f"{identifier(name)} = {text}"
    plain = source.strip()
    if plain.startswith("(") and plain.endswith(")") and plain.count("(") == 1:
        plain = plain[1:-1].strip()
    if isinstance(value, int) and plain and not plain.isalnum() and plain != str(value):
        full = f"{line}  # {plain}"
        line = full if len(full) <= WIDTH else line
    return Number(tuple(comment(doc, 0)), line)
