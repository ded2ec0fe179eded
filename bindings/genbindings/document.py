# SPDX-License-Identifier: GPL-2.0-or-later
"""Doc comments and source lines, attached to what the compiler reported.

A header of a kernel tree is compiled as installed, without its kernel-only parts, so its lines
there are not those of the file that people open: locations are given in the file as found.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from genbindings.comments import Comments, members
from genbindings.model import Enum, Field, Ioctl, Location, Struct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Annotator:
    """Adds docs and original lines to model objects."""

    def __init__(self, files: Sequence[Path], originals: Mapping[str, Path]) -> None:
        """Read the files.

        Args:
            files: the files as compiled.
            originals: the files as found, by base name, where they differ from those compiled.
        """
        self.comments = {path.name: Comments.of(path) for path in files}
        self._texts = {path.name: _lines(path) for path in files}
        self._line_maps = {
            path.name: _line_map(self._texts[path.name], _lines(originals[path.name]))
            for path in files
            if path.name in originals and originals[path.name] != path
        }

    def location(self, place: Location | None) -> Location | None:
        """Return ``place`` in the file as found."""
        if place is None:
            return None
        lines = self._line_maps.get(place.file)
        return Location(place.file, lines[place.line]) if lines else place

    def struct(self, struct: Struct) -> Struct:
        """Return ``struct`` with docs and locations."""
        place = struct.location
        comments = self.comments.get(place.file) if place is not None else None
        if place is None or comments is None:
            return struct
        doc = comments.above(place.line)
        named = members(doc)
        fields = tuple(self._field(field, comments, named) for field in struct.fields)
        return replace(struct, doc=doc, fields=fields, location=self.location(place))

    def _field(self, field: Field, comments: Comments, named: Mapping[str, str]) -> Field:
        if field.location is None:
            return field
        doc = named.get(field.name, "")
        if not doc:
            above = comments.above(field.location.line)
            doc = comments.beside(field.location.line) or members(above).get(field.name, above)
        place = self.location(field.location)
        if not doc and place is field.location:
            return field
        return replace(field, doc=_one_line(doc), location=place)

    def enum(self, enum: Enum) -> Enum:
        """Return ``enum`` with docs and locations."""
        place = enum.location
        comments = self.comments.get(place.file) if place is not None else None
        if place is None or comments is None:
            return enum
        doc = comments.above(place.line)
        docs = members(doc)
        names = dict.fromkeys(enum.values)
        for number in range(place.line, len(self._texts[place.file]) + 1):
            word = re.match(
                r"\s*(?:enum\s*\w*\s*\{)?\s*([A-Za-z_]\w*)", self._texts[place.file][number - 1]
            )
            if word and word[1] in names:
                above = comments.above(number)
                text = comments.beside(number) or members(above).get(word[1], above)
                if text and word[1] not in docs:
                    docs[word[1]] = text
                del names[word[1]]
            if not names:
                break
        lines = {name: _one_line(text) for name, text in docs.items() if name in enum.values}
        return replace(enum, doc=doc, docs=lines, location=self.location(place))

    def ioctl(self, ioctl: Ioctl) -> Ioctl:
        """Return ``ioctl`` with its location in the file as found."""
        return replace(ioctl, location=self.location(ioctl.location))

    def constant(self, file: str, line: int) -> str:
        """Return the doc of the macro defined at ``line``: behind it, or else above it."""
        comments = self.comments[file]
        return _one_line(comments.beside(line) or comments.above(line))


def original_line(compiled: Path, found: Path, line: int) -> int:
    """Return the line that ``line`` of an installed header has in the file as found."""
    lines = _line_map(_lines(compiled), _lines(found))
    return lines[line] if line < len(lines) else line


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _line_map(compiled: list[str], found: list[str]) -> list[int]:
    """Return for each compiled line (index 0 unused) the line it has in the file as found.

    headers_install.sh deletes lines and rewrites words in others, but reorders nothing.
    """
    mapped = [0]
    at = 0
    for line in compiled:
        if at < len(found) and found[at] == line:
            at += 1
            mapped.append(at)
            continue
        key = _key(line)
        step = at
        while step < len(found) and _key(found[step]) != key:
            step += 1
        if step < len(found):
            at = step + 1
        mapped.append(at)
    return mapped


def _key(line: str) -> str:
    """A spelling of ``line`` that headers_install.sh's rewriting does not change."""
    if re.match(r"\s*#\s*include <linux/compiler(_types)?\.h>", line):
        return ""
    bare = re.sub(r"_UAPI|\b(__user|__force|__iomem|__attribute_const__)\s?", "", line)
    bare = re.sub(r"__attribute__\(\(packed\)\)", "__packed", bare)
    return re.sub(r"[\s_]", "", bare)
