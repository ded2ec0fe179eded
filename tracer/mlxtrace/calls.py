# SPDX-License-Identifier: GPL-2.0-or-later
"""What the BPF program's tables of calls hold: those that are open, and counts of reads and writes.

Reads and writes are counted where their thread is kept, not in the counters that all share.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


@dataclass(slots=True)
class CallCounts:
    """Calls of one probe: see :class:`mlxtrace.counters.ProbeCounts`."""

    entries: int = 0
    returns: int = 0
    open: int = 0


class Calls:
    """Reads the tables of ``bpf``, which is bcc's of the program."""

    def __init__(self, bpf: Any) -> None:
        self._others = bpf["calls"]
        self._streams = bpf["stream_calls"]
        self._crowded = bpf["crowded_calls"]
        self._gone: dict[int, CallCounts] = {}

    def counts(self, since_ns: int) -> dict[int, CallCounts]:
        """Return counts by the number of the probe; entries and returns only of reads and writes.

        ``since_ns``: what began before is not counted as open.
        """
        found = {
            number: CallCounts(gone.entries, gone.returns) for number, gone in self._gone.items()
        }
        for key, call in self._stream_calls():
            counts = found.setdefault(key & 0xFF, CallCounts())
            counts.entries += call.entries
            counts.returns += call.returns
            counts.open += _is_open(key, call, since_ns)
        for key, call in self._others.items():
            counts = found.setdefault(key.value & 0xFF, CallCounts())
            counts.open += _is_open(key.value, call, since_ns)
        return found

    def open(self, since_ns: int) -> Iterator[tuple[int, int, Any]]:
        """Yield thread, number of the probe and entry of each open call but reads and writes.

        ``since_ns``: but for what began before.
        """
        for key, call in self._others.items():
            if _is_open(key.value, call, since_ns):
                yield key.value >> 8, key.value & 0xFF, call

    def forget_threads(self) -> None:
        """Take threads that are gone out of the hash, which has an end; what they did is kept."""
        for key, call in self._crowded.items():
            if call.start_ns or _is_alive(key.value):
                continue
            gone = self._gone.setdefault(key.value & 0xFF, CallCounts())
            gone.entries += call.entries
            gone.returns += call.returns
            del self._crowded[key]

    def _stream_calls(self) -> Iterator[tuple[int, Any]]:
        # All of the array at once: one by one takes a thousand system calls, but an old bcc has
        # no other way.
        items = getattr(self._streams, "items_lookup_batch", self._streams.items)
        for _, call in items():
            if call.key:
                yield call.key, call
        for key, call in self._crowded.items():
            yield key.value, call


def unowned(table: Any, processes: Collection[int] | None) -> dict[int, int]:
    """Return the number of calls on data files that nobody is known to own, by PID.

    ``table`` is bcc's of that name; with ``processes`` only theirs.
    """
    found = {key.value: int(calls.value) for key, calls in table.items()}
    return {pid: n for pid, n in found.items() if processes is None or pid in processes}


def _is_alive(key: int) -> bool:
    return Path(f"/proc/{key >> 8}").exists()


def _is_open(key: int, call: Any, since_ns: int) -> bool:
    return bool(call.start_ns >= since_ns and _is_alive(key))
