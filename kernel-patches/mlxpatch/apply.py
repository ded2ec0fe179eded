# SPDX-License-Identifier: GPL-2.0-or-later
"""Apply patches strictly: whole lines must match, nothing is guessed, nothing is half done.

Everything is computed in memory and written when all of it is known to fit.
"""

from __future__ import annotations

import contextlib
import hashlib
import stat
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxpatch import cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mlxpatch.series import Patch, Series
    from mlxpatch.udiff import FileDiff, Hunk


class Overlay:
    """A source tree with changes on top that are in memory only."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.files: dict[str, bytes | None] = {}  # changed ones; None is removed
        self.modes: dict[str, str] = {}

    def read(self, path: str) -> bytes | None:
        """Return the content of ``path``, or None if there is no such file.

        Raises:
            Error: it is a link, below a link, or not a plain file.
        """
        if path in self.files:
            return self.files[path]
        here = self.tree
        for part in path.split("/"):
            here = here / part
            try:
                mode = here.lstat().st_mode
            except (FileNotFoundError, NotADirectoryError):
                return None
            if stat.S_ISLNK(mode):
                link = here.relative_to(self.tree)
                raise Error(f"{path}: {link} is a symbolic link, and a patch may not go through it")
        if not stat.S_ISREG(mode):
            raise Error(f"{path} is not a plain file")
        return here.read_bytes()

    def mode(self, path: str) -> str:
        """Return git's mode of ``path``: 100644 or 100755."""
        if path in self.modes:
            return self.modes[path]
        with contextlib.suppress(FileNotFoundError):
            return "100755" if (self.tree / path).stat().st_mode & 0o100 else "100644"
        return "100644"

    def write(self, folder: Path | None = None) -> None:
        """Write the changes below ``folder``, by default the tree itself."""
        target = folder or self.tree
        with cache.writing(target):
            for path, data in self.files.items():
                file = target / path
                if data is None:
                    file.unlink(missing_ok=True)
                    continue
                file.parent.mkdir(parents=True, exist_ok=True)
                # A hard link must not carry the change to another tree.
                file.unlink(missing_ok=True)
                file.write_bytes(data)
                file.chmod(0o755 if self.mode(path) == "100755" else 0o644)


def apply(series: Series, tree: Path) -> set[str]:
    """Apply ``series`` to the source tree ``tree``; return the files it touched.

    Lines may have moved, as git apply allows, but each must match. The tree stays as it is if
    anything does not apply.

    Raises:
        Error: a patch does not apply; the message names it, the file and the hunk.
    """
    overlay = applied(series, tree)
    overlay.write()
    return {path for patch in series.patches for path in patch.files}


def applied(
    series: Series,
    tree: Path,
    *,
    exact: bool = False,
    each: Callable[[Patch, Overlay], None] | None = None,
) -> Overlay:
    """Return ``tree`` with all patches of ``series``, in memory; nothing is written.

    With ``exact`` the positions of hunks and the blobs of ``index`` lines must be those of the
    tree. ``each`` is called after every patch.

    Raises:
        Error: as :func:`apply`.
    """
    overlay = Overlay(tree)
    for patch in series.patches:
        apply_patch(patch, overlay, exact=exact)
        if each is not None:
            each(patch, overlay)
    return overlay


def apply_patch(patch: Patch, overlay: Overlay, *, exact: bool = False) -> None:
    """Apply one patch; ``overlay`` is as it was if it does not fit.

    Raises:
        Error: as :func:`apply`.
    """
    trial = Overlay(overlay.tree)
    trial.files, trial.modes = dict(overlay.files), dict(overlay.modes)
    for diff in patch.diffs:
        try:
            _file(diff, trial, overlay, exact)
        except Error as error:
            raise Error(
                f"patch {patch.name} does not apply: {error}",
                error.hint or "is it the right base, and are the patches before it complete?",
            ) from None
    overlay.files, overlay.modes = trial.files, trial.modes


def _file(diff: FileDiff, trial: Overlay, before: Overlay, exact: bool) -> None:
    # The source of a copy or rename is the file as it was before this patch.
    moved = diff.old is not None and diff.new is not None and diff.old != diff.new
    data = b""
    if diff.old is not None:
        found = (before if moved else trial).read(diff.old)
        if found is None:
            raise Error(f"there is no file {diff.old}")
        data = found
    if diff.new is not None and diff.new != diff.old:
        if trial.read(diff.new) is not None:
            raise Error(f"{diff.new} exists already")
        _parents(diff.new, trial)
    if exact and diff.old is not None and diff.hunks:
        _same_blob(diff, data)
    result = _patched(diff, data, exact)
    if diff.new is None:
        if result:
            raise Error(f"{diff.old} is to be removed, and has lines that the patch does not know")
        trial.files[str(diff.old)] = None
        return
    mode = before.mode(diff.old) if diff.old else "100644"
    trial.files[diff.new] = result
    trial.modes[diff.new] = f"100{diff.new_mode[-3:]}" if diff.new_mode else mode
    if moved and not diff.copied and diff.old:
        trial.files[diff.old] = None


def _parents(path: str, overlay: Overlay) -> None:
    parts = path.split("/")
    for count in range(1, len(parts)):
        parent = "/".join(parts[:count])
        if overlay.files.get(parent) is not None:
            raise Error(f"{path}: {parent} is a file")
        if (overlay.tree / parent).is_file() and parent not in overlay.files:
            raise Error(f"{path}: {parent} is a file")


def blob(data: bytes) -> str:
    """Return git's name of a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _same_blob(diff: FileDiff, data: bytes) -> None:
    name = blob(data)
    if diff.old_blob and not name.startswith(diff.old_blob[:40]):
        raise Error(
            f"{diff.old} is not the file that the patch was made for "
            f"(its index line says {diff.old_blob[:12]}, the file is {name[:12]})",
            "make the series anew on this base with git format-patch",
        )


def _patched(diff: FileDiff, data: bytes, exact: bool) -> bytes:
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    content = [f"{line}\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    result: list[str] = []
    done = 0
    shift = 0
    for hunk in diff.hunks:
        # With no old lines, the position is that of the line before.
        wanted = hunk.old_start - (1 if hunk.old else 0)
        at = _find(content, hunk.old, wanted + shift, done, exact)
        if at is None:
            raise _mismatch(diff, hunk, content, wanted + shift)
        shift = at - wanted
        result += content[done:at]
        result += hunk.new
        done = at + len(hunk.old)
    return "".join(result + content[done:]).encode("utf-8", "surrogateescape")


def _find(
    content: list[str], old: tuple[str, ...], wanted: int, begin: int, exact: bool
) -> int | None:
    last = len(content) - len(old)
    for at in (wanted,) if exact or not old else _nearest(wanted, begin, last):
        if begin <= at <= last and tuple(content[at : at + len(old)]) == old:
            return at
    return None


def _nearest(wanted: int, begin: int, last: int) -> Iterable[int]:
    yield wanted
    for distance in range(1, max(wanted - begin, last - wanted) + 1):
        yield wanted - distance
        yield wanted + distance


def _mismatch(diff: FileDiff, hunk: Hunk, content: list[str], at: int) -> Error:
    where = f"{diff.old}, hunk #{hunk.number} at line {hunk.old_start}"
    if hunk.new and _find(content, hunk.new, hunk.new_start - 1, 0, exact=False) is not None:
        return Error(
            f"{diff.old} has this change already (hunk #{hunk.number})",
            "leave the patch out of the series, or take a base without it",
        )
    for offset, expected in enumerate(hunk.old):
        have = content[at + offset] if 0 <= at + offset < len(content) else None
        if have != expected:
            found = "past the end of the file" if have is None else repr(have.rstrip("\n"))
            blank = have is not None and have.split() == expected.split()
            note = " (only white space differs)" if blank else ""
            what = f"line {at + offset + 1} is {found}, not {expected.rstrip(chr(10))!r}{note}"
            return Error(f"{where}: {what}")
    return Error(f"{where}: its lines are elsewhere in the file")
