# SPDX-License-Identifier: GPL-2.0-or-later
"""The forms that a series arrives in: folder, mbox, tarball, patch, git range.

Archives are read in memory: nothing in them is ever unpacked to a path that they choose.
"""

from __future__ import annotations

import gzip
import io
import lzma
import re
import shutil
import subprocess
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error, UsageError
from mlxpatch import mails
from mlxpatch.series import assemble, is_cover, make, of_mail, read

if TYPE_CHECKING:
    from mlxpatch.mails import Mail
    from mlxpatch.progress import Progress
    from mlxpatch.series import Patch, Series

# A series of 200 patches with 300 kB each; a small archive that unpacks to more is a bomb.
_LIMIT = 64 << 20
_PATCH = (".patch", ".diff", ".mbox", ".eml")
# Whatever the user's configuration says, the patches look the same.
_FORMAT = (
    *("-c", "diff.noprefix=false", "-c", "diff.mnemonicPrefix=false", "-c", "diff.external="),
    *("-c", "format.signOff=false", "-c", "core.quotePath=true"),
)


def load(spec: str | Path, progress: Progress | None) -> Series:
    """Return the series that ``spec`` names; see :func:`mlxpatch.series.load`."""
    path = Path(spec)
    if path.is_dir():
        return _folder(path)
    if path.exists():
        return _file(path)
    text = str(spec)
    repository, colon, revisions = text.partition(":")
    if colon and Path(repository).is_dir():
        return _range(Path(repository), revisions, progress)
    if ".." in text and "/.." not in text and not text.startswith("../"):
        return _range(Path(), text, progress)
    raise UsageError(
        f"there is no series {text}",
        "give a folder, an mbox, a tarball, a patch, or a git range such as REPO:v1..v2",
    )


def _folder(path: Path) -> Series:
    if (path / "series").is_file():
        return read(path)
    names = sorted(file.name for file in path.iterdir() if file.name.endswith(_PATCH[:2]))
    if not names:
        hint = f"for its commits give {path}:RANGE" if (path / ".git").exists() else ""
        raise UsageError(f"{path} has no file 'series' and no patches", hint)
    return _files(path, {name: (path / name).read_bytes() for name in names})


def _files(where: Path, files: dict[str, bytes]) -> Series:
    """Return the series of patch files: in the order of a ``series`` file, else of their names."""
    listing = next((name for name in files if name.rpartition("/")[2] == "series"), None)
    folder = listing[: -len("series")] if listing else ""
    names = [name for name in sorted(files) if name.endswith(_PATCH)]
    if listing:
        lines = files[listing].decode(errors="replace").splitlines()
        names = [
            f"{folder}{words[0]}" for line in lines if (words := line.partition("#")[0].split())
        ]
    for name in names:
        if name not in files:
            raise Error(
                f"{where}: {listing} lists {name}, which is not there", "take it again whole"
            )
    cover = None
    patches: list[Patch] = []
    for name in names:
        mail = mails.parse(files[name])
        short = name.removeprefix(folder)
        if not mail.diff and (
            is_cover(short.rpartition("/")[2]) or (mail.count and not mail.number)
        ):
            cover = mail
        else:
            patches.append(of_mail(short, mail))
    if not patches:
        raise Error(f"{where} has no patch in it")
    unlisted = [name for name in files if is_cover(name.rpartition("/")[2])]
    if cover is None and unlisted:
        cover = mails.parse(files[unlisted[0]])
    return assemble(where, patches, cover, foreign=True)


def _file(path: Path) -> Series:
    try:
        data = path.read_bytes() if path.stat().st_size <= _LIMIT else b""
    except OSError as error:
        raise Error(f"cannot read {path}: {error.strerror}") from None
    if not data:
        raise Error(f"{path} is empty, or too big for a series of patches")
    if re.search(r"\.(?:tar(?:\.\w+)?|tgz|txz|tbz2?)$", path.name):
        return _files(path, _tarball(path))
    if data[:2] == b"\x1f\x8b" or data[:6] == b"\xfd7zXZ\0":
        data = _unpacked(path, data)
        if data[257:262] == b"ustar":
            return _files(path, _tarball(path))
    # One file of git format-patch is a patch, whatever "n/N" it has.
    if mails.is_mbox(data) and len(mails.split(data)) > 1:
        return _mbox(path, data)
    return assemble(path, [make(path.name, data)], None, foreign=True)


def _unpacked(path: Path, data: bytes) -> bytes:
    try:
        stream = gzip.open if data[:2] == b"\x1f\x8b" else lzma.open
        with stream(io.BytesIO(data)) as file:
            result = file.read(_LIMIT + 1)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise Error(f"{path} is damaged: {error}", "take it again") from None
    if len(result) > _LIMIT:
        raise Error(f"{path} unpacks to more than {_LIMIT >> 20} MiB: that is no patch series")
    return bytes(result)


def _tarball(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    size = 0
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                size += member.size
                if size > _LIMIT:
                    raise Error(f"{path} unpacks to more than {_LIMIT >> 20} MiB: no patch series")
                stream = archive.extractfile(member) if member.isreg() else None
                if stream is not None:
                    files[member.name.removeprefix("./")] = stream.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise Error(f"{path} is damaged: {error}", "take it again") from None
    return files


def _mbox(path: Path, data: bytes, base: str = "") -> Series:
    found = [mails.parse(raw) for raw in mails.split(data)]
    cover, patches = mails.arrange(found, str(path))
    return assemble(path, _named(patches), cover or _b4_cover(path), foreign=True, base=base)


def _named(found: list[Mail]) -> list[Patch]:
    return [
        of_mail(mails.file_name(number, mail.subject), mail)
        for number, mail in enumerate(found, start=1)
    ]


def _b4_cover(path: Path) -> Mail | None:
    """Return the cover letter that b4 am puts beside its .mbx file."""
    beside = path.with_suffix(".cover")
    return mails.parse(beside.read_bytes()) if path.is_file() and beside.is_file() else None


def _range(repository: Path, revisions: str, progress: Progress | None) -> Series:
    if shutil.which("git") is None:
        raise Error("git is missing", "run: apt-get install git (as root)")
    if revisions.startswith("-") or not revisions:
        raise UsageError(f"{revisions!r} is no git range", "give REPO:OLD..NEW")
    where = repository.resolve()
    if progress is not None:
        progress.say(f"taking {revisions} from {where}")
    wanted = revisions if ".." in revisions else f"{revisions}^..{revisions}"
    commits = _git(where, "rev-list", "--reverse", "--no-merges", wanted, "--").split()
    if not commits:
        raise Error(f"{where} has no commit in {revisions}")
    base = _git(where, "rev-parse", "--verify", f"{commits[0]}^").strip()
    text = _git(
        where,
        *(
            *_FORMAT,
            "format-patch",
            "--stdout",
            "--no-signature",
            "--full-index",
            "--no-ext-diff",
            "--no-attach",
        ),
        *("--src-prefix=a/", "--dst-prefix=b/", "--no-textconv", wanted, "--"),
    )
    return _mbox(where, text.encode("utf-8", "surrogateescape"), base)


def _git(repository: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repository), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Error(f"git cannot read {repository}: {said[0] if said else words[0]}")
    return done.stdout.decode("utf-8", "surrogateescape")
