# SPDX-License-Identifier: GPL-2.0-or-later
"""Doc comments of a header, and what each of them is about.

The kernel's headers document a struct in the comment right above it, a field or a constant in the
comment behind it (or in a ``@name:`` line of the struct's comment), and an ioctl in a comment that
begins ``NAME - _IOWR(TYPE, NUMBER, struct T)``, which is the only place that names its argument.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from genbindings.model import Direction

_TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'', re.DOTALL)
_IOCTL = re.compile(
    r"^\s*(?P<name>[A-Z_][A-Z0-9_]*)\s+-\s+(?P<how>_IO(?:R|W|WR)?)\s*\("
    r"\s*(?P<type>[^,()]+|\('.'\)),\s*(?P<number>[^,()]+)\s*(?:,\s*(?P<argument>[^()]+?))?\s*\)",
    re.MULTILINE,
)
_MEMBER = re.compile(r"^@(?P<name>[\w.]+)\s*:\s*", re.MULTILINE)
_DIRECTIONS: dict[str, Direction] = {
    "_IO": "none",
    "_IOR": "read",
    "_IOW": "write",
    "_IOWR": "read-write",
}


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment: its text without the stars, its first and last line, what stands before it."""

    text: str
    first: int
    last: int
    before: str

    @property
    def trailing(self) -> bool:
        """Whether there is code before it on its line."""
        return bool(self.before.strip())


@dataclass(frozen=True, slots=True)
class IoctlDoc:
    """What a header's comment says of an ioctl; ``number`` is a C expression for it, size aside."""

    name: str
    direction: Direction
    number: str
    argument: str
    comment: Comment


class Comments:
    """The comments of one file."""

    def __init__(self, text: str) -> None:
        """``text`` is the file's content."""
        self._lines = text.splitlines()
        self.all = tuple(_scan(text))
        self._by_last = {comment.last: comment for comment in self.all}
        self._by_first = {comment.first: comment for comment in self.all if comment.trailing}
        self._opening = self._find_opening()

    @classmethod
    def of(cls, path: Path) -> Comments:
        """Read the comments of ``path``."""
        return cls(path.read_text(encoding="utf-8", errors="replace"))

    def above(self, line: int) -> str:
        """Return the comment right above ``line`` (blank lines between allowed), or ``""``."""
        at = line - 1
        while at >= 1 and not self._lines[at - 1].strip():
            at -= 1
        comment = self._by_last.get(at)
        if comment is None or comment.trailing or "SPDX-License-Identifier" in comment.text:
            return ""
        # The comment that opens a file is about the file.
        return "" if comment is self._opening else comment.text

    def beside(self, line: int) -> str:
        """Return the comment that begins behind the code of ``line``, or ``""``.

        A declaration may be followed by its comment alone on the next line only where that line
        is indented deeper; the kernel's headers do not do so, and it is not attempted.
        """
        comment = self._by_first.get(line)
        return comment.text if comment is not None else ""

    def file(self) -> str:
        """Return the comment that opens the file, without its licence text, or ``""``."""
        return self._opening.text if self._opening is not None else ""

    def ioctls(self) -> dict[str, IoctlDoc]:
        """Return the ioctls that comments document, by name."""
        found: dict[str, IoctlDoc] = {}
        for comment in self.all:
            for match in _IOCTL.finditer(comment.text):
                argument = " ".join((match["argument"] or "").split())
                found[match["name"]] = IoctlDoc(
                    match["name"],
                    _DIRECTIONS[match["how"]],
                    f"{match['how']}({match['type']}, {match['number'].strip()}, char)",
                    argument,
                    comment,
                )
        return found

    def _find_opening(self) -> Comment | None:
        for comment in self.all:
            if "SPDX-License-Identifier" not in comment.text:
                before = "\n".join(self._lines[: comment.first - 1])
                return None if _TOKEN.sub("", before).strip() else comment
        return None


def members(text: str) -> dict[str, str]:
    """Return the ``@member:`` descriptions of a kernel-doc comment, by member."""
    matches = list(_MEMBER.finditer(text))
    found: dict[str, str] = {}
    ends = [match.start() for match in matches[1:]] + [len(text)]
    for match, end in zip(matches, ends, strict=False):
        body = text[match.end() : end]
        # A blank line ends a description.
        found[match["name"]] = " ".join(body.split("\n\n")[0].split())
    return found


def direction_of(constructor: str) -> Direction:
    """Return the direction that ``_IO``, ``_IOR``, ``_IOW`` or ``_IOWR`` stands for."""
    return _DIRECTIONS[constructor.removesuffix("_BAD")]


def _scan(text: str) -> list[Comment]:
    found: list[Comment] = []
    line = 1
    at = 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", at, match.start())
        at = match.start()
        if not match[0].startswith(("/*", "//")):
            continue
        before = text[text.rfind("\n", 0, at) + 1 : at]
        last = line + match[0].count("\n")
        cleaned = _clean(match[0])
        previous = found[-1] if found else None
        if (
            previous is not None
            and previous.trailing
            and previous.last == line - 1
            and not before.strip()
            and len(before.expandtabs()) > len(previous.before.expandtabs()) - 8
        ):
            # A trailing comment that goes on as a comment of its own on the next line.
            joined = f"{previous.text} {cleaned}"
            found[-1] = Comment(joined, previous.first, last, previous.before)
        else:
            found.append(Comment(cleaned, line, last, before))
    return found


def _clean(comment: str) -> str:
    """Drop the delimiters and the column of stars, and what indentation all lines share."""
    if comment.startswith("//"):
        return comment[2:].strip()
    body = comment[2:-2].lstrip("*")
    first, _, rest = body.partition("\n")
    lines = [re.sub(r"^\s*\*? ?", "", text.expandtabs(8)).rstrip() for text in rest.split("\n")]
    dedented = textwrap.dedent("\n".join(lines))
    return f"{first.strip()}\n{dedented}".strip("\n").rstrip() if rest else first.strip()
