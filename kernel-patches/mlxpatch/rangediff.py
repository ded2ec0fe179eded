# SPDX-License-Identifier: GPL-2.0-or-later
"""Two revisions of a series, patch by patch: git range-diff on a repository made for it."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlxpatch.gitrepo import Repository

if TYPE_CHECKING:
    from mlxpatch.series import Series

Kind = Literal["same", "changed", "removed", "added"]
_KINDS: dict[str, Kind] = {"=": "same", "!": "changed", "<": "removed", ">": "added"}
_LINE = re.compile(r"\s*(\d+|-):\s+\S+ ([=!<>])\s+(\d+|-):\s+\S+ (.*)")


@dataclass(frozen=True)
class Pair:
    """A patch of the old revision and its counterpart; ``old`` and ``new`` count from 1."""

    kind: Kind
    old: int | None
    new: int | None
    subject: str
    diff: str  # of the patches, where they differ


def compare(base: Path, old: Series, new: Series) -> list[Pair]:
    """Return how the patches of ``old`` and ``new``, both for the tree ``base``, go together.

    Raises:
        Error: git is missing, or a patch does not apply.
    """
    if not old.patches or not new.patches:
        # git range-diff takes no empty range.
        return [
            *(
                Pair("removed", at, None, each.subject, "")
                for at, each in enumerate(old.patches, 1)
            ),
            *(Pair("added", None, at, each.subject, "") for at, each in enumerate(new.patches, 1)),
        ]
    with tempfile.TemporaryDirectory(prefix="mlxpatch-") as name:
        repository = Repository(Path(name) / "compare")
        start = repository.start((old, new), base)
        last = repository.commit_all(old)
        repository.git("checkout", "-q", "--detach", start)
        said = repository.range_diff(start, last, repository.commit_all(new))
    return _pairs(said)


def _pairs(said: str) -> list[Pair]:
    found: list[Pair] = []
    diffs: list[list[str]] = []
    for line in said.splitlines():
        match = _LINE.fullmatch(line)
        if match:
            old, sign, new, subject = match.groups()
            found.append(Pair(_KINDS[sign], _number(old), _number(new), subject, ""))
            diffs.append([])
        elif found:
            diffs[-1].append(line.removeprefix("    "))
    return [
        Pair(pair.kind, pair.old, pair.new, pair.subject, "\n".join(lines))
        for pair, lines in zip(found, diffs, strict=True)
    ]


def _number(text: str) -> int | None:
    return None if text == "-" else int(text)
