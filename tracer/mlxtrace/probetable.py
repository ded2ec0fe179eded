# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of each probe: shown by ``-v`` and ``--dry-run``, kept in every recording."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlxtrace.catalogue import Probe

ATTACHED = "attached"
ABSENT = "absent"
AVAILABLE = "available"


@dataclass(frozen=True, slots=True)
class ProbeState:
    """One probe's fate.

    Attributes:
        probe: which.
        state: ``attached``, ``absent``, or (with ``--dry-run``) ``available``.
        symbol: the function that it sits on.
        how: the mechanism, ``kprobe`` or ``fentry`` (which has fexit at the return).
        reason: why it is absent; of a kprobe in the place of fentry, why.
    """

    probe: Probe
    state: str
    symbol: str = ""
    how: str = ""
    reason: str = ""

    @classmethod
    def absent(cls, probe: Probe, reason: str) -> ProbeState:
        """The state of a probe that has no place."""
        return cls(probe, ABSENT, symbol=probe.symbols[0], reason=reason)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``meta`` and for a recording."""
        return {
            "name": self.probe.name,
            "state": self.state,
            "symbol": self.symbol,
            "how": self.how,
            "reason": self.reason,
            "required": self.probe.required,
            "loses": self.probe.loses,
        }


def attached(table: Sequence[dict[str, Any]]) -> int:
    """Number of probes in a table of :meth:`ProbeState.to_json` that are attached."""
    return sum(entry["state"] == ATTACHED for entry in table)


def lines(table: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the table for people: a line a probe, and under an absent one what is lost."""
    for entry in table:
        what = entry["reason"]
        if entry["how"]:
            instead = f" ({what})" if what else ""
            what = f"{entry['how']} on {entry['symbol']}{instead}"
        yield f"  {entry['name']:<14} {entry['state']:<9} {what}"
        if entry["state"] == ABSENT:
            yield f"  {'':<14} {'':<9} so {entry['loses']}"
