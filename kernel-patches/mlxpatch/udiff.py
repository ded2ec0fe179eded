# SPDX-License-Identifier: GPL-2.0-or-later
"""Unified diffs, read strictly: every line of a hunk counts, every path stays in the tree.

Text is decoded with surrogateescape, so that any byte comes out as it went in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn

from genbindings.errors import Error

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_DAMAGED = "a mail program wrapped or cut it: save the raw mail, or take it with b4 am"
_MODES = ("100644", "100755", "644", "755")
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


@dataclass(frozen=True)
class Hunk:
    """One hunk: ``old`` and ``new`` are the lines before and after, with their line ends."""

    number: int  # in its file, from 1
    old_start: int
    new_start: int
    old: tuple[str, ...]
    new: tuple[str, ...]
    line: int  # of the patch, from 1
    added: int
    removed: int


@dataclass
class FileDiff:
    """What a patch does to one file; ``old`` is None for a new file, ``new`` for a removed one."""

    old: str | None
    new: str | None
    copied: bool = False
    old_mode: str = ""
    new_mode: str = ""
    old_blob: str = ""
    new_blob: str = ""
    hunks: list[Hunk] = field(default_factory=list)

    @property
    def path(self) -> str:
        """The path to name it by."""
        return self.new or self.old or ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path that it reads or writes, in order."""
        return tuple(dict.fromkeys(path for path in (self.old, self.new) if path))


# git's name of a file without a byte.
_EMPTY = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def bad_path(path: str) -> str:
    """Return why ``path`` of a patch cannot be followed, or nothing if it stays below a folder."""
    parts = path.split("/")
    if path.startswith("/"):
        return "it is absolute"
    if ".." in parts or "." in parts:
        return "it leads out of the tree"
    if "" in parts:
        return "it has an empty part"
    if any(ord(char) < 32 or ord(char) == 127 for char in path) or "\\" in path:
        return "it has control characters or backslashes"
    if any(part.lower() == ".git" for part in parts):
        return "it is git's own"
    return ""


def parse(text: str, name: str) -> list[FileDiff]:
    """Return what the diff in ``text`` does, file by file; ``name`` is the patch's, for messages.

    Raises:
        Error: a hunk is cut or wrapped, line ends were changed, a path leads out of the tree, or
            it makes something other than a plain file; patch, line, file and hunk are named.
    """
    return _Parser(text, name).run()


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self._lines = text.split("\n")
        self._whole = self._lines[-1] == ""
        if self._whole:
            self._lines.pop()
        self._name = name
        self._at = 0

    def run(self) -> list[FileDiff]:
        found = []
        while self._at < len(self._lines):
            line = self._peek()
            if line.startswith("diff --git "):
                found.append(self._git())
            elif line.startswith("--- ") and self._peek(1).startswith("+++ "):
                found.append(self._plain())
            elif line.startswith("@@ -") and _HUNK.match(line):
                self._fail("a hunk that belongs to no file", _DAMAGED)
            else:
                self._at += 1
        return found

    def _peek(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._lines[at] if at < len(self._lines) else ""

    def _fail(self, what: str, hint: str = "") -> NoReturn:
        raise Error(f"patch {self._name}, line {self._at + 1}: {what}", hint)

    def _no_carriage_return(self, line: str) -> None:
        if line.endswith("\r"):
            self._fail(
                "its lines end in CR LF",
                "the patch was converted on its way: save it raw, or run: sed -i 's/\\r$//' FILE",
            )

    def _plain(self) -> FileDiff:
        old, new = self._names()
        if old is None and new is None:
            self._fail("both sides are /dev/null")
        diff = FileDiff(old, new if new is not None else None)
        if old is not None and new is not None:
            # patch(1) guesses between names that differ (quilt's a/x and b/x.orig): not here.
            diff.old = new
        self._hunks(diff)
        if not diff.hunks:
            self._fail(f"{diff.path} has no hunk", _DAMAGED)
        return diff

    def _names(self) -> tuple[str | None, str | None]:
        old = self._side(self._peek()[4:])
        self._at += 1
        new = self._side(self._peek()[4:])
        self._at += 1
        return old, new

    def _side(self, text: str) -> str | None:
        self._no_carriage_return(text)
        if not text.startswith('"'):
            text = text.partition("\t")[0].rstrip()
        text = self._unquote(text)
        return None if text == "/dev/null" else self._path(text, strip=True)

    def _path(self, text: str, *, strip: bool) -> str:
        path = text
        if strip and not text.startswith("/"):
            first, slash, rest = text.partition("/")
            if first == ".." or not slash:
                self._fail(f"the path {text!r} has no folder to strip", "make it with git diff")
            path = rest
        why = bad_path(path)
        if why:
            self._fail(f"the path {text!r} is refused: {why}", "nothing was written")
        return path

    def _unquote(self, text: str) -> str:
        if not (len(text) > 1 and text.startswith('"') and text.endswith('"')):
            return text

        def one(match: re.Match[str]) -> str:
            code = match[1]
            return chr(int(code, 8)) if code.isdigit() else _ESCAPES.get(code, code)

        raw = re.sub(r"\\([0-7]{3}|.)", one, text[1:-1])
        return raw.encode("latin-1", "replace").decode("utf-8", "surrogateescape")

    def _git(self) -> FileDiff:
        header = self._peek()[len("diff --git ") :]
        self._no_carriage_return(header)
        named = self._same(header)
        self._at += 1
        diff = FileDiff(None, None)
        marks: dict[str, str] = {}
        while self._extended(diff, marks):
            self._at += 1
        if self._peek().startswith(("GIT binary patch", "Binary files ")):
            self._fail("it changes a binary file, which no source patch should", "take it out")
        old, new = marks.get("from", named), marks.get("to", named)
        if self._peek().startswith("--- ") and self._peek(1).startswith("+++ "):
            at = self._at
            above, below = self._names()
            if {above, below} == {None} or any(
                given and expected and given != expected
                for given, expected in ((above, old), (below, new))
            ):
                self._at = at
                self._fail(f"--- and +++ name other files than 'diff --git {header}'")
            old, new = above or old, below or new
        if old is None or new is None:
            self._fail(f"cannot tell which file 'diff --git {header}' is about")
        diff.old = None if "new" in marks else old
        diff.new = None if "deleted" in marks else new
        diff.copied = "copied" in marks
        if old != new and not marks.keys() & {"from", "to"}:
            self._fail(f"--- and +++ name different files, {old} and {new}")
        self._hunks(diff)
        if not diff.hunks and not self._changes(diff, marks):
            self._fail(f"{diff.path} has no hunk: the patch is cut", _DAMAGED)
        return diff

    def _changes(self, diff: FileDiff, marks: dict[str, str]) -> bool:
        """Whether a file without a hunk is changed all the same."""
        if self._peek(-1).startswith(("--- ", "+++ ")):
            return False
        blob = diff.new_blob if "new" in marks else diff.old_blob
        if marks.keys() & {"new", "deleted"}:
            return not blob or _EMPTY.startswith(blob)
        return "to" in marks or bool(diff.new_mode)

    def _extended(self, diff: FileDiff, marks: dict[str, str]) -> bool:
        line = self._peek()
        match = re.match(
            r"(old mode|new mode|deleted file mode|new file mode|copy from|copy to|rename from"
            r"|rename to|similarity index|dissimilarity index|index) (.*)",
            line,
        )
        if match is None:
            return False
        self._no_carriage_return(line)
        key, value = match[1], match[2]
        if key.endswith("mode"):
            if value not in _MODES:
                kind = {"120000": "a symbolic link", "160000": "a submodule"}.get(value, value)
                self._fail(
                    f"mode {value} makes {kind}; only plain files are allowed",
                    "nothing was written",
                )
            if key in ("old mode", "deleted file mode"):
                diff.old_mode = value
            else:
                diff.new_mode = value
            marks.update(
                {"new file mode": {"new": ""}, "deleted file mode": {"deleted": ""}}.get(key, {})
            )
        elif key.endswith((" from", " to")):
            marks[key.split()[1]] = self._path(self._unquote(value), strip=False)
            if key.startswith("copy"):
                marks["copied"] = ""
        elif key == "index":
            blobs = re.match(r"([0-9a-f]+)\.\.([0-9a-f]+)(?: (\d+))?$", value)
            if blobs:
                diff.old_blob, diff.new_blob = blobs[1], blobs[2]
                if blobs[3] and blobs[3] not in _MODES:
                    self._fail(
                        f"mode {blobs[3]}: only plain files are allowed", "nothing was written"
                    )
        return True

    def _same(self, header: str) -> str | None:
        """Return the path of ``a/PATH b/PATH``, or nothing where the two differ."""
        if header.startswith('"'):
            left = re.match(r'"(?:[^"\\]|\\.)*"', header)
            sides = (left[0], header[left.end() + 1 :]) if left else ("", "-")
        else:
            middle = len(header) // 2
            sides = (header[:middle], header[middle + 1 :])
        first, second = (self._unquote(side) for side in sides)
        if first[:2] in ("/", "..") or second[:1] == "/":
            self._path(first, strip=False)
        one, two = (side.partition("/")[2] for side in (first, second))
        return self._path(first, strip=True) if one == two and one else None

    def _hunks(self, diff: FileDiff) -> None:
        while match := _HUNK.match(self._peek()):
            self._no_carriage_return(self._peek())
            diff.hunks.append(self._hunk(diff, match))
        if diff.hunks and re.match(r"[+ ]|-(?!- ?$)(?!-- )", self._peek()):
            number = diff.hunks[-1].number
            self._fail(f"{diff.path}, hunk #{number} has more lines than it announces", _DAMAGED)

    def _hunk(self, diff: FileDiff, match: re.Match[str]) -> Hunk:
        number, line = len(diff.hunks) + 1, self._at + 1
        left, right = int(match[2] or 1), int(match[4] or 1)
        old: list[str] = []
        new: list[str] = []
        signs = ""
        self._at += 1
        while len(old) < left or len(new) < right or self._peek().startswith("\\ "):
            if self._at >= len(self._lines):
                self._fail(
                    f"{diff.path}, hunk #{number} ends in the middle: the patch is cut", _DAMAGED
                )
            text = self._peek()
            sign, rest = text[:1] or " ", text[1:] + "\n"
            if sign == "\\":
                self._no_newline(old, new)
            elif sign not in " +-":
                self._fail(f"{diff.path}, hunk #{number}: {text!r} is no line of a hunk", _DAMAGED)
            signs += sign
            if sign in " -":
                old.append(rest)
            if sign in " +":
                new.append(rest)
            self._at += 1
        if self._at == len(self._lines) and not self._whole:
            self._fail(
                f"{diff.path}, hunk #{number}: its last line has no end: the patch is cut", _DAMAGED
            )
        if len(old) != left or len(new) != right:
            self._fail(f"{diff.path}, hunk #{number} has other lines than it announces", _DAMAGED)
        counts = (signs.count("+"), signs.count("-"))
        return Hunk(number, int(match[1]), int(match[3]), tuple(old), tuple(new), line, *counts)

    def _no_newline(self, old: list[str], new: list[str]) -> None:
        sign = self._peek(-1)[:1]
        for lines, signs in ((old, " -"), (new, " +")):
            if lines and sign in signs:
                lines[-1] = lines[-1].removesuffix("\n")
