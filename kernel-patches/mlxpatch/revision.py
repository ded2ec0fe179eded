# SPDX-License-Identifier: GPL-2.0-or-later
"""Freeze a revision of a series, and draft what changed since the one before."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error, UsageError
from mlxpatch import base as bases
from mlxpatch import cache, checksums
from mlxpatch import series as patches
from mlxpatch.gates import checkpatch, files
from mlxpatch.gitrepo import Repository

if TYPE_CHECKING:
    from mlxpatch.progress import Progress
    from mlxpatch.series import Series

_PAIR = re.compile(r"^\s*(\d+|-):\s+\S+\s+([=!<>])\s+(\d+|-):\s+\S+\s(.*)$")
_EXTRA = ("series", "BASE", checkpatch.ALLOW)


@dataclass(frozen=True)
class Frozen:
    """A revision that was frozen now.

    Attributes:
        folder: where it is, ``revisions/vN``.
        changes: the draft of "Changes since", empty for the first revision.
        range_diff: the file with git range-diff's text, or None.
    """

    folder: Path
    changes: str
    range_diff: Path | None


def freeze(folder: Path, given_base: str | None, progress: Progress) -> Frozen:
    """Copy the series in ``folder`` to ``revisions/vN`` with checksums; nothing is half done.

    Raises:
        UsageError: ``folder`` is no series, or nothing says which base it is for.
        Error: it is not consistent, that revision is frozen, or nothing changed since the last.
    """
    series = patches.read(folder)
    found = files.check(folder)
    if found.problems:
        raise Error(f"{folder}: {found.problems[0]}", found.hint)
    previous = _previous(folder)
    number = _number(series, previous, folder)
    changes, text = "", ""
    if previous is not None:
        broken = checksums.differences(previous)
        if broken:
            raise Error(broken[0], "take the frozen files back from version control first")
        old = patches.read(previous)
        if [patch.data for patch in old.patches] == [patch.data for patch in series.patches]:
            raise Error(f"nothing changed since {previous.name}: every patch is the same")
        changes, text = _compare(old, series, given_base, folder, previous.name, progress)
    top = folder / "revisions"
    target = top / f"v{number}"
    made = top.is_dir()
    range_diff = top / f"range-diff-{previous.name}-v{number}.txt" if previous else None
    try:
        with cache.writing(top):
            top.mkdir(exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=top))
            partial.chmod(0o755)
        try:
            with cache.writing(target):
                _copy(series, folder, partial)
                checksums.write(partial)
                if range_diff is not None:
                    range_diff.write_text(text)
                os.rename(partial, target)  # noqa: PTH104  # Path.rename is the same
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            if range_diff is not None:
                range_diff.unlink(missing_ok=True)
            raise
    except BaseException:
        if not made:
            with contextlib.suppress(OSError):
                top.rmdir()
        raise
    return Frozen(target, changes, range_diff)


def draft(range_diff: str, since: str) -> str:
    """Return the "Changes since" section for what git range-diff said; a person completes it."""
    lines = [f"Changes since {since}:"]
    for line in range_diff.split("\n"):
        match = _PAIR.match(line)
        if match is None:
            continue
        old, sign, new, subject = match.groups()
        what = {
            "=": "unchanged",
            "!": "changed: TODO say what and why",
            "<": "dropped: TODO say why",
            ">": "new: TODO say why",
        }[sign]
        if sign in "=!" and old != new:
            what = f"was patch {old}; {what}"
        place = f"{since} patch {old}" if sign == "<" else f"patch {new}"
        lines.append(f"- {place}, {subject}: {what}")
    return "\n".join(lines) + "\n"


def _previous(folder: Path) -> Path | None:
    found = [
        path
        for path in (folder / "revisions").glob("v*")
        if path.is_dir() and re.fullmatch(r"v\d+", path.name)
    ]
    return max(found, key=lambda path: int(path.name[1:]), default=None)


def _number(series: Series, previous: Path | None, folder: Path) -> int:
    """Return the number of the new revision: the one in the subjects, if they have one."""
    last = int(previous.name[1:]) if previous else 0
    versions = {patch.mail.version for patch in series.patches if patch.mail.count}
    if len(versions) > 1:
        raise Error(f"{folder}: the patches' subjects name several versions: {sorted(versions)}")
    if not versions:
        return last + 1
    number = versions.pop()
    if number <= last:
        raise Error(
            f"the patches say v{number}, and v{last} is frozen already",
            f"make the next revision's files with git format-patch -v{last + 1}",
        )
    return number


def _compare(
    old: Series,
    new: Series,
    given_base: str | None,
    folder: Path,
    since: str,
    progress: Progress,
) -> tuple[str, str]:
    both = patches.Series(new.folder, (*old.patches, *new.patches), None, False, new.base_commit)
    with (
        bases.opened(both, given_base, folder, progress) as base,
        cache.scratch("revision") as work,
    ):
        repository = Repository(work / "repository")
        start = repository.start([old, new], base.tree)
        ends = []
        for series in (old, new):
            repository.git("checkout", "-q", "--detach", start)
            try:
                ends.append(repository.commit_all(series))
            except Error as error:
                which = since if series is old else "the present state"
                hint = f"both must apply to {base.name}: give --base with sources where they do"
                raise Error(f"{which}: {error}", hint) from None
        text = repository.range_diff(start, ends[0], ends[1])
    return draft(text, since), text


def _copy(series: Series, folder: Path, target: Path) -> None:
    names = [patch.name for patch in series.patches]
    names += [path.name for path in folder.glob("*.patch") if patches.is_cover(path.name)]
    names += [name for name in _EXTRA if (folder / name).is_file()]
    for name in names:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, place)


def require_folder(folder: Path) -> None:
    """Raise a :class:`UsageError` unless ``folder`` is a series of our own."""
    if patches.own_folder(folder) is None:
        raise UsageError(
            f"{folder} has no file 'series': only a folder can be frozen",
            "run it in the series' folder, or name it",
        )
