# SPDX-License-Identifier: GPL-2.0-or-later
"""A patch series: a folder as quilt keeps it, or whatever :func:`load` can make one of."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error, UsageError
from mlxpatch import mails, udiff
from mlxpatch.apply import applied, apply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlxpatch.mails import Mail
    from mlxpatch.progress import Progress
    from mlxpatch.udiff import FileDiff

__all__ = ["COVER", "Patch", "Series", "applied", "apply", "load", "own_folder", "read", "write"]

COVER = "0000-cover-letter.patch"
_STAT = re.compile(
    r"^ (\d+) files? changed(?:, (\d+) insertions?\(\+\))?(?:, (\d+) deletions?\(-\))?$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Patch:
    """One patch of a series.

    Attributes:
        name: its file, relative to the series' folder.
        data: the file's content.
        mail: subject, author, message and so on.
        diffs: what it does, file by file.
    """

    name: str
    data: bytes
    mail: Mail
    diffs: tuple[FileDiff, ...]

    @property
    def subject(self) -> str:
        """The subject, without ``[PATCH ...]``."""
        return self.mail.subject

    @property
    def author(self) -> str:
        """``Name <address>``."""
        return self.mail.author

    @property
    def body(self) -> str:
        """The commit message without the subject."""
        return self.mail.body

    @property
    def diff(self) -> str:
        """The text of the diff."""
        return self.mail.diff

    @property
    def files(self) -> tuple[str, ...]:
        """Every path that it reads or writes, in order."""
        return tuple(dict.fromkeys(path for diff in self.diffs for path in diff.paths))


@dataclass(frozen=True)
class Series:
    """The patches of a series, in order.

    Attributes:
        folder: where its files are; for an mbox, a tarball or a git range, that file or
            repository, or the ``workdir`` that :func:`load` wrote the patches to.
        patches: in the order in which they are applied.
        cover: the cover letter, if there is one.
        foreign: it is no folder with a ``series`` file.
        base_commit: of its ``base-commit:`` line or of the git range, else empty.
    """

    folder: Path
    patches: tuple[Patch, ...]
    cover: Mail | None = None
    foreign: bool = False
    base_commit: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """Every path that the series touches, sorted."""
        return tuple(sorted({path for patch in self.patches for path in patch.files}))

    def digest(self) -> str:
        """Return a hash of the patches' names and text."""
        key = hashlib.sha256()
        for patch in self.patches:
            key.update(f"{patch.name}\0".encode())
            key.update(hashlib.sha256(patch.data).digest())
        return key.hexdigest()


def load(spec: str | Path, progress: Progress | None = None, workdir: Path | None = None) -> Series:
    """Return the series that ``spec`` names.

    It is a folder with a ``series`` file or of git format-patch's files, an mbox (git's or b4's,
    gzip allowed), a tarball of patches, a single patch, or a git range: ``REPO:RANGE``, or
    ``RANGE`` in the current folder. With ``workdir`` a series that is no folder is also written
    there, a file for each patch and the file ``series``.

    Raises:
        UsageError: ``spec`` is nothing of that.
        Error: it is damaged or not complete; the patch and what to do are named.
    """
    from mlxpatch import sources  # which builds on this module

    series = sources.load(spec, progress)
    if workdir is None or not series.foreign:
        return series
    write(series, workdir)
    return Series(workdir, series.patches, series.cover, series.foreign, series.base_commit)


def own_folder(spec: str | Path) -> Path | None:
    """Return ``spec`` if it is a folder with a ``series`` file: one that is kept, not received."""
    folder = Path(spec)
    return folder if (folder / "series").is_file() else None


def read(folder: Path) -> Series:
    """Return the series in ``folder``, which has a file ``series``.

    Raises:
        UsageError: there is none.
        Error: it names a patch that is not there, or one that is damaged or not for ``-p1``.
    """
    listing = folder / "series"
    if not listing.is_file():
        raise UsageError(f"{folder} has no file 'series' that lists the patches in order")
    patches = []
    for number, name in listed(folder):
        file = folder / name
        if not file.is_file():
            raise Error(
                f"{listing}, line {number}: there is no patch {name}",
                f"add the file to {folder}, or take the line out",
            )
        if not is_cover(name):
            patches.append(make(name, file.read_bytes()))
    if not patches:
        raise Error(f"{listing} names no patch")
    letter = next((file for file in sorted(folder.glob("*.patch")) if is_cover(file.name)), None)
    cover = mails.parse(letter.read_bytes()) if letter else None
    return assemble(folder, patches, cover, foreign=False)


def is_cover(name: str) -> bool:
    """Return whether git format-patch would name a cover letter so."""
    return re.fullmatch(r"(?:v\d+-)?" + re.escape(COVER), name) is not None


def listed(folder: Path) -> list[tuple[int, str]]:
    """Return the line number and name of each patch that the ``series`` file lists.

    Raises:
        Error: a line asks for something other than ``-p1``, or names a path outside.
    """
    listing = folder / "series"
    found = []
    for number, line in enumerate(listing.read_text(errors="replace").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"{listing}, line {number}"
        if words[1:] not in ([], ["-p1"]):
            raise Error(f"{where}: {words[0]} asks for {' '.join(words[1:])}; only -p1 is known")
        why = udiff.bad_path(words[0])
        if why:
            raise Error(f"{where}: the path {words[0]!r} is refused: {why}")
        found.append((number, words[0]))
    return found


def make(name: str, data: bytes) -> Patch:
    """Return the patch in ``data``.

    Raises:
        Error: it is damaged, has no diff, or leads out of the tree.
    """
    return of_mail(name, mails.parse(data))


def of_mail(name: str, mail: Mail) -> Patch:
    """Return the patch in ``mail``; raises as :func:`make`."""
    offset = mail.raw.decode("utf-8", "surrogateescape").find(mail.diff) if mail.diff else 0
    # Line numbers in messages are those of the file.
    before = mail.raw[: max(offset, 0)].count(b"\n")
    diffs = udiff.parse("\n" * before + mail.diff, name)
    if not diffs:
        raise Error(
            f"patch {name} does not apply: only garbage, there is no diff in it",
            "is it the whole patch, as text?",
        )
    _check_whole(name, mail, diffs)
    return Patch(name, mail.raw, mail, tuple(diffs))


def _check_whole(name: str, mail: Mail, diffs: Sequence[FileDiff]) -> None:
    """Raise an :class:`Error` if the end of the diff is missing, by the diffstat before it.

    A diffstat that is merely stale is no reason: the signature that git puts below the diff, if it
    is there, shows that nothing is missing.
    """
    stat = _STAT.search(mail.notes)
    if stat is None or re.search(r"^-- ?$", mail.diff, re.MULTILINE):
        return
    hunks = [hunk for diff in diffs for hunk in diff.hunks]
    have = (len(diffs), sum(hunk.added for hunk in hunks), sum(hunk.removed for hunk in hunks))
    wanted = [int(count or 0) for count in stat.groups()]
    if any(count < announced for count, announced in zip(have, wanted, strict=True)) and all(
        count <= announced for count, announced in zip(have, wanted, strict=True)
    ):
        raise Error(
            f"patch {name} is cut: it has {have[0]} files, +{have[1]} -{have[2]} lines, and its "
            f"diffstat {wanted[0]} files, +{wanted[1]} -{wanted[2]}",
            "take it again whole; or correct the diffstat if it was edited by hand",
        )


def assemble(
    folder: Path, patches: list[Patch], cover: Mail | None, *, foreign: bool, base: str = ""
) -> Series:
    """Return the series of ``patches``; the base commit is taken from them if not given."""
    texts = ([cover] if cover else []) + [patch.mail for patch in patches]
    base = base or next((mail.base_commit for mail in texts if mail.base_commit), "")
    return Series(folder, tuple(patches), cover, foreign, base)


def write(series: Series, folder: Path) -> None:
    """Write the patches, the cover letter and the list of ``series`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, patch in enumerate(series.patches, start=1):
        # A name from a tarball may be a path.
        name = re.sub(r"[^A-Za-z0-9._+-]", "-", patch.name.rpartition("/")[2]).lstrip("-.")
        name = name or f"{number:04d}.patch"
        if name in names:
            name = f"{number:04d}-{name}"
        (folder / name).write_bytes(patch.data)
        names.append(name)
    if series.cover:
        (folder / COVER).write_bytes(series.cover.raw)
    (folder / "series").write_text("".join(f"{name}\n" for name in names))
