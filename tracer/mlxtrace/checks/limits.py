# SPDX-License-Identifier: GPL-2.0-or-later
"""How long an answer may take: one limit for all checks, a share of what a check has in all.

Firmware may take seconds for a command, and a call may wait for several: what is slow is not wrong,
nor does it hang. What holds for all of a process is set once, by ``--check-timeout``.
"""

from __future__ import annotations

from dataclasses import dataclass

SHARE = 5
"""A check that waits in vain has to say so before its own time is over."""


@dataclass
class Limits:
    """The limits of this process.

    Attributes:
        check_s: what a check has, or one round of a check that repeats itself.
    """

    check_s: float = 300.0

    @property
    def answer_s(self) -> float:
        """How long a call, or data that has to come, is waited for.

        By default as long as mlx5_core gives a command of the firmware: a minute.
        """
        return self.check_s / SHARE


limits = Limits()
"""Those that all checks go by."""
