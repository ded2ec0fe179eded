# SPDX-License-Identifier: GPL-2.0-or-later
"""A patch series as quilt keeps it: a folder with a file ``series`` that names patches in order."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.errors import Error, UsageError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Series:
    """The patches of a series, in order."""

    folder: Path
    patches: tuple[Path, ...]

    def digest(self) -> str:
        """Return a hash of the patches' names and text."""
        key = hashlib.sha256()
        for patch in self.patches:
            key.update(f"{patch.relative_to(self.folder)}\0".encode())
            key.update(hashlib.sha256(patch.read_bytes()).digest())
        return key.hexdigest()


def read(folder: Path) -> Series:
    """Return the series in ``folder``.

    Raises:
        UsageError: there is none.
        Error: it names a patch that is not there, or one that is not to be applied with ``-p1``.
    """
    listing = folder / "series"
    if not listing.is_file():
        raise UsageError(f"{folder} has no file 'series' that lists the patches in order")
    patches = []
    for number, line in enumerate(listing.read_text(errors="replace").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"{listing}, line {number}"
        if words[1:] not in ([], ["-p1"]):
            raise Error(f"{where}: {words[0]} asks for {' '.join(words[1:])}; only -p1 is known")
        patch = folder / words[0]
        if not patch.is_file():
            raise Error(f"{where}: there is no patch {words[0]}")
        patches.append(patch)
    if not patches:
        raise Error(f"{listing} names no patch")
    return Series(folder, tuple(patches))


def apply(series: Series, tree: Path) -> set[str]:
    """Apply ``series`` to the source tree ``tree``, without fuzz; return the files it touched.

    The tree is not restored if a patch does not apply.

    Raises:
        Error: a patch does not apply; the message names it, the file and the hunk.
    """
    if shutil.which("patch") is None:
        raise Error("patch is missing", "run: apt-get install patch (as root)")
    touched: set[str] = set()
    for patch in series.patches:
        touched |= _apply(patch, patch.relative_to(series.folder), tree)
    return touched


def _apply(patch: Path, name: Path, tree: Path) -> set[str]:
    command = ["patch", "-p1", "--fuzz=0", "--batch", "--forward", "--no-backup-if-mismatch"]
    done = subprocess.run(
        [*command, "--reject-file=-", f"--directory={tree}", f"--input={patch.resolve()}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},
    )
    files = re.findall(r"^patching file '?(.+?)'?(?: \(.*\))?$", done.stdout, re.MULTILINE)
    moved = re.findall(r"\((?:renamed|copied) from '?(.+?)'?\)$", done.stdout, re.MULTILINE)
    if done.returncode != 0:
        raise Error(f"patch {name} does not apply: {_reason(done.stdout + done.stderr)}")
    if not files:
        raise Error(f"patch {name} changes nothing: is it a patch?")
    return {*files, *moved}


def _reason(said: str) -> str:
    """Return what patch(1) found wrong, with the file that it was at."""
    file = ""
    for line in said.splitlines():
        here = re.match(r"(?:patching|checking) file '?(.+?)'?(?: \(.*\))?$", line)
        file = here[1] if here else file
        failed = re.match(r"Hunk (#\d+) FAILED at (\d+)", line)
        if failed:
            return f"{file}, hunk {failed[1]} at line {failed[2]}"
        if line.startswith("Reversed (or previously applied) patch detected"):
            return f"{file} has this change already"
        if re.match(r"can't find file to patch|No file to patch", line):
            wanted = re.search(r"^\|\+\+\+ (?:b/)?(\S+)", said, re.MULTILINE)
            return f"there is no file {wanted[1]}" if wanted else line
        exists = re.match(r"The next patch would create the file (.+),", line)
        if exists:
            return f"{exists[1]} exists already"
        if "malformed patch" in line or "Only garbage" in line:
            return line.strip()
    lines = said.strip().splitlines()
    return lines[-1] if lines else "patch(1) failed"
