# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read from the program's table of devices becomes records, once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from mlxtrace import records
from mlxtrace.decoder import Decoder
from mlxtrace.events import End, Histogram, Read
from mlxtrace.flows import Flows
from mlxtrace.mailbox import STATES
from mlxtrace.records import BUCKETS, Kind, Raw

if TYPE_CHECKING:
    from collections.abc import Iterator

VDEV = 0x1000
STOPPED = Raw(77, VDEV, 1, 1, Kind.SET_STATE, 0, 0, b"", (STATES.index("STOP"),))


def flow(**fields: int) -> SimpleNamespace:
    names = (
        *("calls", "bytes", "busy_ns", "first_ns", "last_ns", "temporary", "final", "again"),
        *("errors", "last_error", "reported", "position"),
    )
    empty = {"sizes": [0] * BUCKETS, "latencies": [0] * BUCKETS}
    return SimpleNamespace(**dict.fromkeys(names, 0), **empty) if not fields else _with(fields)


def _with(fields: dict[str, int]) -> SimpleNamespace:
    made = flow()
    vars(made).update(fields)
    return made


class Table(dict[int, Any]):
    """A map of bcc."""

    Key = staticmethod(int)

    def items(self) -> Iterator[Any]:  # type: ignore[override]
        for key, value in super().items():
            yield SimpleNamespace(value=key), value


def tables(*devices: SimpleNamespace) -> tuple[Any, Any]:
    """Return the maps that have these devices, of VDEV and the pointers after it."""
    return Table({VDEV + number: number for number in range(len(devices))}), devices


def device(
    *flows: SimpleNamespace, wanted: int = 1, announced: int = 0, tenant: int = 1
) -> SimpleNamespace:
    return SimpleNamespace(
        wanted=wanted,
        announced=announced,
        tenant=tenant,
        name=records.name_values("0000:01:00.1")[:5],
        flow=flows,
        asked=[0] * BUCKETS,
        asked_longest=0,
    )


def kinds(made: list[bytes]) -> list[int]:
    return [records.kind_of(record) for record in made]


def test_the_rest_is_told_with_the_name_that_it_needs() -> None:
    reads = flow(calls=3, bytes=300, errors=1, last_error=19, position=300)
    made = list(Flows(*tables(device(reads, flow()))).rest())
    assert kinds(made) == [Kind.DEVICE, Kind.READ]
    found = list(Decoder().feed(b"".join(made)))
    read, end = found
    assert isinstance(read, Read)
    assert (read.bdf, read.calls, read.position_bytes) == ("0000:01:00.1", 3, 300)
    assert isinstance(end, End)
    assert end.error == "ENODEV"


def test_what_was_told_or_is_not_wanted_is_left_out() -> None:
    told = device(flow(calls=3, reported=3), flow(), announced=1)
    other = device(flow(calls=3), flow(), wanted=0)
    assert list(Flows(*tables(told, other)).rest()) == []


def test_a_histogram_is_told_when_it_has_changed() -> None:
    writes = flow(calls=1, reported=1)
    writes.sizes[4] = 1
    writes.sizes[30] = 2
    flows = Flows(*tables(device(flow(), writes, announced=1)))
    made = list(flows.after(STOPPED))
    # Of the four records that the buckets take, those with anything in them.
    assert kinds(made) == [Kind.HISTOGRAM] * 2
    (event,) = Decoder().feed(b"".join(made))
    assert isinstance(event, Histogram)
    assert (event.direction, event.measure) == ("write", "size_bytes")
    assert (event.counts[4], event.counts[30], sum(event.counts)) == (1, 2, 3)
    assert event.boot_ns == STOPPED.boot_ns
    assert list(flows.after(STOPPED)) == []
    assert list(flows.rest()) == []
    assert list(flows.after(STOPPED._replace(vdev=VDEV + 1))) == []


def test_a_histogram_is_not_told_while_the_session_goes_on() -> None:
    reads = flow(calls=1)
    reads.sizes[4] = 1
    flows = Flows(*tables(device(reads, flow(), announced=1)))
    for state in ("PRE_COPY", "PRE_COPY_P2P", "STOP_COPY", "RESUMING"):
        assert list(flows.after(STOPPED._replace(value=(STATES.index(state),)))) == []
    assert kinds(list(flows.after(STOPPED._replace(kind=Kind.SESSION_END)))) == [Kind.HISTOGRAM]


def test_what_is_of_the_next_tenant_is_not_told_of_the_last_one() -> None:
    reads = flow(calls=1, reported=1)
    reads.sizes[4] = 1
    shown = device(reads, flow(), announced=1)
    flows = Flows(*tables(shown))
    flows.named(Raw(1, VDEV, 1, 1, Kind.DEVICE, 0, 0, b"", records.name_values("a", tenant=1)))
    assert kinds(list(flows.after(STOPPED))) == [Kind.HISTOGRAM]
    # The last one's end is only read now that the next one, with as many calls, is there.
    shown.tenant = 2
    assert list(flows.after(STOPPED)) == []
    flows.named(Raw(2, VDEV, 1, 1, Kind.DEVICE, 0, 0, b"", records.name_values("b", tenant=2)))
    assert kinds(list(flows.after(STOPPED))) == [Kind.HISTOGRAM]


def test_the_rest_of_a_tenant_begins_at_0() -> None:
    first = records.pack(
        Raw(1, VDEV, 1, 1, Kind.DEVICE, 0, 0, b"", records.name_values("b", tenant=1))
    )
    told = records.pack(Raw(2, VDEV, 1, 1, Kind.READ, 0, 0, b"", (9, 900)))
    made = list(Flows(*tables(device(flow(calls=3, bytes=300), flow(), tenant=2))).rest())
    *_, read = Decoder().feed(b"".join([first, told, *made]))
    assert isinstance(read, Read)
    assert (read.bdf, read.calls, read.bytes) == ("0000:01:00.1", 3, 300)
