# SPDX-License-Identifier: GPL-2.0-or-later
"""The stream: why there was no data, whether bytes were missed, how long images waited."""

from __future__ import annotations

import pytest

from mlxtrace import records
from mlxtrace.decoder import Decoder
from mlxtrace.events import Content, Drain, End, Histogram, Read, Summary
from mlxtrace.records import BUCKETS, Kind, Raw
from mlxtrace.text import Text

from .raw_records import FINAL, INITIAL, MIDDLE, Clock, Vf, events, source_migrates

BDF, OTHER = "0000:01:00.1", "0000:01:00.2"


@pytest.fixture
def vf() -> Vf:
    return Vf(Clock(), BDF, 0x1000, [])


def reasons(vf: Vf) -> list[tuple[str, int]]:
    return [(end.reason, end.calls) for end in events(vf, End)]


def test_why_there_is_no_data(vf: Vf) -> None:
    vf.arc("RUNNING", "PRE_COPY")
    vf.issue(INITIAL)
    vf.set_state("PRE_COPY")
    vf.read(temporary=3)
    vf.done(4096)
    vf.read(1, 4112, temporary=1)
    vf.ioctl(0, 0)
    vf.read(temporary=2)
    vf.read(temporary=5)
    vf.ioctl(0, 523)
    vf.issue(MIDDLE, state="PRE_COPY")
    vf.read(temporary=7)
    vf.done(0, status=9, syndrome=0xABC)
    vf.ioctl(0, 0)
    vf.read(temporary=11)
    vf.arc("PRE_COPY", "STOP_COPY")
    vf.save(FINAL, 4096)
    vf.read(1, 4112, final=2, again=1)
    assert reasons(vf) == [
        ("save-in-flight", 3),
        ("nobody-asked", 1),
        ("idle", 2),
        ("nobody-asked", 5),
        ("save-in-flight", 7),
        ("fallback", 11),
        ("", 2),
        ("", 1),
    ]
    (summary,) = events(vf, Summary)
    assert summary.temporary_ends == 29
    assert (
        summary.temporary_ends_idle,
        summary.temporary_ends_in_flight,
        summary.temporary_ends_fallback,
        summary.temporary_ends_unasked,
    ) == (2, 10, 11, 6)


def test_the_next_session_starts_with_a_clean_sheet(vf: Vf) -> None:
    vf.go("RUNNING", "PRE_COPY")
    vf.issue(MIDDLE, state="PRE_COPY")
    vf.done(0, status=9)
    vf.ioctl(0, 0)
    vf.go("PRE_COPY", "RUNNING")
    vf.go("RUNNING", "PRE_COPY")
    vf.read(temporary=1)
    vf.ioctl(0, 0)
    vf.read(temporary=1)
    assert reasons(vf) == [("nobody-asked", 1), ("idle", 1)]


def test_other_drivers_answer_0_where_there_is_no_data_for_now(vf: Vf) -> None:
    vf.go("RUNNING", "PRE_COPY")
    vf.read(1, 100, final=2)
    vf.go("PRE_COPY", "STOP_COPY")
    vf.read(1, 100, final=1)
    assert [(end.kind, end.calls) for end in events(vf, End)] == [("temporary", 2), ("final", 1)]


def test_the_file_is_where_the_bytes_that_were_seen_end(vf: Vf) -> None:
    source_migrates(vf)
    source_migrates(vf)
    flows = events(vf, Read)
    assert {(flow.session, flow.gap_bytes) for flow in flows} == {(1, 0), (2, 0)}
    assert [flow.position_bytes for flow in flows[:2]] == [8232, 8771]
    assert {end.gap_bytes for end in events(vf, End)} == {0}
    assert events(vf, Summary)[0].gap_bytes == 0


def test_bytes_that_nobody_saw_are_a_gap(vf: Vf) -> None:
    vf.go("RUNNING", "PRE_COPY")
    vf.read(1, 100)
    vf.positions[Kind.READ] += 7
    vf.read(1, 100, temporary=1)
    assert [flow.gap_bytes for flow in events(vf, Read)] == [0, 7]
    assert events(vf, Summary)[0].gap_bytes == 7


def test_a_session_that_was_not_seen_to_begin_has_no_gap(vf: Vf) -> None:
    vf.read(1, 100)
    (flow,) = events(vf, Read)
    assert (flow.position_bytes, flow.gap_bytes) == (100, None)


def test_what_two_threads_tell_in_the_wrong_order_is_told_once(vf: Vf) -> None:
    vf.crossed(Kind.READ, 3, 700, temporary=2, errors=1)
    vf.read(1, 50, temporary=1)
    found = events(vf, Read)
    assert (sum(each.calls for each in found), sum(each.bytes for each in found)) == (7, 1450)
    ends = events(vf, End)
    assert sum(each.calls for each in ends if each.kind == "temporary") == 5
    assert sum(each.calls for each in ends if each.kind == "error") == 2


def test_a_recording_from_before_positions_is_read(vf: Vf) -> None:
    vf.go("RUNNING", "PRE_COPY")
    vf.put(Kind.READ, 1, 100, 50, 1, 2, 0, 0, 0, 3, 19)
    (flow,) = events(vf, Read)
    assert (flow.bytes, flow.position_bytes, flow.gap_bytes) == (100, None, None)
    (end,) = events(vf, End)
    assert (end.kind, end.error, end.calls) == ("error", "ENODEV", 3)


def test_the_way_of_an_image_is_told_in_its_parts(vf: Vf) -> None:
    source_migrates(vf)
    drains = events(vf, Drain)
    assert [(d.image, d.kind, d.start_bytes, d.end_bytes) for d in drains] == [
        (1, "initial", 24, 8232),
        (2, "middle", 8232, 8771),
        (3, "middle", 8771, 9328),
        (4, "final", 9328, 9601),
    ]
    assert {(d.queued_ns, d.drain_ns) for d in drains} == {(800, 700)}
    assert all(d.wait_ns == 1200 and d.fw_ns for d in drains)
    (summary,) = events(vf, Summary)
    assert (summary.drained_images, summary.queued_ns, summary.drain_ns) == (4, 3200, 2800)
    lines = [line for drain in drains for line in Text(0, verbose=True).lines(drain)]
    assert "1 initial, 0 behind" in lines[0]


def test_an_image_whose_completion_was_not_seen_waited_nobody_knows_how_long(vf: Vf) -> None:
    vf.go("RUNNING", "PRE_COPY")
    vf.drained(0, 100, unseen=True, behind=50)
    (drain,) = events(vf, Drain)
    assert (drain.image, drain.kind, drain.queued_ns) == (None, "unknown", None)
    assert (drain.images_behind, drain.bytes_behind) == (1, 50)


def test_histograms_are_of_the_time_since_the_last(vf: Vf) -> None:
    vf.histogram(0, 0, {9: 2, 20: 23})
    vf.histogram(0, 1, {0: 1, BUCKETS - 1: 25})
    vf.histogram(0, 0, {9: 2, 20: 30})
    first, slow, second = events(vf, Histogram)
    assert (first.direction, first.measure) == ("read", "size_bytes")
    assert first.counts == [0] * 9 + [2] + [0] * 10 + [23]
    assert (slow.measure, slow.counts) == ("latency_ns", [1] + [0] * 30 + [25])
    assert second.counts == [0] * 20 + [7]


def test_a_histogram_is_drawn(vf: Vf) -> None:
    vf.histogram(1, 0, {0: 1, 2: 4})
    (event,) = events(vf, Histogram)
    assert list(Text(0).lines(event)) == []
    lines = list(Text(0, verbose=True).lines(event))
    assert "HIST  write size in bytes" in lines[0]
    assert [line.split() for line in lines[1:]] == [
        ["0", "->", "1", ":", "1", "|*******", "|"],
        ["2", "->", "3", ":", "0", "|", "|"],
        ["4", "->", "7", ":", "4", "|" + "*" * 30 + "|"],
    ]
    assert max(map(len, lines)) < 100


@pytest.mark.parametrize("what", [2, 2 << 8, 255 << 16, 1 << 40])
def test_a_histogram_that_makes_no_sense_breaks_nothing(vf: Vf, what: int) -> None:
    raw = Raw(1, 0x1000, 1, 1, Kind.HISTOGRAM, records.FLAG_LAST, 0, b"", (what, 1, 2, 3))
    vf.out.append(records.pack(raw))
    assert len(events(vf, Histogram)) <= 1


@pytest.mark.parametrize("in_turn", [False, True])
def test_a_vf_at_another_ones_address_has_none_of_its_totals(in_turn: bool) -> None:
    """Whether the program begins anew with each, or goes on as it did once."""
    out: list[bytes] = []
    clock = Clock()
    first = Vf(clock, BDF, 0x1000, out, tenant=1 if in_turn else 0)
    first.go("RUNNING", "PRE_COPY")
    first.read(10, 10_000, temporary=1)
    first.content(0, 50, 20, 0)
    first.histogram(0, 0, {9: 10})
    first.go("PRE_COPY", "RUNNING")
    # It is unbound, and the other one's struct comes to be where its was.
    second = Vf(clock, OTHER, 0x1000, out, tenant=2 if in_turn else 0)
    if not in_turn:
        second.flows = first.flows
    second.go("RUNNING", "PRE_COPY")
    second.read(30, 300_000, temporary=1)
    if in_turn:
        second.content(0, 7, 1, 0)
        second.histogram(0, 0, {9: 30})
    else:
        second.content(0, 57, 21, 0)
        second.histogram(0, 0, {9: 40})
    second.go("PRE_COPY", "RUNNING")
    # And back: this one's totals are not what they were when it left.
    third = Vf(clock, BDF, 0x1000, out, tenant=3 if in_turn else 0)
    if not in_turn:
        third.flows = first.flows
    third.go("RUNNING", "PRE_COPY")
    third.read(100, 500_000)
    # Told again, the name changes nothing.
    third = Vf(clock, BDF, 0x1000, out, tenant=3 if in_turn else 0)
    found = list(Decoder().feed(b"".join(out)))
    reads = [event for event in found if isinstance(event, Read)]
    assert [(read.bdf, read.calls, read.bytes, read.gap_bytes) for read in reads] == [
        (BDF, 10, 10_000, 0),
        (OTHER, 30, 300_000, 0),
        (BDF, 100, 500_000, 0),
    ]
    contents = [event for event in found if isinstance(event, Content)]
    assert [(sums.content_sum, sums.samples) for sums in contents] == [(50, 20), (7, 1)]
    histograms = [event for event in found if isinstance(event, Histogram)]
    assert [sum(histogram.counts) for histogram in histograms] == [10, 30]


def test_what_was_told_before_the_name_is_not_told_again() -> None:
    out: list[bytes] = []
    vf = Vf(Clock(), BDF, 0x1000, out)
    (name,) = out
    out.clear()
    vf.read(2, 200)
    out.append(name)
    vf.read(1, 100)
    found = list(Decoder().feed(b"".join(out)))
    reads = [event for event in found if isinstance(event, Read)]
    assert [(read.bdf, read.calls, read.bytes) for read in reads] == [
        (None, 2, 200),
        (BDF, 1, 100),
    ]
