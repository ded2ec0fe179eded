# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a VMM is held up by its questions: the pre-copy ioctl, and GET_STATE."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlxtrace import records, summary_text
from mlxtrace.buckets import Buckets
from mlxtrace.counters import Counters
from mlxtrace.decoder import Decoder
from mlxtrace.events import Event, Histogram, Summary
from mlxtrace.flows import Flows
from mlxtrace.records import BUCKETS, Kind
from mlxtrace.text import Text

from .native import BUFFERS, MLX5, Memory, Native, Vf
from .raw_records import Clock, source_migrates
from .raw_records import Vf as Records
from .test_flows import STOPPED, device, flow, kinds, tables

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ONE, TWO = "0000:01:00.1", "0000:01:00.2"
STALL_NS = 3_000_000


def summary(chunks: Iterable[bytes], counters: Counters | None) -> tuple[list[Event], Summary]:
    decoder = Decoder()
    events = list(decoder.feed(b"".join(chunks)))
    (found,) = (each for each in decoder.finish(counters) if isinstance(each, Summary))
    return events, found


def test_questions_for_the_state_are_sorted_by_the_kernel(tmp_path: Path) -> None:
    native = Native(tmp_path, MLX5 | BUFFERS)
    place = Memory()
    vf = Vf(native, ONE, at=place)
    for took_ns in (0, 0, 0, STALL_NS):
        vf.asked(took_ns)
    counts, longest = native.asked()
    assert {power: number for power, number in enumerate(counts) if number} == {6: 3, 21: 1}
    assert STALL_NS <= longest < STALL_NS + 1000
    assert native.made() == [], "none of them is told"
    # Of another VF at the same address they are not.
    Vf(native, TWO, vhca=8, at=place).asked(0)
    counts, longest = native.asked()
    assert (sum(counts), longest < 1000) == (1, True)


def test_they_are_told_when_a_session_may_end_and_at_the_end() -> None:
    asked = device(flow(), flow())
    flows = Flows(*tables(asked))
    assert list(flows.after(STOPPED)) == list(flows.rest()) == []
    asked.asked[6], asked.asked[21], asked.asked_longest = 98, 2, STALL_NS
    made = list(flows.rest())
    assert kinds(made) == [Kind.DEVICE, Kind.LONGEST, Kind.HISTOGRAM, Kind.HISTOGRAM]
    asked.asked[6] += 100
    again = list(flows.after(STOPPED))
    assert kinds(again) == [Kind.LONGEST, Kind.HISTOGRAM, Kind.HISTOGRAM]
    assert list(flows.rest()) == []
    events, found = summary([*made, *again], Counters())
    assert [event.type for event in events] == ["histogram"] * 2
    first, second = (event for event in events if isinstance(event, Histogram))
    assert (first.bdf, first.direction, first.measure) == (ONE, "get_state", "latency_ns")
    assert (first.counts[6], first.counts[21], sum(second.counts)) == (98, 2, 100)
    assert (found.get_states, found.get_state_p50_ns) == (200, 127)
    assert (found.get_state_p99_ns, found.get_state_max_ns) == (127, STALL_NS)
    _, cut = summary([*made, *again], None)
    assert cut.get_states is None, "some may not have been told yet"


@pytest.mark.parametrize(
    ("counts", "longest", "expected"),
    [
        ([], 0, (None, None, None)),
        ([1], 0, (0, 0, 0)),
        ([0] * 10 + [99, 1], 3000, (2047, 2047, 3000)),
        ([0] * 10 + [98, 2], 3000, (2047, 3000, 3000)),
        ([0] * 31 + [5], 1 << 40, (1 << 40, 1 << 40, 1 << 40)),
        # More than a recording of ours has.
        ([0] * BUCKETS + [7], 9, (None, None, None)),
    ],
)
def test_bounds(counts: list[int], longest: int, expected: tuple[int | None, ...]) -> None:
    found = Buckets()
    found.saw(longest)
    found.add(counts)
    assert tuple(found.spread("x").values()) == expected
    assert list(found.spread("x")) == ["x_p50_ns", "x_p99_ns", "x_max_ns"]


def test_precopy_ioctls_have_their_spread() -> None:
    out: list[bytes] = []
    vf = Records(Clock(), ONE, 0x10, out)
    source_migrates(vf)
    before = vf.clock.now
    vf.clock.now += STALL_NS
    vf.put(Kind.IOCTL, 0x3B79, before, 1, 2)
    _, found = summary(out, Counters())
    assert (found.ioctls, found.ioctl_p50_ns) == (4, 1000)
    assert found.ioctl_p99_ns == found.ioctl_max_ns == STALL_NS + 1000
    silent: list[bytes] = []
    Records(Clock(), ONE, 0x10, silent).go("RUNNING", "RUNNING_P2P")
    _, found = summary(silent, Counters())
    assert (found.ioctl_p50_ns, found.ioctl_max_ns) == (None, None)


def test_people_see_them_with_v() -> None:
    out: list[bytes] = []
    vf = Records(Clock(), ONE, 0x10, out)
    source_migrates(vf)
    vf.put(Kind.LONGEST, STALL_NS)
    vf.histogram(2, 1, {6: 98, 21: 2})
    events, found = summary(out, Counters())
    said = list(summary_text.summary(found, verbose=True))
    assert "  INFO      0.001/0.001/0.001 ms (p50/p99/max), 3 calls" in said
    bound = "(p50/p99/max, p50 and p99 at most)"
    assert f"  GET_STATE 0.000/3.000/3.000 ms {bound}, 100 calls" in said
    assert max(map(len, said)) < 100
    quiet = list(summary_text.summary(found))
    assert said[: len(quiet)] == quiet
    assert not any("GET_STATE" in line for line in quiet)
    assert said == list(Text(0, verbose=True).lines(found))
    rows = [line for event in events for line in Text(0, verbose=True).lines(event)]
    assert any(line.endswith("HIST  get_state latency in ns") for line in rows)


def test_the_directions_of_a_histogram_are_the_streams_and_one_more() -> None:
    assert records.DIRECTIONS == ("read", "write", "get_state")
