# SPDX-License-Identifier: GPL-2.0-or-later
"""The sum of a stream's content, by which two sides see whether the same went through them.

One byte in each ``STEP_BYTES`` of the stream is looked at, with its place. What is added up does
not depend on the calls that moved the bytes. So bytes that were lost, swapped, or moved to another
place show; a few that changed may not.
"""

from __future__ import annotations

from dataclasses import dataclass

STEP_BYTES = 512
SAMPLES_A_CALL = 4096
"""At most so many are looked at in one call; what is beyond them in a longer one is missed."""
FACTOR = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio: multiplying by it spreads neighbours over all values."""
SHIFT = 12
"""The low bits of a product are the poorest; what is left fits the integers of any JSON reader."""
MODULUS = 1 << (64 - SHIFT)

_WORD = (1 << 64) - 1


def content_sum(data: bytes, begin: int = 0) -> tuple[int, int]:
    """Return the sum of ``data``, at offset ``begin`` of its stream, and of how many bytes it is.

    Sums of parts add up to that of the whole, modulo ``MODULUS``.
    """
    total = samples = 0
    for place in range(-(-begin // STEP_BYTES) * STEP_BYTES, begin + len(data), STEP_BYTES):
        mixed = (place << 8 | data[place - begin]) * FACTOR & _WORD
        mixed = (mixed ^ mixed >> 32) * FACTOR & _WORD
        total += mixed >> SHIFT
        samples += 1
    return total % MODULUS, samples


@dataclass(slots=True)
class ContentSum:
    """The sums of one direction of one stream or more, added up.

    Attributes:
        total: their sum.
        samples: of how many bytes it is.
        missed_samples: how many more it was to be of; they could not be read.
    """

    total: int = 0
    samples: int = 0
    missed_samples: int = 0

    def add(self, total: int, samples: int, missed_samples: int) -> None:
        """Add the sum of another part."""
        self.total = (self.total + total) % MODULUS
        self.samples += samples
        self.missed_samples += missed_samples
