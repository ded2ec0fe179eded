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
    from collections.abc import Iterator
    from types import ModuleType

    from mlxtrace.session import VfSession

_DIRECTIONS = {int(Kind.READ): "read", int(Kind.WRITE): "write"}
_ENDS = ((5, "temporary"), (7, "again"), (8, "error"))
"""Columns of a snapshot that count ends, but for the final one, which ends a downtime too."""
_FINAL = 6
_FEW_DEVICES = 64
# Where the fields of a record are, in words of 64 bits: see records.py.
_BOOT_NS, _VDEV, _KIND, _VALUE = 0, 1, 3, 6


@functools.cache
def numpy() -> ModuleType | None:
    """Return numpy, which is optional; None where it is not installed."""
    try:
        import numpy
    except ImportError:
        return None
    return numpy


class _Flow(NamedTuple):
    """What flowed of one device in one direction in a block.

    Attributes:
        vf, key: whose it is, and the key among its flows.
        last: the last snapshot.
        finals: rows that tell of a final end, each with the snapshot before it.
        events: the sum of all other rows.
    """

    vf: VfSession
    key: tuple[int, str]
    last: tuple[int, ...]
    finals: list[tuple[int, tuple[int, ...]]]
    events: list[Event]


class SummaryDecoder(Decoder):
    """Yields losses as they were told, and the summaries of :class:`Decoder` at the end."""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the losses in a chunk of whole records."""
        np = numpy()
        if np is None:
            yield from _losses(super().feed(chunk))
            return
        words = np.frombuffer(chunk, dtype="<u8").reshape(-1, records.SIZE // 8)
        if len(words) == 0:
            return
        self._last_ns = max(self._last_ns, int(words[:, _BOOT_NS].max()))
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
        single = (kinds != Kind.READ) & (kinds != Kind.WRITE)
        flows = list(self._flows(np, words, kinds, single))
        finals = {at: (flow, before) for flow in flows for at, before in flow.finals}
        for at in np.flatnonzero(single).tolist():
            if at in finals:
                flow, before = finals[at]
                flow.vf.flows[flow.key] = before
            yield from _losses(super().feed(words[at].tobytes()))
        for flow in flows:
            flow.vf.flows[flow.key] = flow.last
            for event in flow.events:
                flow.vf.totals.add(event)

    def _flows(self, np: ModuleType, words: Any, kinds: Any, single: Any) -> Iterator[_Flow]:
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
            values = words.take(mine, axis=0)[:, _VALUE:]
            yield _flow(np, vf, key, before, values, mine, single)
        # So many devices at once are no trace of a host, but damage: one by one, then.
        single |= rest


def _flow(
    np: ModuleType,
    vf: VfSession,
    key: tuple[int, str],
    before: tuple[int, ...],
    values: Any,
    places: Any,
    single: Any,
) -> _Flow:
    """Add up the snapshots ``values``, which are at ``places`` and come after ``before``."""
    last = tuple(values[-1].tolist())
    steps = list(zip(before, values[0].tolist(), last, strict=True))
    bytes_need_calls = steps[0][0] < steps[0][1] or steps[1][0] == steps[1][1]
    grows = bytes_need_calls and all(one <= two <= three for one, two, three in steps)
    if grows and _only_grow(values):
        # The usual case: nothing between the ends has to be looked at.
        sums = [three - one for one, _, three in steps]
        if sums[_FINAL] == 0:
            return _Flow(vf, key, last, [], list(_sums(vf, key[1], sums, last)))
    earlier = np.empty_like(values)
    earlier[0] = before
    earlier[1:] = values[:-1]
    delta = np.where(values > earlier, values - earlier, np.uint64(0))
    final = delta[:, _FINAL] > 0
    single[places[final]] = True
    befores = [tuple(each) for each in earlier[final].tolist()]
    delta = delta[~final]
    # Bytes and time without a call are damage, which the plain decoder leaves out.
    delta[delta[:, 0] == 0, :3] = 0
    sums = [_sum(np, delta[:, column]) for column in range(records.VALUE_COUNT)]
    finals = list(zip(places[final].tolist(), befores, strict=True))
    return _Flow(vf, key, last, finals, list(_sums(vf, key[1], sums, last)))


def _only_grow(values: Any) -> bool:
    """Whether no total ever shrank, and no bytes came without a call."""
    if (values[1:] < values[:-1]).any():
        return False
    calls, size = values[:, 0], values[:, 1]
    return not ((calls[1:] == calls[:-1]) & (size[1:] != size[:-1])).any()


def _sums(vf: VfSession, direction: str, sums: list[int], last: tuple[int, ...]) -> Iterator[Event]:
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


def _sum(np: ModuleType, column: Any) -> int:
    """Add up u64s, beyond 64 bits too, as a damaged recording may ask for."""
    if len(column) == 0:
        return 0
    if int(column.max()) < (1 << 63) // len(column):
        return int(column.sum(dtype=np.uint64))
    return sum(column.tolist())


def _losses(events: Iterator[Event]) -> Iterator[Event]:
    return (event for event in events if isinstance(event, Lost))
