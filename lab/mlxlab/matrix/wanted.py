# SPDX-License-Identifier: GPL-2.0-or-later
"""Which rules of a result from elsewhere are compared: those that --only and --level choose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlxlab.matrix.records import Check, Records

_LEVELS = ("must", "should", "driver")
CHOOSING = ("--only", "--level")
"""Those of validate's options that choose rules; each has a value."""


@dataclass(frozen=True)
class Wanted:
    """What validate's options choose, as it would itself.

    Attributes:
        only: identifiers, where a statement (``C31``) stands for all its checks; empty: all.
        level: only rules that bind at least so much.
    """

    only: frozenset[str] = frozenset()
    level: str = _LEVELS[-1]

    @classmethod
    def of(cls, options: Sequence[str]) -> Wanted:
        """Return what ``options`` choose, which validate has looked at."""
        only: set[str] = set()
        level = _LEVELS[-1]
        for option, value in pairwise(options):
            if option == "--only":
                words = (word.strip() for word in value.split(","))
                only |= {word[:1].upper() + word[1:] for word in words if word}
            elif option == "--level":
                level = value
        return cls(frozenset(only), level)

    def takes(self, check: Check) -> bool:
        """Tell whether ``check`` is chosen."""
        levels = _LEVELS[: _LEVELS.index(self.level) + 1]
        binding = self.level == _LEVELS[-1] or check.level in levels
        names = {check.id, check.id.partition(".")[0]}
        return binding and (not self.only or bool(names & self.only))

    def of_records(self, records: Records) -> Records:
        """Return ``records`` with the checks that are chosen, and no others."""
        return replace(records, checks=[check for check in records.checks if self.takes(check)])
