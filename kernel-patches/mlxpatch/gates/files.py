# SPDX-License-Identifier: GPL-2.0-or-later
"""Gate ``files``: the list, the files and the numbers agree."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlxpatch import mails
from mlxpatch.gates.core import Result
from mlxpatch.series import is_cover, listed

if TYPE_CHECKING:
    from pathlib import Path


def check(folder: Path) -> Result:
    """Compare ``folder/series`` with the patches in the folder.

    Raises:
        Error: the list cannot be read.
    """
    names = [name for _, name in listed(folder)]
    problems = []
    hints = []
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            problems.append(f"{name} is listed {names.count(name)} times")
        if not (folder / name).is_file():
            problems.append(f"{name} is listed, and is not there")
            hints.append(f"take {name} out of 'series', or add the file")
    there = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.patch")
        if "revisions" not in path.relative_to(folder).parts[:1]
    )
    for name in there:
        if name not in names and not is_cover(name):
            problems.append(f"{name} is there, and not listed")
            hints.append(f"list {name} in 'series', or remove the file")
    patches = [name for name in names if not is_cover(name)]
    for position, name in enumerate(patches, start=1):
        number = re.match(r"(?:v\d+-)?(\d{4})-", name.rpartition("/")[2])
        if number and int(number[1]) != position:
            problems.append(
                f"{name} is number {position} in 'series', and {int(number[1])} by name"
            )
    problems += _numbers(folder, patches)
    return Result(f"{len(patches)} patches listed", problems, hint="; ".join(hints))


def _numbers(folder: Path, patches: list[str]) -> list[str]:
    problems = []
    for position, name in enumerate(patches, start=1):
        if not (folder / name).is_file():
            continue
        mail = mails.parse((folder / name).read_bytes())
        if mail.number and mail.number != position:
            problems.append(f"{name} says {mail.number}/{mail.count}, and is number {position}")
    return problems
