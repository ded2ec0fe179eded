# SPDX-License-Identifier: GPL-2.0-or-later
"""Data that flows on without an event: sums by time have it, and nothing counts it twice."""

from __future__ import annotations

import io
import json
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
from rich.console import Console

from mlxtrace import live, output, precopy, records
from mlxtrace.capture import Capture
from mlxtrace.counters import Counters
from mlxtrace.decoder import Decoder
from mlxtrace.events import Read, Summary
from mlxtrace.flowing import Ahead, Flowing
from mlxtrace.flows import Flows
from mlxtrace.layout import Layouts
from mlxtrace.records import Kind, Raw
from mlxtrace.selection import EVERYTHING, Selection

from .raw_records import INITIAL, Clock, Vf
from .test_flows import VDEV, device, flow, kinds, tables
from .test_recording import header

if TYPE_CHECKING:
    from collections.abc import Callable

BDF = "0000:01:00.1"
START_NS = 1_000_000
SECOND_NS = 1_000_000_000


def steady(direction: Kind = Kind.READ, *, looked_at: bool = True) -> tuple[list[bytes], int]:
    """Return the records of 5 s in which 1 MB a second flows, and when they end.

    Ten looks a second are made at it, or none.
    """
    out: list[bytes] = []
    clock = Clock()
    vf = Vf(clock, BDF, VDEV, out)
    vf.go(*(("RUNNING", "PRE_COPY") if direction == Kind.READ else ("STOP", "RESUMING")))
    vf.save(INITIAL, 5_000_000)
    clock.now = START_NS + SECOND_NS // 20
    for _ in range(50):
        vf.flowing(direction, 10, 100_000)
        clock.now += SECOND_NS // 10
        if not looked_at:
            out.pop()
    vf.flow(direction, temporary=1)
    vf.ioctl(0, 0)
    return out, clock.now


def is_look(record: bytes) -> bool:
    return records.kind_of(record) == Kind.FLOWING


def shown(chunks: list[bytes], selection: Selection, end_ns: int, *, as_json: bool) -> str:
    out = io.StringIO()
    printer = output.Output(out, output.meta_of(header()), as_json=as_json, selection=selection)
    decoder = Decoder()
    for chunk in chunks:
        printer.write(decoder.feed(chunk))
    printer.write(decoder.finish(Counters(), end_ns))
    return out.getvalue()


@pytest.mark.parametrize("name", ["read", "write"])
def test_each_interval_has_what_flowed_in_it(name: str) -> None:
    chunks, end_ns = steady(Kind.READ if name == "read" else Kind.WRITE)
    text = shown(chunks, Selection(interval_ns=SECOND_NS), end_ns, as_json=True)
    lines = [json.loads(line) for line in text.splitlines()]
    size, calls = ("read_bytes", "read_calls")
    if name == "write":
        size, calls = ("written_bytes", "write_calls")
    sums = [(line[size], line[calls]) for line in lines if line["type"] == "interval"]
    assert sums == [(1_000_000, 100)] * 5 + [(0, 0)] * (len(sums) - 5)
    (summary,) = (line for line in lines if line["type"] == "summary")
    assert (summary[size], summary[calls], summary["gap_bytes"]) == (5_000_000, 500, 0)


@pytest.mark.parametrize("as_json", [False, True])
def test_rows_and_summaries_do_not_tell_that_it_was_looked_at(as_json: bool) -> None:
    chunks, end_ns = steady()
    plain, _ = steady(looked_at=False)
    assert len(chunks) == len(plain) + 50
    text = shown(chunks, EVERYTHING, end_ns, as_json=as_json)
    assert text == shown(plain, EVERYTHING, end_ns, as_json=as_json)
    assert "flowing" not in text


def test_a_look_may_be_ahead_of_the_record_that_was_made_before_it() -> None:
    """The table is read while a record is still in the ring."""
    out: list[bytes] = []
    vf = Vf(Clock(), BDF, VDEV, out)
    vf.read(3, 300)
    vf.flowing(Kind.READ, 2, 200)
    out[-2:] = reversed(out[-2:])
    vf.flowing(Kind.READ, 1, 50)
    vf.read(1, 10)
    vf.read(4, 40)
    ahead = Ahead()
    events = list(Decoder().feed(b"".join(out)))
    told = [event for event in events if isinstance(event, Read | Flowing)]
    assert [ahead.take(event) for event in told] == [(5, 500), (0, 0), (1, 50), (1, 10), (4, 40)]
    assert ahead.of("read") == (0, 0)
    assert sum(event.bytes for event in told if isinstance(event, Read)) == 600


def test_a_look_is_part_of_no_gap() -> None:
    out: list[bytes] = []
    vf = Vf(Clock(), BDF, VDEV, out)
    vf.go("RUNNING", "PRE_COPY")
    vf.flowing(Kind.READ, 1, 100)
    vf.read()
    vf.go("PRE_COPY", "RUNNING")
    vf.go("RUNNING", "PRE_COPY")
    vf.flowing(Kind.READ, 1, 100)
    vf.read(1, 5)
    decoder = Decoder()
    events = [*decoder.feed(b"".join(out)), *decoder.finish(Counters())]
    reads = [(e.session, e.bytes, e.gap_bytes) for e in events if isinstance(e, Read)]
    assert reads == [(1, 100, 0), (2, 105, 0)]
    (summary,) = (event for event in events if isinstance(event, Summary))
    assert (summary.read_calls, summary.gap_bytes) == (3, 0)


@pytest.mark.parametrize("direction", [Kind.READ, Kind.WRITE])
def test_the_dashboard_goes_on(direction: Kind) -> None:
    chunks, _ = steady(direction)
    model = live.Model(START_NS)
    decoder = Decoder()
    pictures: dict[int, str] = {}
    for chunk in chunks:
        model.take(decoder.feed(chunk))
        out = io.StringIO()
        now_ns = records.unpack(chunk).boot_ns
        Console(file=out, width=80, color_system=None).print(live.render(model, now_ns, 80))
        pictures[now_ns] = out.getvalue()
    looks = [at for at, chunk in zip(pictures, chunks, strict=True) if is_look(chunk)]
    assert "2.4M in 250 calls, now 976.6K/s" in pictures[looks[24]]
    assert "4.8M in 500 calls, now" in list(pictures.values())[-1]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that sets the boot clock, in ns."""

    def set_clock(now: int) -> None:
        monkeypatch.setattr(time, "clock_gettime_ns", lambda _: now)

    return set_clock


def test_the_tables_are_looked_at_now_and_then(at: Callable[[int], None]) -> None:
    reads, writes = flow(calls=3, bytes=300), flow(calls=7, reported=7, bytes=700)
    flows = Flows(*tables(device(reads, writes, announced=1)))
    at(SECOND_NS)
    (record,) = flows.flowing()
    raw = records.unpack(record)
    assert (raw.kind, raw.vdev, raw.boot_ns) == (Kind.FLOWING, VDEV, SECOND_NS)
    assert raw.value[:3] == (0, 3, 300)
    reads.calls, reads.bytes = 5, 500
    at(SECOND_NS + 1)
    assert list(flows.flowing()) == [], "it is too early"
    at(2 * SECOND_NS)
    assert [records.unpack(record).value[:3] for record in flows.flowing()] == [(0, 5, 500)]
    at(3 * SECOND_NS)
    assert list(flows.flowing()) == [], "nothing moved"
    reads.temporary = 1
    at(4 * SECOND_NS)
    assert list(flows.flowing()) == [], "no data moved"
    assert kinds(list(flows.rest())) == [Kind.READ], "which counts it all the same"


def test_a_look_names_the_device_once(at: Callable[[int], None]) -> None:
    reads = flow(calls=3, bytes=300)
    flows = Flows(*tables(device(reads, flow()), device(flow(calls=1), flow(), wanted=0)))
    at(SECOND_NS)
    made = list(flows.flowing())
    assert kinds(made) == [Kind.DEVICE, Kind.FLOWING]
    reads.calls = 4
    at(2 * SECOND_NS)
    made += flows.flowing()
    made += flows.rest()
    assert kinds(made[2:]) == [Kind.FLOWING, Kind.READ]
    events = list(Decoder().feed(b"".join(made)))
    assert [(event.bdf, event.type) for event in events] == [
        *[(BDF, "flowing")] * 2,
        (BDF, "read"),
    ]


def test_a_look_at_the_next_tenant_waits_for_its_name(at: Callable[[int], None]) -> None:
    flows = Flows(*tables(device(flow(calls=3, bytes=300), flow(), announced=1, tenant=2)))

    def name(tenant: int) -> Raw:
        return Raw(1, VDEV, 1, 1, Kind.DEVICE, 0, 0, b"", records.name_values(BDF, tenant))

    flows.named(name(1))
    at(SECOND_NS)
    assert list(flows.flowing()) == []
    flows.named(name(2))
    at(2 * SECOND_NS)
    assert kinds(list(flows.flowing())) == [Kind.FLOWING]


@pytest.mark.parametrize("by_time", [False, True])
def test_a_capture_looks_only_if_asked_to(by_time: bool) -> None:
    capture: Any = Capture([], Layouts("a test", {}))
    capture._bpf = MagicMock()
    capture._bpf["counters"][0].value = 0
    capture._flows = Flows(*tables(device(flow(calls=3, bytes=300), flow(), announced=1)))
    capture.by_time = by_time
    assert bool(capture.poll(0)) is by_time


@pytest.mark.parametrize(
    ("options", "by_time"),
    [
        (precopy.Options(), False),
        (precopy.Options(as_json=True, verbose=True), False),
        (precopy.Options(selection=Selection(interval_ns=SECOND_NS)), True),
        (precopy.Options(live=True), True),
    ],
    ids=["rows", "json", "intervals", "live"],
)
def test_who_asks_for_it(
    options: precopy.Options, by_time: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StoppedError(Exception):
        pass

    class Asked:
        def __init__(self, *_: object, content: bool) -> None:
            self.by_time = content

        def start(self) -> list[object]:
            asked.append(self)
            raise StoppedError

    asked: list[Asked] = []
    monkeypatch.setattr(precopy, "Capture", Asked)
    monkeypatch.setattr(precopy, "load_bcc", lambda: None)
    monkeypatch.setattr(precopy, "_check", lambda _: None)
    monkeypatch.setattr(precopy, "_layouts", lambda _: Layouts("a test", {}))
    with pytest.raises(StoppedError):
        precopy.run(options, io.StringIO())
    assert [capture.by_time for capture in asked] == [by_time]
