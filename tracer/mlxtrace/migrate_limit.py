# SPDX-License-Identifier: GPL-2.0-or-later
"""Holding a migration to a bandwidth."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from genbindings.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlxtrace.migrate_model import Sink
    from mlxtrace.stream import Piece, StreamParser

SLICES_PER_S = 20
"""In how many parts a second's data is passed on, so that it flows and can be cancelled."""
LEAST = 1024
"""The smallest bandwidth, in bytes a second."""

_RATE = re.compile(
    r"(?P<number>\d+(?:\.\d+)?) ?(?P<prefix>[kKMGT]?)(?:(?P<bits>bit)|i?B)?(?:/s|ps)?",
    re.ASCII,
)
_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_rate(text: str) -> float:
    """Return a bandwidth in bytes a second: ``500K``, ``1.5G`` (powers of 1024), ``10Gbit``.

    Raises:
        UsageError: it is none, or below :data:`LEAST`.
    """
    found = _RATE.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"{text!r} is not a bandwidth",
            "such as 500K or 1G (bytes a second, powers of 1024) or 10Gbit (bits, powers of 1000)",
        )
    power = _POWERS[found["prefix"]]
    rate = float(found["number"])
    rate *= float(1000**power) / 8 if found["bits"] else float(1024**power)
    if rate < LEAST:
        raise UsageError(f"{text!r} is less than {LEAST} bytes a second", "1K is the least")
    return rate


class LimitedSink:
    """Passes a stream on, at most so many bytes a second: it stands for a slow link."""

    def __init__(self, sink: Sink, bytes_per_s: float, check: Callable[[], None]) -> None:
        """``check`` is called often and raises to cancel."""
        self._sink = sink
        self._rate = bytes_per_s
        self._check = check
        self._free_at = 0.0

    def open(self) -> None:
        self._sink.open()

    def write(self, piece: Piece) -> None:
        part = max(1, int(self._rate / SLICES_PER_S))
        for start in range(0, len(piece.data), part):
            data = piece.data[start : start + part]
            now = time.monotonic()
            while now < self._free_at:
                self._check()
                time.sleep(min(self._free_at - now, 0.1))
                now = time.monotonic()
            # Time in which nothing was sent is not made up for.
            self._free_at = max(self._free_at, now) + len(data) / self._rate
            last = start + len(data) == len(piece.data)
            self._sink.write(
                piece._replace(
                    data=data, offset=piece.offset + start, complete=piece.complete and last
                )
            )

    def finish(self, parser: StreamParser) -> None:
        self._sink.finish(parser)

    def compare(self, source_hash: str | None) -> str | None:
        return self._sink.compare(source_hash)

    def start(self) -> str:
        return self._sink.start()

    def abandon(self) -> str:
        return self._sink.abandon()
