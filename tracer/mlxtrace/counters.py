# SPDX-License-Identifier: GPL-2.0-or-later
"""The counters that the BPF program keeps, and what they say about losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlxtrace.catalogue import NUMBERS, RETURNING

LOST = 0
UNTRACKED = 1
FIRST_PROBE = 2
COUNT = FIRST_PROBE + 2 * len(NUMBERS)
"""Slots of the program's array: the two above, then entries and returns of each probe."""


@dataclass(slots=True)
class ProbeCounts:
    """What happened at one probe.

    Attributes:
        entries: calls whose entry was seen.
        returns: calls whose return was seen as well.
        open: calls that had not returned when tracing ended.
        skipped: runs of its programs that the kernel skipped, by its own count; None where the
            kernel does not count them (before 6.7 those of kprobes).
    """

    entries: int = 0
    returns: int = 0
    open: int = 0
    skipped: int | None = None


@dataclass(slots=True)
class Counters:
    """The losses of a trace, in the ways that one can happen.

    Attributes:
        lost_records: the ring was full.
        untracked: a map of the program was full.
        unowned: calls on data files whose VF is not known, by PID; None in a recording from before
            they were counted.
        probes: counts by the name of the probe.
    """

    lost_records: int = 0
    untracked: int = 0
    unowned: dict[int, int] | None = field(default_factory=dict)
    probes: dict[str, ProbeCounts] = field(default_factory=dict)

    @property
    def missed_returns(self) -> int:
        """Calls whose return the kernel did not report, though they did return."""
        return sum(
            max(0, counts.entries - counts.returns - counts.open)
            for name, counts in self.probes.items()
            if name in RETURNING
        )

    @property
    def skipped(self) -> int | None:
        """Runs that the kernel skipped, or None where that is not known.

        A kernel that counts those of some probes only gives what it counted, unless that is none.
        """
        counted = [c.skipped for c in self.probes.values() if c.skipped is not None]
        all_counted = bool(counted) and len(counted) == len(self.probes)
        return sum(counted) if all_counted or any(counted) else None

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a recording."""
        return {
            "lost_records": self.lost_records,
            "untracked": self.untracked,
            "unowned": self.unowned,
            "probes": {
                name: {
                    "entries": c.entries,
                    "returns": c.returns,
                    "open": c.open,
                    "skipped": c.skipped,
                }
                for name, c in self.probes.items()
            },
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Counters:
        """Return the counters of :meth:`to_json`.

        Raises:
            AttributeError, TypeError, ValueError: ``data`` is something else.
        """
        probes = {name: ProbeCounts(**value) for name, value in data.get("probes", {}).items()}
        for counts in probes.values():
            for number in (counts.entries, counts.returns, counts.open):
                _check(number)
            if counts.skipped is not None:
                _check(counts.skipped)
        return cls(
            lost_records=_check(data.get("lost_records", 0)),
            untracked=_check(data.get("untracked", 0)),
            unowned=_by_process(data.get("unowned")),
            probes=probes,
        )


def _by_process(data: dict[str, Any] | None) -> dict[int, int] | None:
    # A key of JSON is a text.
    return None if data is None else {int(pid): _check(n) for pid, n in data.items()}


def _check(number: object) -> int:
    if type(number) is not int:
        raise ValueError(f"{number!r} is no count")
    return number
