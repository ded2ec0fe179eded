# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether one VF's pre-copy gets anywhere, and what it would cost to stop the VF now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxtrace.events import Abort, Estimate, Event, Ioctl, Read, Save, State

if TYPE_CHECKING:
    from collections.abc import Sequence

_PRECOPY = {"PRE_COPY", "PRE_COPY_P2P"}


class Convergence:
    """Adds up what flows in and out of the queue of images. Only :meth:`add` changes it.

    Rates and times are those of the last session that saved: another guest, or another load, says
    nothing about this one. Only rounds are counted over all of them.
    """

    def __init__(self) -> None:
        self._in_precopy = False
        self._rounds = 0
        self._session = 0
        self._begin()
        self._sizes: tuple[int, int] | None = None
        self._estimate: int | None = None
        self._asked_at = 0
        self._read_since = 0

    def _enter(self, session: int) -> None:
        """Something of ``session`` is told: what was told of those before it is over."""
        if session > self._session:
            self._session = session
            self._begin()

    def _begin(self) -> None:
        self._read_bytes = 0
        self._reading_ns = 0
        self._middle_bytes = 0
        self._dirtying_ns = 0
        self._dirty_from: int | None = None
        self._times: list[int] = []

    def add(self, event: Event) -> None:
        """Take one event of this VF into account."""
        match event:
            case State() if event.is_walked:
                before, self._in_precopy = self._in_precopy, event.new_state in _PRECOPY
                if self._in_precopy and not before:
                    self._sizes = self._estimate = None
                    self._enter(event.session)
            case Abort():
                self._in_precopy = False
            case Read(direction="read") if event.calls:
                self._enter(event.session)
                self._read_bytes += event.bytes
                # One call has no span of its own but the time that it took.
                span = event.last_boot_ns - event.first_boot_ns
                self._reading_ns += max(span, event.busy_ns)
                self._read_since += event.bytes
            case Ioctl() if event.precopy_dirty_size_bytes is not None:
                initial = event.precopy_init_size_bytes or 0
                self._sizes = (initial, event.precopy_dirty_size_bytes)
                self._asked_at = event.boot_ns
                self._read_since = 0
            case Estimate() if not event.errno:
                self._estimate = event.stopcopy_size_bytes
            case Save() if not (event.status or event.errno or event.in_flight):
                self._save(event)

    @property
    def in_precopy(self) -> bool:
        """Whether the VF is in pre-copy now."""
        return self._in_precopy

    @property
    def read_bytes_per_s(self) -> int | None:
        """Bytes read over the time in which they were; None before the first."""
        return _rate(self._read_bytes, self._reading_ns)

    @property
    def dirty_bytes_per_s(self) -> int | None:
        """Bytes of the middle images over the time between their SAVEs; None without one."""
        return _rate(self._middle_bytes, self._dirtying_ns)

    @property
    def converging(self) -> bool | None:
        """Whether data is read faster than it is dirtied; None where either is not known."""
        read, dirty = self.read_bytes_per_s, self.dirty_bytes_per_s
        return None if read is None or dirty is None else dirty < read

    def to_json(self, boot_ns: int) -> dict[str, int | bool | None]:
        """Return the keys of the summary; ``boot_ns`` is now."""
        size = self._still_to_read(boot_ns)
        read = self.read_bytes_per_s
        return {
            "rounds": self._rounds,
            "read_bytes_per_s": read,
            "dirty_bytes_per_s": self.dirty_bytes_per_s,
            "converging": self.converging,
            "precopy_init_size_bytes": self._sizes[0] if self._sizes else None,
            "precopy_dirty_size_bytes": self._sizes[1] if self._sizes else None,
            "stopcopy_size_bytes": self._estimate,
            "stopped_now_bytes": size,
            "stopped_now_save_ns": percentile(self._times, 50) if size is not None else None,
            "stopped_now_read_ns": size * 1_000_000_000 // read
            if size is not None and read
            else None,
        }

    def _save(self, event: Save) -> None:
        if event.kind not in ("initial", "middle"):
            return
        self._rounds += 1
        # It comes before the end of the arc in which it is made.
        self._enter(event.session)
        if event.session < self._session:
            return
        if event.fw_ns is not None:
            self._times.append(event.fw_ns)
        if event.issue_boot_ns is None:
            return
        if event.kind == "middle" and self._dirty_from is not None:
            self._middle_bytes += event.image_bytes or 0
            self._dirtying_ns += event.issue_boot_ns - self._dirty_from
        self._dirty_from = event.issue_boot_ns

    def _still_to_read(self, boot_ns: int) -> int | None:
        """What is still to be read if the VF stops now: what was left, and what came since."""
        if not self._in_precopy or self._sizes is None:
            return None
        since = max(0, boot_ns - self._asked_at)
        grown = (self.dirty_bytes_per_s or 0) * since // 1_000_000_000
        return max(0, sum(self._sizes) - self._read_since) + grown


def percentile(values: Sequence[int], percent: int) -> int | None:
    """Return the value that ``percent`` of ``values`` do not exceed (nearest rank), or None."""
    if not values:
        return None
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def spread(prefix: str, values: Sequence[int]) -> dict[str, int | None]:
    """Return the keys ``PREFIX_p50_ns``, ``PREFIX_p99_ns`` and ``PREFIX_max_ns`` of a summary."""
    return {
        f"{prefix}_p50_ns": percentile(values, 50),
        f"{prefix}_p99_ns": percentile(values, 99),
        f"{prefix}_max_ns": max(values) if values else None,
    }


def _rate(size: int, span_ns: int) -> int | None:
    return size * 1_000_000_000 // span_ns if span_ns > 0 else None
