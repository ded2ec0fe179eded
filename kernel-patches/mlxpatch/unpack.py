# SPDX-License-Identifier: GPL-2.0-or-later
"""Take a part of a kernel source tree out of a package or a tarball.

What is wanted and not there is left out: a series may add files.
"""

from __future__ import annotations

import lzma
import shutil
import subprocess
import tarfile
import zlib
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxpatch import cache
from mlxpatch.udiff import bad_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_ABSENT = ("Not found in archive", "Exiting with failure status due to previous errors")


def from_package(deb: Path, top: str, parts: Sequence[str], target: Path) -> None:
    """Unpack ``parts`` of the tarball ``usr/src/TOP.tar.xz`` in Debian's package ``deb``.

    Raises:
        Error: the package is damaged, or none of the parts is in it.
    """
    if shutil.which("dpkg-deb") is None:
        raise Error(f"cannot unpack {deb.name}: dpkg-deb is missing", "give an unpacked tree")
    members = [f"{top}/{part}" for part in dict.fromkeys(parts)]
    with (
        subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as package,
        subprocess.Popen(
            ["tar", "-xO", f"./usr/src/{top}.tar.xz"],
            stdin=package.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as tarball,
        subprocess.Popen(
            ["tar", "-xJ", "--strip-components=1", "-C", target, "--", *members],
            stdin=tarball.stdout,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        ) as tree,
    ):
        # Only the readers may hold the pipes, or a writer never learns that its reader died.
        for process in (package, tarball):
            if process.stdout:
                process.stdout.close()
        said = tree.communicate()[1].strip().splitlines()
    serious = [line for line in said if not any(text in line for text in _ABSENT)]
    if serious or not any(target.iterdir()):
        raise Error(f"cannot unpack {deb.name}: {serious[-1] if serious else f'it has no {top}'}")


def from_tarball(archive: Path, parts: Sequence[str], target: Path, *, strip: int = 1) -> None:
    """Unpack the plain files of ``parts`` (all of them if empty) from a tarball of a tree.

    Links and devices are left out, and a path that leads out of ``target`` is refused.

    Raises:
        Error: the archive is damaged, or has nothing of it.
    """
    wanted = tuple(parts)
    folders = tuple(f"{part}/" for part in parts)
    found = False
    try:
        with tarfile.open(archive) as stream, cache.writing(target):
            for member in stream:
                path = "/".join(member.name.removeprefix("./").split("/")[strip:])
                if not member.isreg() or (
                    wanted and path not in wanted and not path.startswith(folders)
                ):
                    continue
                why = bad_path(path)
                content = stream.extractfile(member)
                if why or content is None:
                    raise Error(f"{archive.name}: {member.name!r} is refused: {why}")
                file = target / path
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("wb") as out:
                    shutil.copyfileobj(content, out)
                file.chmod(0o755 if member.mode & 0o100 else 0o644)
                found = True
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise Error(f"{archive} is damaged: {error}", "is it a tarball of a kernel tree?") from None
    if not found:
        raise Error(f"{archive} has none of the files that the series needs")
