# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of each probe: shown by ``-v`` and ``--dry-run``, kept in every recording.

A table of a recording is somebody's file: it need not have what it should.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlxtrace.units import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlxtrace.catalogue import Probe

ATTACHED = "attached"
ABSENT = "absent"
AVAILABLE = "available"
LEFT_OUT = "left out by --without"
_WIDTH = 99
# What a driver need not have: without it there is none of it to see.
_OF_SOME_DRIVERS = ("precopy-ioctl", "data-size", "buffer-alloc", "buffer-free")


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

    @classmethod
    def left_out(cls, probe: Probe) -> ProbeState:
        """The state of a probe that the user did not want."""
        return cls(probe, ABSENT, reason=LEFT_OUT)

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


def attached(table: Sequence[Mapping[str, Any]]) -> int:
    """Number of probes in a table of :meth:`ProbeState.to_json` that are attached."""
    return sum(entry.get("state") == ATTACHED for entry in table)


def is_none_to_see(entry: Mapping[str, Any]) -> bool:
    """Whether an absent probe is so because the driver has nothing of what it sees."""
    return entry.get("name") in _OF_SOME_DRIVERS and entry.get("reason") != LEFT_OUT


def told(table: Sequence[Mapping[str, Any]], *, verbose: bool) -> Iterator[str]:
    """Yield what goes to stderr beside a trace: what is absent, or with ``verbose`` all."""
    if verbose:
        yield from lines(table)
        return
    for entry in table:
        if entry.get("state") == ABSENT:
            why = " ".join(filter(None, (_text(entry, "symbol"), _text(entry, "reason"))))
            said = f"probe {_text(entry, 'name')} is absent: {why}; so {_text(entry, 'loses')}"
            yield from _wrapped(said, "", "  ")


def lines(table: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the table for people: a line a probe, and under an absent one what is lost."""
    for entry in table:
        what = _text(entry, "reason")
        if how := _text(entry, "how"):
            instead = f" ({what})" if what else ""
            what = f"{how} on {_text(entry, 'symbol')}{instead}"
        yield f"  {_text(entry, 'name'):<14} {_text(entry, 'state'):<9} {what}"
        if entry.get("state") == ABSENT:
            indent = f"  {'':<14} {'':<9} "
            yield from _wrapped(f"so {_text(entry, 'loses')}", indent, indent + "   ")


def _wrapped(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _text(entry: Mapping[str, Any], key: str) -> str:
    return one_line(str(entry.get(key, "")))
