# SPDX-License-Identifier: GPL-2.0-or-later
"""SHA256SUMS of a folder, as sha256sum writes and checks it."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NAME = "SHA256SUMS"


def write(folder: Path) -> None:
    """Write the checksums of all files below ``folder``."""
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(_present(folder).items()))
    (folder / NAME).write_text(text)


def differences(folder: Path) -> list[str]:
    """Return how the files below ``folder`` differ from its checksums."""
    where = f"{folder.parent.name}/{folder.name}"
    if not (folder / NAME).is_file():
        return [f"{where} has no {NAME}"]
    wanted: dict[str, str] = {}
    for number, line in enumerate((folder / NAME).read_text(errors="replace").splitlines(), 1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if match is None:
            return [f"{where}/{NAME}, line {number} is no checksum"]
        wanted[match[2]] = match[1]
    present = _present(folder)
    problems = [f"{where}/{name} is gone" for name in sorted(wanted.keys() - present.keys())]
    problems += [f"{where}/{name} was added" for name in sorted(present.keys() - wanted.keys())]
    common = sorted(wanted.keys() & present.keys())
    changed = [name for name in common if wanted[name] != present[name]]
    return problems + [f"{where}/{name} was changed" for name in changed]


def _present(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).as_posix() != NAME
    }
