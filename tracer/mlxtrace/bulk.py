# SPDX-License-Identifier: GPL-2.0-or-later
"""A decoder for summaries only, which takes reads and writes by the block instead of one by one.

Reads and writes are most of a large recording, and those that moved data only add up. numpy adds
them; without it, and for all other records, this is the plain decoder, and the sums are the same.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from mlxtrace import records
from mlxtrace.decoder import UNNAMED, Decoder
from mlxtrace.events import End, Event, Lost, Read
from mlxtrace.records import FLAG_POSITION, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from mlxtrace.session import VfSession

_DIRECTIONS = {int(Kind.READ): "read", int(Kind.WRITE): "write"}
_FEW_DEVICES = 64
FEW_RECORDS = 32
"""Reads and writes in a row: numpy takes longer for so few than the plain decoder."""
# Where the fields of a record are, in words of 64 bits: see records.py.
BOOT_NS, _VDEV, _KIND, _VALUE = 0, 1, 3, 6
_FLAGS_SHIFT = 16
# Columns of a snapshot.
_CALLS, _BYTES, _BUSY, _FIRST, _LAST, _TEMPORARY, _FINAL, _TOTALS = 0, 1, 2, 3, 4, 5, 6, 9
_POSITION = _TOTALS


@functools.cache
def numpy() -> ModuleType | None:
    """Return numpy, which is optional; None where it is not installed."""
    try:
        import numpy
    except ImportError:
        return None
    return numpy


class Flow(NamedTuple):
    """What flowed of one device in one direction, while nothing else was told.

    Attributes:
        vf, key: whose it is, and the key among its totals.
        last: the last snapshot.
        singly: rows that must go through the session, each with the snapshot before it.
        places: where all rows are.
        rows: a mask of those that moved data and are not in ``singly``.
        boot_ns: when each row was made.
        moved: calls, bytes and busy ns of each row; 0 where it is not in ``rows``.
        reading_ns: how long each took from its first call to its last one; 0 as well.
        temporary: how many ends are not among the rows in ``singly``; all of them are temporary.
        gap: the last row, of all, that tells where the file is, and by how much it went on unseen.
    """

    vf: VfSession
    key: tuple[int, str]
    last: tuple[int, ...]
    singly: Sequence[tuple[int, tuple[int, ...]]]
    places: Any
    rows: Any
    boot_ns: Any
    moved: Any
    reading_ns: Any
    temporary: int
    gap: tuple[int, int] | None


class SummaryDecoder(Decoder):
    """Yields losses as they were told, and the summaries of :class:`Decoder` at the end.

    Attributes:
        all_ends: whether each end is taken singly, not just those that summaries depend on.

    Args:
        by_block: whether to use numpy, which must be there then.
    """

    all_ends = False

    def __init__(self, *, by_block: bool = True) -> None:
        super().__init__()
        self._by_block = by_block

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the losses in a chunk of whole records."""
        np = numpy() if self._by_block else None
        if np is None:
            yield from self.shown(super().feed(chunk))
            return
        words = np.frombuffer(chunk, dtype="<u8").reshape(-1, records.SIZE // 8)
        kinds = np.frombuffer(chunk, dtype="<u2")[_KIND * 4 :: records.SIZE // 2].copy()
        others = np.flatnonzero((kinds != Kind.READ) & (kinds != Kind.WRITE))
        bounds = np.concatenate(([-1], others, [len(words)]))
        begin = 0
        for number in np.flatnonzero(np.diff(bounds) > FEW_RECORDS).tolist():
            first, after = int(bounds[number]) + 1, int(bounds[number + 1])
            yield from self.shown(super().feed(words[begin:first].tobytes()))
            self._last_ns = max(self._last_ns, int(words[first:after, BOOT_NS].max()))
            yield from self.run(np, words[first:after], kinds[first:after])
            begin = after
        yield from self.shown(super().feed(words[begin:].tobytes()))

    def shown(self, events: Iterator[Event]) -> Iterator[Event]:
        """Yield what is to be known of ``events`` before the end."""
        return (event for event in events if isinstance(event, Lost))

    def run(self, np: ModuleType, words: Any, kinds: Any) -> Iterator[Event]:
        """Take reads and writes that come in a row."""
        flows, single = self.divide(np, words, kinds)
        for _, events in self.singly(np, words, flows, single):
            yield from self.shown(events)

    def divide(self, np: ModuleType, words: Any, kinds: Any) -> tuple[list[Flow], Any]:
        """Return what flowed, and a mask of the records that must be taken one by one."""
        single = np.zeros(len(words), dtype=bool)
        return list(self._flows(np, words, kinds, single)), single

    def singly(
        self, np: ModuleType, words: Any, flows: list[Flow], single: Any
    ) -> Iterator[tuple[int, Iterator[Event]]]:
        """Yield the place and the events of each record in ``single``, then add ``flows`` up.

        The events must be taken before the next ones are asked for.
        """
        befores = {at: (flow, before) for flow in flows for at, before in flow.singly}
        for at in np.flatnonzero(single).tolist():
            if at in befores:
                flow, before = befores[at]
                flow.vf.data.totals[flow.key] = before
            yield at, super().feed(words[at].tobytes())
        for flow in sorted(flows, key=lambda flow: flow.gap or (-1, 0)):
            flow.vf.data.totals[flow.key] = flow.last
            for event in _sums(np, flow):
                flow.vf.totals.add(event)

    def _flows(self, np: ModuleType, words: Any, kinds: Any, single: Any) -> Iterator[Flow]:
        """Yield what flowed by device and direction, and mark in ``single`` what must be."""
        vdevs = np.ascontiguousarray(words[:, _VDEV])
        rest = ~single
        for _ in range(_FEW_DEVICES):
            first = int(rest.argmax())
            if not rest[first]:
                return
            kind, vdev = int(kinds[first]), int(vdevs[first])
            same = rest & (kinds == kind) & (vdevs == vdev)
            rest &= ~same
            vf = self._by_device.get(vdev) or self._named(UNNAMED)
            key = vdev, _DIRECTIONS[kind]
            yield self._flow(np, vf, key, words, np.flatnonzero(same), single)
        # So many devices at once are no trace of a host, but damage: one by one, then.
        single |= rest

    def _flow(
        self,
        np: ModuleType,
        vf: VfSession,
        key: tuple[int, str],
        words: Any,
        places: Any,
        single: Any,
    ) -> Flow:
        """Return what flowed in the records at ``places`` of ``words``; some go to ``single``."""
        words = words.take(places, axis=0)
        # Each column on its own, and what was before: numpy is quick on what lies side by side.
        values = np.empty((_TOTALS, len(words) + 1), dtype=np.uint64)
        values[:, 0] = vf.data.totals.get(key, (0,) * _TOTALS)
        values[:, 1:] = words[:, _VALUE : _VALUE + _TOTALS].T
        # Snapshots of threads that tell at once may come in either order; see DataPath.flow().
        reached = np.maximum.accumulate(values, axis=1)
        now, before = values[:, 1:], reached[:, :-1]
        grown = now > before
        temporary = grown[_TEMPORARY]
        if self.all_ends:
            alone = grown[_TEMPORARY:].any(axis=0)
        else:
            # A final end ends a downtime. The reason of a temporary one depends on whether it is
            # the first since the ioctl: with nothing else told, the others have the same reason.
            alone = grown[_FINAL:].any(axis=0)
            if vf.data.was_asked and temporary.any():
                alone[temporary.argmax()] = True
        single[places[alone]] = True
        befores = [tuple(each) for each in before[:, alone].T.tolist()]
        moved = _difference(np, now[: _BUSY + 1], before[: _BUSY + 1])
        ends = _difference(np, now[_TEMPORARY], before[_TEMPORARY])
        ends[alone] = 0
        rows = grown[_CALLS] & ~alone
        reading_ns = np.maximum(_difference(np, now[_LAST], now[_FIRST]), moved[_BUSY])
        still = np.flatnonzero(~rows)
        moved[:, still] = 0
        reading_ns[still] = 0
        return Flow(
            vf,
            key,
            tuple(reached[:, -1].tolist()),
            list(zip(places[alone].tolist(), befores, strict=True)),
            places,
            rows,
            words[:, BOOT_NS],
            moved,
            reading_ns,
            _add_up(np, ends),
            _gap(np, vf, key, words, places, grown[_CALLS] | temporary | grown[_FINAL]),
        )


def _gap(
    np: ModuleType, vf: VfSession, key: tuple[int, str], words: Any, places: Any, telling: Any
) -> tuple[int, int] | None:
    """Return the last place in ``telling`` whose record has a position, and the gap there."""
    if vf.data.bytes_before is None:
        return None
    has_position = words[:, _KIND] & np.uint64(FLAG_POSITION << _FLAGS_SHIFT) > 0
    found = np.flatnonzero(telling & has_position)
    if not len(found):
        return None
    at = int(found[-1])
    seen = int(words[at, _VALUE + _BYTES]) - vf.data.bytes_before.get(key, 0)
    return int(places[at]), int(words[at, _VALUE + _POSITION]) - seen


def _difference(np: ModuleType, more: Any, less: Any) -> Any:
    """Return by how much u64s exceed others: 0 where they do not."""
    return np.maximum(more, less) - less


def _sums(np: ModuleType, flow: Flow) -> Iterator[Event]:
    """Yield events that add as much to a summary as all of ``flow`` that is not taken singly."""
    calls, size, reading_ns = (
        _add_up(np, column) for column in (flow.moved[_CALLS], flow.moved[_BYTES], flow.reading_ns)
    )
    gap = flow.gap[1] if flow.gap else None
    data = flow.vf.data
    yield Read(
        bdf=data.bdf,
        boot_ns=flow.last[_LAST],
        session=data.session,
        direction=flow.key[1],
        calls=calls,
        bytes=size,
        # The rate of reading goes by this, as the span of many rows has pauses in it.
        busy_ns=reading_ns,
        first_boot_ns=flow.last[_LAST],
        last_boot_ns=flow.last[_LAST],
        position_bytes=None,
        gap_bytes=gap,
    )
    if flow.temporary:
        yield End(
            bdf=data.bdf,
            boot_ns=flow.last[_LAST],
            session=data.session,
            direction=flow.key[1],
            kind="temporary",
            reason=flow.vf.no_data_reason(),
            calls=flow.temporary,
            position_bytes=None,
            gap_bytes=gap,
            errno=0,
            error="",
        )


def _add_up(np: ModuleType, column: Any) -> int:
    """Add up u64s, beyond 64 bits too, as a damaged recording may ask for."""
    if len(column) == 0:
        return 0
    if int(column.max()) < (1 << 63) // len(column):
        return int(column.sum(dtype=np.uint64))
    return sum(column.tolist())
