# SPDX-License-Identifier: GPL-2.0-or-later
"""Gate ``frozen``: what was sent stays as it was sent."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlxpatch import checksums
from mlxpatch.gates.core import Result, Skipped

if TYPE_CHECKING:
    from mlxpatch.gates.core import Context


def check(context: Context) -> Result:
    """Compare every frozen revision with its checksums.

    Raises:
        Skipped: nothing is frozen.
    """
    top = context.folder / "revisions" if context.folder else None
    if top is None or not top.is_dir():
        raise Skipped("nothing is frozen")
    folders = [path for path in top.iterdir() if path.is_dir() and re.fullmatch(r"v\d+", path.name)]
    folders.sort(key=lambda path: int(path.name[1:]))
    problems = [problem for folder in folders for problem in checksums.differences(folder)]
    problems += [
        f"revisions/{path.name} is no revision"
        for path in sorted(top.iterdir())
        if path.is_dir() and path not in folders
    ]
    hint = "take the files back from version control; a change belongs in a new revision"
    return Result(f"{len(folders)} revisions", problems, hint=hint if problems else "")
