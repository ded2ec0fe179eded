# SPDX-License-Identifier: GPL-2.0-or-later
"""Times that are known by their power of two only, and what can be said of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxtrace.records import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Sequence


class Buckets:
    """Adds up how many calls took from 2^i to 2^(i+1) - 1 ns; the longest is known exactly."""

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self._longest_ns = 0

    @property
    def calls(self) -> int:
        """How many calls there were."""
        return sum(self._counts)

    def add(self, counts: Sequence[int]) -> None:
        """Count calls by their power of two; trailing zeros may be left out."""
        for power, number in enumerate(counts[:BUCKETS]):
            self._counts[power] += number

    def saw(self, longest_ns: int) -> None:
        """The longest one took so long, or an earlier one longer."""
        self._longest_ns = max(self._longest_ns, longest_ns)

    def spread(self, prefix: str) -> dict[str, int | None]:
        """Return the keys ``PREFIX_p50_ns``, ``PREFIX_p99_ns`` and ``PREFIX_max_ns`` of a summary.

        The first two are upper bounds: what the slowest of the bucket may have taken.
        """
        return {
            f"{prefix}_p50_ns": self._bound(50),
            f"{prefix}_p99_ns": self._bound(99),
            f"{prefix}_max_ns": self._longest_ns if self.calls else None,
        }

    def _bound(self, percent: int) -> int | None:
        left = -(-self.calls * percent // 100)
        if not left:
            return None
        for power, number in enumerate(self._counts):
            left -= number
            # The last bucket has all that is longer.
            if left <= 0 and power < BUCKETS - 1:
                return min((2 << power) - 1, self._longest_ns)
        return self._longest_ns
