# SPDX-License-Identifier: GPL-2.0-or-later
"""The results of several columns, rule by rule: what differs, the totals, the exit status."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlxlab.matrix import records

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlxlab.matrix.keep import Ran
    from mlxlab.matrix.records import Check

DONE = 0
FAILED = 1
INCOMPLETE = 3

# Of several results of one rule the first of these is the rule's, as validate itself counts.
_WEIGHT = (
    records.FAILED,
    records.KNOWN,
    records.PASSED,
    records.NOT_OFFERED,
    records.NOT_RUN,
)
# What a rule that held may have become.
_LOST = (records.FAILED, records.KNOWN, records.NOT_OFFERED)
# A rule that was never reached, in a column that did not run to its end.
MISSING = "missing"
# One that is not in a column that did: it was run with other options, or by another mlxtrace.
NOT_ASKED = "not asked"
BROKEN = "broken"
MENDED = "mended"


@dataclass(frozen=True)
class Cell:
    """A rule's result in one column.

    Attributes:
        status: of its checks, the one that weighs most, or :data:`MISSING` or :data:`NOT_ASKED`.
        checks: all of them: a rule may have several, and ``--repeat`` makes more.
        change: :data:`BROKEN` if it held before and fails here, known or not, or is not offered any
            more; :data:`MENDED` if it failed before and holds; else empty. Before is the nearest
            column on the left that has a result.
    """

    status: str
    checks: tuple[Check, ...]
    change: str = ""

    @property
    def worst(self) -> tuple[Check, ...]:
        """The checks that made it what it is."""
        return tuple(check for check in self.checks if check.status == self.status)

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        first = self.worst[0] if self.worst else None
        return {
            "status": self.status,
            "change": self.change,
            "checks": len(self.checks),
            "so": len(self.worst),
            "reason": first.reason if first else "",
            "known": first.known if first else "",
            "steps": list(first.steps) if first else [],
        }


@dataclass(frozen=True)
class Row:
    """A rule, with a cell for each column."""

    id: str
    level: str
    rule: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Comparison:
    """The columns and the rows of a matrix."""

    columns: tuple[Ran, ...]
    rows: tuple[Row, ...]

    @property
    def status(self) -> int:
        """The exit status: a column that is not complete weighs more than one that failed."""
        if not all(ran.complete for ran in self.columns):
            return INCOMPLETE
        return FAILED if any(ran.failed for ran in self.columns) else DONE

    def totals(self, number: int) -> dict[str, int]:
        """Return how many rules of column ``number`` have which status, failures by level."""
        counts: Counter[str] = Counter()
        for row in self.rows:
            status = row.cells[number].status
            counts[f"failed {_level(row.level)}" if status == records.FAILED else status] += 1
        return {name: counts[name] for name in TOTALS}

    def changes(self, number: int) -> tuple[list[Row], list[Row]]:
        """Return the rules that column ``number`` breaks, and those that it mends."""
        found: dict[str, list[Row]] = {BROKEN: [], MENDED: [], "": []}
        for row in self.rows:
            found[row.cells[number].change].append(row)
        return found[BROKEN], found[MENDED]

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            "columns": [
                {**ran.document(), "totals": self.totals(number)}
                for number, ran in enumerate(self.columns)
            ],
            "rules": [
                {
                    "id": row.id,
                    "level": row.level,
                    "rule": row.rule,
                    "results": [cell.document() for cell in row.cells],
                }
                for row in self.rows
            ],
            "exit_status": self.status,
        }


TOTALS = (
    records.PASSED,
    "failed must",
    "failed should",
    "failed driver",
    records.KNOWN,
    records.NOT_OFFERED,
    records.NOT_RUN,
    MISSING,
    NOT_ASKED,
)


def compare(columns: Sequence[Ran]) -> Comparison:
    """Put ``columns`` side by side; rules are in the order of their identifiers."""
    by_column = [_by_rule(ran.records.checks) for ran in columns]
    first = {check.id: check for ran in reversed(columns) for check in reversed(ran.records.checks)}
    rows = []
    for name in sorted(first, key=_order):
        cells = [
            _cell(found.get(name, []), NOT_ASKED if ran.complete else MISSING)
            for ran, found in zip(columns, by_column, strict=True)
        ]
        rows.append(Row(name, first[name].level, first[name].rule, _with_changes(cells)))
    return Comparison(tuple(columns), tuple(rows))


def _by_rule(checks: Iterable[Check]) -> dict[str, list[Check]]:
    found: dict[str, list[Check]] = {}
    for check in checks:
        found.setdefault(check.id, []).append(check)
    return found


def _cell(checks: Sequence[Check], otherwise: str) -> Cell:
    there = {check.status for check in checks}
    status = next((status for status in _WEIGHT if status in there), otherwise)
    return Cell(status, tuple(checks))


def _with_changes(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    changed = []
    before = ""
    for cell in cells:
        change = ""
        if cell.status in _LOST and before == records.PASSED:
            change = BROKEN
        elif cell.status == records.PASSED and before in (records.FAILED, records.KNOWN):
            change = MENDED
        if cell.status not in (MISSING, NOT_ASKED, records.NOT_RUN):
            before = cell.status
        changed.append(Cell(cell.status, cell.checks, change))
    return tuple(changed)


def _order(name: str) -> tuple[str | int, ...]:
    """Sort C2 before C10: words and numbers take turns, beginning with a word."""
    parts = re.split(r"(\d+)", name)
    return tuple(int(part) if number % 2 else part for number, part in enumerate(parts))


def _level(level: str) -> str:
    return "driver" if level.startswith("driver") else level
