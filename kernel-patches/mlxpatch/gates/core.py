# SPDX-License-Identifier: GPL-2.0-or-later
"""What every gate gets and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from genbindings.errors import Error
from mlxpatch.apply import applied
from mlxpatch.gitrepo import Repository, prefix

if TYPE_CHECKING:
    from pathlib import Path

    from mlxpatch.base import Base
    from mlxpatch.progress import Progress
    from mlxpatch.series import Series

Verdict = Literal["ok", "failed", "skipped"]


@dataclass
class Result:
    """What a gate found.

    Attributes:
        summary: one line: what was looked at, or why nothing was.
        problems: what is wrong, one finding each; without any the gate is passed.
        notes: what a person should know, and that is not wrong.
        hint: what to do next.
        skipped: the gate had nothing to look at.
    """

    summary: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hint: str = ""
    skipped: bool = False

    @property
    def verdict(self) -> Verdict:
        """``skipped`` only where nothing was found either."""
        return "failed" if self.problems else "skipped" if self.skipped else "ok"


class Skipped(Exception):  # noqa: N818  # no error: there is nothing to look at
    """A gate cannot say anything; the text says why."""


@dataclass
class Context:
    """What the gates look at.

    Attributes:
        folder: the series' folder, or None for a series that came in another form.
        work: an empty folder that vanishes.
    """

    series: Series
    folder: Path | None
    base: Base
    work: Path
    progress: Progress
    headers: Path | None = None

    def require_applied(self) -> None:
        """Raise :class:`Skipped` unless the series applies, which is a gate of its own."""
        if not self._applies:
            raise Skipped("the series does not apply")

    @cached_property
    def _applies(self) -> bool:
        try:
            applied(self.series, self.base.tree, exact=self.base.exact)
        except Error:
            return False
        return True

    @cached_property
    def exported(self) -> tuple[bytes | None, list[bytes]]:
        """The cover letter (None for a single patch) and the patches, from git format-patch."""
        self.require_applied()
        repository = Repository(self.work / "repository")
        base = repository.start([self.series], self.base.tree)
        repository.am(self.series)
        first = self.series.patches[0]
        many = len(self.series.patches) > 1
        cover = many or self.series.cover is not None
        files = repository.export(base, prefix(first), numbered=first.mail.count > 0, cover=cover)
        return (files[0], files[1:]) if cover else (None, files)
