# SPDX-License-Identifier: GPL-2.0-or-later
"""How much may come of a stream before its end: a driver may give the same bytes for ever.

What a check reads it holds in memory. The driver's own estimate of a state, taken before any check,
says what is far too much; where it gives none, only the host's memory does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genbindings.errors import Error
from mlxtrace.checks.core import DeviationError

MEMINFO = Path("/proc/meminfo")
TIMES = 16
"""Estimates may be wrong and states grow, and a busy device goes on while it is read."""


@dataclass
class Amounts:
    """What is known of the amounts in this process.

    Attributes:
        state_bytes: how large the driver estimated a state before any check; 0: it is not known.
        slack_bytes: what is never too much, and how often is looked after that.
    """

    state_bytes: int = 0
    slack_bytes: int = 64 << 20


amounts = Amounts()
"""Those that all checks go by."""


class Watch:
    """Looks at how much has come, now and then."""

    def __init__(self) -> None:
        self._next = amounts.slack_bytes

    def look(self, count: int) -> None:
        """Take note of ``count`` bytes that are held and no end yet.

        Raises:
            DeviationError: there will be none.
            Error: this host has not the memory to find out.
        """
        if count < self._next:
            return
        self._next = count + amounts.slack_bytes
        state = amounts.state_bytes
        if state and count > amounts.slack_bytes + TIMES * state:
            raise DeviationError(
                f"{count} bytes and no end, of a state of {state} bytes by the driver's estimate; "
                "the rule wants an end"
            )
        # A copy is made of it at the end: beyond this there would be no room for that.
        if count <= _free_bytes():
            return
        if state:
            raise Error(
                f"{count} bytes of a state fill this host's memory, and there is no end yet",
                f"the driver estimates a state at {state} bytes: give the host more memory",
            )
        raise DeviationError(
            f"{count} bytes and no end, half of the memory that was free; the rule wants an end"
        )


def _free_bytes() -> int:
    """Return how much memory there is for programs, without swap."""
    for line in MEMINFO.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 1 << 62
