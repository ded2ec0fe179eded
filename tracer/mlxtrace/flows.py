# SPDX-License-Identifier: GPL-2.0-or-later
"""What the BPF program's table of devices holds, as records: the rest of the flows, histograms.

The program adds up the calls of a stream, and makes a record of the sums when something else
happens. The sizes and times of the calls, sorted by powers of two, are read from its table when a
session may have ended, and at the end; how far a stream is, if asked for, while data flows.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from mlxtrace import records
from mlxtrace.mailbox import MIGRATING, state_name
from mlxtrace.records import BUCKETS, FLAG_LAST, FLAG_POSITION, HISTOGRAM_COUNTS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_FIELDS = (
    "calls",
    "bytes",
    "busy_ns",
    "first_ns",
    "last_ns",
    "temporary",
    "final",
    "again",
    "errors",
    "position",
)
_DIRECTIONS = (Kind.READ, Kind.WRITE)
# Numbers of records.DIRECTIONS and records.MEASURES.
_GET_STATE, _LATENCY = 2, 1
# In the order of records.MEASURES.
_HISTOGRAMS = ("sizes", "latencies")
_PERIOD_NS = 100_000_000
"""How often it is looked how far streams are. Sums by time are as exact as that."""

Counts = tuple[int, ...]


def own_record(
    kind: Kind,
    vdev: int,
    value: Sequence[int],
    *,
    result: int = 0,
    flags: int = 0,
    boot_ns: int | None = None,
) -> bytes:
    """Return a record that this process makes, not the BPF program; of now, if not told when."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME) if boot_ns is None else boot_ns
    task = os.getpid()
    raw = records.Raw(now, vdev, task, task, kind, flags, result, b"mlxtrace", tuple(value))
    return records.pack(raw)


def histogram_records(
    vdev: int, direction: int, measure: int, counts: Counts, boot_ns: int | None = None
) -> Iterator[bytes]:
    """Yield the records of one histogram; counts that are all 0 are left out.

    ``direction`` is a number of records.DIRECTIONS, ``measure`` one of records.MEASURES.
    """
    firsts = range(0, BUCKETS, HISTOGRAM_COUNTS)
    wanted = [first for first in firsts if any(counts[first : first + HISTOGRAM_COUNTS])]
    for first in wanted:
        value = (direction | measure << 8 | first << 16, *counts[first : first + HISTOGRAM_COUNTS])
        flags = FLAG_LAST if first == wanted[-1] else 0
        yield own_record(Kind.HISTOGRAM, vdev, value, flags=flags, boot_ns=boot_ns)


class Flows:
    """Reads the tables; ``places`` and ``devices`` are bcc's of the maps of these names.

    A table may be ahead of the ring, and an address another device's by then: what it has is only
    told of the one that the records name.
    """

    def __init__(self, places: Any, devices: Any) -> None:
        self._places = places
        self._devices = devices
        self._tenants: dict[int, int] = {}
        self._told: dict[tuple[int, int, int, int], Counts] = {}
        self._content: dict[tuple[int, int, int], Counts] = {}
        self._calls: dict[tuple[int, int, int], int] = {}
        self._looked_ns = 0

    def named(self, raw: records.Raw) -> None:
        """A DEVICE record has come through the ring."""
        self._tenants[raw.vdev] = records.device_tenant(raw)

    def after(self, raw: records.Raw) -> Iterator[bytes]:
        """Yield the records of the device's histograms, if ``raw`` may end a session.

        They may contain calls that were made since, before ``raw`` was read.
        """
        if raw.kind == Kind.SET_STATE and state_name(raw.value[0]) in MIGRATING:
            return
        try:
            place = self._places[self._places.Key(raw.vdev)]
        except KeyError:
            return
        device = self._devices[place]
        if self._is_named(raw.vdev, device):
            yield from self._changed(raw.vdev, device, raw.boot_ns)

    def flowing(self) -> Iterator[bytes]:
        """Yield how far streams are that go on without a record, if it is time to look."""
        # The time comes first: what is found had moved by then, or just now.
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if now - self._looked_ns < _PERIOD_NS:
            return
        self._looked_ns = now
        for key, place in self._places.items():
            device = self._devices[place]
            if not device.wanted or not self._is_named(key.value, device):
                continue
            for number, flow in enumerate(device.flow):
                at, calls = (key.value, int(device.tenant), number), int(flow.calls)
                if not _is_untold(flow) or calls == self._calls.get(at, 0):
                    continue
                self._calls[at] = calls
                yield from self._name(key.value, device)
                value = (number, calls, int(flow.bytes))
                yield own_record(Kind.FLOWING, key.value, value, boot_ns=now)

    def rest(self) -> Iterator[bytes]:
        """Yield what no record has told yet, of all devices. The ring is empty."""
        for key, place in self._places.items():
            device = self._devices[place]
            if not device.wanted:
                continue
            untold = [number for number, flow in enumerate(device.flow) if _is_untold(flow)]
            if untold or any(device.asked):
                yield from self._name(key.value, device)
            for number in untold:
                flow = device.flow[number]
                value = [int(getattr(flow, name)) for name in _FIELDS]
                errno = -int(flow.last_error)
                kind = _DIRECTIONS[number]
                yield own_record(kind, key.value, value, result=errno, flags=FLAG_POSITION)
            yield from self._changed(key.value, device)

    def introduce(self, vdev: int) -> Iterator[bytes]:
        """Yield the record of the name of the device at ``vdev``, if none was made yet."""
        try:
            place = self._places[self._places.Key(vdev)]
        except KeyError:
            return
        yield from self._name(vdev, self._devices[place])

    def _is_named(self, vdev: int, device: Any) -> bool:
        """Whether the last name in the records is of the tenant that the table has."""
        return bool(self._tenants.get(vdev, device.tenant) == device.tenant)

    def _name(self, vdev: int, device: Any) -> Iterator[bytes]:
        """Yield the record of the device's name, if none was made yet."""
        if not device.announced and self._tenants.get(vdev) != device.tenant:
            self._tenants[vdev] = device.tenant
            yield own_record(Kind.DEVICE, vdev, (*device.name, device.tenant))

    def _changed(self, vdev: int, device: Any, boot_ns: int | None = None) -> Iterator[bytes]:
        tenant = int(device.tenant)
        # The program has none unless it was asked to look at the content.
        for direction, content in enumerate(getattr(device, "content", ())):
            found = (int(content.sum), int(content.samples), int(content.missed))
            if found != self._content.get((vdev, tenant, direction), (0, 0, 0)):
                self._content[vdev, tenant, direction] = found
                yield own_record(Kind.CONTENT, vdev, (direction, *found), boot_ns=boot_ns)
        for direction, flow in enumerate(device.flow):
            for measure, name in enumerate(_HISTOGRAMS):
                yield from self._histogram(
                    vdev, tenant, direction, measure, getattr(flow, name), boot_ns
                )
        asked = list(self._histogram(vdev, tenant, _GET_STATE, _LATENCY, device.asked, boot_ns))
        if asked:
            # First, so that whoever has the counts has the longest too.
            yield own_record(Kind.LONGEST, vdev, (int(device.asked_longest),), boot_ns=boot_ns)
            yield from asked

    def _histogram(
        self,
        vdev: int,
        tenant: int,
        direction: int,
        measure: int,
        table: Iterable[int],
        boot_ns: int | None,
    ) -> Iterator[bytes]:
        counts = tuple(int(count) for count in table)
        key = (vdev, tenant, direction, measure)
        if counts != self._told.get(key, (0,) * BUCKETS):
            self._told[key] = counts
            yield from histogram_records(vdev, direction, measure, counts, boot_ns)


def _is_untold(flow: Any) -> bool:
    total = flow.calls + flow.temporary + flow.final + flow.again + flow.errors
    return bool(total != flow.reported)
