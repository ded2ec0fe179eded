# SPDX-License-Identifier: GPL-2.0-or-later
"""A decoder for summaries only, which takes reads and writes by the block instead of one by one.

Reads and writes are most of a large recording, and only add up. numpy adds them; without it, and
for all other records, this is the plain decoder, and the sums are the same.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from mlxtrace import records
from mlxtrace.decoder import UNNAMED, Decoder
from mlxtrace.events import End, Event, Lost, Read
from mlxtrace.mailbox import errno_name
from mlxtrace.records import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import ModuleType

    from mlxtrace.session import VfSession

_DIRECTIONS = {int(Kind.READ): "read", int(Kind.WRITE): "write"}
_ENDS = ((5, "temporary"), (7, "again"), (8, "error"))
"""Columns of a snapshot that count ends, but for the final one, which ends a downtime too."""
_FINAL = 6
_FEW_DEVICES = 64
# Where the fields of a record are, in words of 64 bits: see records.py.
BOOT_NS, _VDEV, _KIND, VALUE = 0, 1, 3, 6


@functools.cache
def numpy() -> ModuleType | None:
    """Return numpy, which is optional; None where it is not installed."""
    try:
        import numpy
    except ImportError:
        return None
    return numpy


class Flow(NamedTuple):
    """What flowed of one device in one direction in a block.

    Attributes:
        vf, key: whose it is, and the key among its flows.
        last: the last snapshot.
        events: the sum of the rows that are not in ``singly``.
        singly: rows that must go through the session, each with the snapshot before it.
        places, flows: rows to print, where there are any, as of ``Text.flow_rows``.
    """

    vf: VfSession
    key: tuple[int, str]
    last: tuple[int, ...]
    events: list[Event]
    singly: Sequence[tuple[int, tuple[int, ...]]] = ()
    places: Sequence[int] = ()
    flows: Iterable[tuple[int, int, int, int]] = ()


class SummaryDecoder(Decoder):
    """Yields losses as they were told, and the summaries of :class:`Decoder` at the end.

    Args:
        by_block: whether to use numpy, which must be there then.
    """

    def __init__(self, *, by_block: bool = True) -> None:
        super().__init__()
        self._by_block = by_block

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the losses in a chunk of whole records."""
        np = numpy() if self._by_block else None
        if np is None:
            yield from _losses(super().feed(chunk))
            return
        words = np.frombuffer(chunk, dtype="<u8").reshape(-1, records.SIZE // 8)
        if len(words) == 0:
            return
        self._last_ns = max(self._last_ns, int(words[:, BOOT_NS].max()))
        kinds = words[:, _KIND] & np.uint64(0xFFFF)
        begin = 0
        # A device's name changes whose records are its: blocks end there.
        for at in np.flatnonzero(kinds == Kind.DEVICE).tolist():
            yield from self._block(np, words[begin:at], kinds[begin:at])
            yield from super().feed(words[at].tobytes())
            begin = at + 1
        yield from self._block(np, words[begin:], kinds[begin:])

    def _block(self, np: ModuleType, words: Any, kinds: Any) -> Iterator[Event]:
        """Take records none of which names a device."""
        flows, single = self.divide(np, words, kinds)
        for _, events in self.singly(np, words, flows, single):
            yield from _losses(events)

    def divide(self, np: ModuleType, words: Any, kinds: Any) -> tuple[list[Flow], Any]:
        """Return what flowed, and a mask of the records that must be taken one by one."""
        single = (kinds != Kind.READ) & (kinds != Kind.WRITE)
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
                flow.vf.flows[flow.key] = before
            yield at, super().feed(words[at].tobytes())
        for flow in flows:
            flow.vf.flows[flow.key] = flow.last
            for event in flow.events:
                flow.vf.totals.add(event)

    def _flows(self, np: ModuleType, words: Any, kinds: Any, single: Any) -> Iterator[Flow]:
        """Yield what flowed by device and direction, and mark in ``single`` the final ends."""
        vdevs = np.ascontiguousarray(words[:, _VDEV])
        rest = ~single
        for _ in range(_FEW_DEVICES):
            first = int(rest.argmax()) if len(rest) else 0
            if not len(rest) or not rest[first]:
                return
            kind, vdev = int(kinds[first]), int(vdevs[first])
            same = rest & (kinds == kind) & (vdevs == vdev)
            rest &= ~same
            mine = np.flatnonzero(same)
            vf = self._by_device.get(vdev) or self._named(UNNAMED)
            key = vdev, _DIRECTIONS[kind]
            before = vf.flows.get(key, (0,) * records.VALUE_COUNT)
            yield self.flow(np, vf, key, before, words.take(mine, axis=0), mine, single)
        # So many devices at once are no trace of a host, but damage: one by one, then.
        single |= rest

    def flow(
        self,
        np: ModuleType,
        vf: VfSession,
        key: tuple[int, str],
        before: tuple[int, ...],
        words: Any,
        places: Any,
        single: Any,
    ) -> Flow:
        """Add up the records ``words``, which are at ``places`` and come after ``before``."""
        values = words[:, VALUE:]
        last = tuple(values[-1].tolist())
        steps = list(zip(before, values[0].tolist(), last, strict=True))
        bytes_need_calls = steps[0][0] < steps[0][1] or steps[1][0] == steps[1][1]
        grows = bytes_need_calls and all(one <= two <= three for one, two, three in steps)
        if grows and _only_grow(values):
            # The usual case: nothing between the ends has to be looked at.
            sums = [three - one for one, _, three in steps]
            if sums[_FINAL] == 0:
                return Flow(vf, key, last, list(sums_of(vf, key[1], sums, last)))
        delta, earlier = deltas(np, before, values)
        final = delta[:, _FINAL] > 0
        single[places[final]] = True
        delta_left = delta[~final]
        # Bytes and time without a call are damage, which the plain decoder leaves out.
        delta_left[delta_left[:, 0] == 0, :3] = 0
        sums = [add_up(np, delta_left[:, column]) for column in range(records.VALUE_COUNT)]
        events = list(sums_of(vf, key[1], sums, last))
        return Flow(vf, key, last, events, before_each(places[final], earlier[final]))


def deltas(np: ModuleType, before: tuple[int, ...], values: Any) -> tuple[Any, Any]:
    """Return by how much each snapshot grew, and the snapshots before them."""
    earlier = np.empty_like(values)
    earlier[0] = before
    earlier[1:] = values[:-1]
    return np.where(values > earlier, values - earlier, np.uint64(0)), earlier


def before_each(places: Any, earlier: Any) -> list[tuple[int, tuple[int, ...]]]:
    """Return places with the snapshots before them, as Python's numbers."""
    befores = (tuple(each) for each in earlier.tolist())
    return list(zip(places.tolist(), befores, strict=True))


def _only_grow(values: Any) -> bool:
    """Whether no total ever shrank, and no bytes came without a call."""
    if (values[1:] < values[:-1]).any():
        return False
    calls, size = values[:, 0], values[:, 1]
    return not ((calls[1:] == calls[:-1]) & (size[1:] != size[:-1])).any()


def sums_of(
    vf: VfSession, direction: str, sums: list[int], last: tuple[int, ...]
) -> Iterator[Event]:
    """Yield the reads (or writes) and the ends of many snapshots as one of each."""
    if sums[0]:
        yield Read(
            bdf=vf.bdf,
            boot_ns=last[4],
            session=0,
            direction=direction,
            calls=sums[0],
            bytes=sums[1],
            busy_ns=sums[2],
            first_boot_ns=last[3],
            last_boot_ns=last[4],
        )
    for column, kind in _ENDS:
        if sums[column]:
            errno = last[9] if kind == "error" else 0
            yield End(
                bdf=vf.bdf,
                boot_ns=last[4],
                session=0,
                direction=direction,
                kind=kind,
                calls=sums[column],
                errno=errno,
                error=errno_name(errno),
            )


def add_up(np: ModuleType, column: Any) -> int:
    """Add up u64s, beyond 64 bits too, as a damaged recording may ask for."""
    if len(column) == 0:
        return 0
    if int(column.max()) < (1 << 63) // len(column):
        return int(column.sum(dtype=np.uint64))
    return sum(column.tolist())


def _losses(events: Iterator[Event]) -> Iterator[Event]:
    return (event for event in events if isinstance(event, Lost))
