# SPDX-License-Identifier: GPL-2.0-or-later
"""Records become the right rows, for the right VF, with honest gaps."""

from __future__ import annotations

import errno

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxtrace import jsonl, records
from mlxtrace.counters import Counters, ProbeCounts
from mlxtrace.decoder import Decoder
from mlxtrace.events import Command, End, Event, Ioctl, Load, Lost, Read, Save, State, Summary
from mlxtrace.mailbox import Opcode
from mlxtrace.records import FLAG_REFUSED, FLAG_UNREADABLE, Kind, Raw
from mlxtrace.text import Text

from .raw_records import (
    CLEANUP,
    FINAL,
    INITIAL,
    MIDDLE,
    Clock,
    Vf,
    source_migrates,
    target_loads,
)

SOURCE, TARGET = "0000:01:00.1", "0000:01:00.2"


class Trace:
    """Two VFs on one clock, and what the decoder makes of their records."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.clock = Clock()
        self.source = Vf(self.clock, SOURCE, 0x1000, self.out)
        self.target = Vf(self.clock, TARGET, 0x9000, self.out)

    def events(self, counters: Counters | None = None) -> list[Event]:
        decoder = Decoder()
        result = list(decoder.feed(b"".join(self.out)))
        return result + list(decoder.finish(counters or Counters()))


@pytest.fixture
def trace() -> Trace:
    return Trace()


def summary(events: list[Event], bdf: str) -> Summary:
    return next(e for e in events if isinstance(e, Summary) and e.bdf == bdf)


def saves(events: list[Event]) -> list[Save]:
    return [event for event in events if isinstance(event, Save)]


def test_a_migration_of_two_vfs_is_told_row_by_row(trace: Trace) -> None:
    source_migrates(trace.source)
    target_loads(trace.target)
    events = trace.events()
    assert [(s.image, s.kind, s.query_bytes, s.image_bytes) for s in saves(events)] == [
        (1, "initial", 8192, 8192),
        (2, "middle", 523, 523),
        (3, "middle", 541, 541),
        (4, "final", 257, 257),
    ]
    assert {s.wait_ns for s in saves(events)} == {1200}
    assert {(s.pid, s.tid, s.comm) for s in saves(events)} == {(8123, 8124, "qemu-kvm")}
    assert [
        (e.precopy_init_size_bytes, e.precopy_dirty_size_bytes)
        for e in events
        if isinstance(e, Ioctl)
    ] == [(8232, 0), (0, 523), (0, 541)]
    assert [(e.kind, e.calls) for e in events if isinstance(e, End)] == [
        ("temporary", 1),
        ("temporary", 1),
        ("temporary", 1),
        ("final", 1),
    ]
    assert [(e.image, e.image_bytes) for e in events if isinstance(e, Load)] == [
        (1, 8192),
        (2, 523),
        (3, 541),
        (4, 257),
    ]
    arcs = [(e.bdf, e.old_state, e.new_state) for e in events if isinstance(e, State)]
    assert arcs == [
        (SOURCE, "RUNNING", "PRE_COPY"),
        (SOURCE, "PRE_COPY", "PRE_COPY_P2P"),
        (SOURCE, "PRE_COPY_P2P", "STOP_COPY"),
        (SOURCE, "STOP_COPY", "STOP"),
        (TARGET, "STOP", "RESUMING"),
        (TARGET, "RESUMING", "STOP"),
        (TARGET, "STOP", "RUNNING_P2P"),
        (TARGET, "RUNNING_P2P", "RUNNING"),
    ]
    of_source = summary(events, SOURCE)
    assert of_source.image_bytes == [8192, 523, 541, 257]
    assert (of_source.initial_images, of_source.middle_images, of_source.final_images) == (1, 2, 1)
    assert of_source.read_bytes == 8232 + 539 + 557 + 273
    assert (of_source.temporary_ends, of_source.final_ends, of_source.ioctls) == (3, 1, 3)
    assert of_source.sessions == 1
    assert (of_source.precopy_ns or 0) > 0
    assert (of_source.stopped_ns or 0) > 0
    assert of_source.dirty_bytes_per_s
    of_target = summary(events, TARGET)
    assert of_target.load_bytes == [8192, 523, 541, 257]
    assert of_target.written_bytes == of_source.read_bytes
    assert of_target.saves == 0


def test_two_vfs_at_once_are_kept_apart(trace: Trace) -> None:
    other: list[bytes] = []
    second = Vf(trace.clock, TARGET, 0x9000, other)
    source_migrates(trace.source)
    source_migrates(second)
    mixed = [record for pair in zip(trace.out[2:], other[1:], strict=True) for record in pair]
    trace.out[2:] = mixed
    events = trace.events()
    for bdf in (SOURCE, TARGET):
        assert summary(events, bdf).image_bytes == [8192, 523, 541, 257]
        assert summary(events, bdf).read_bytes == 8232 + 539 + 557 + 273


def test_a_second_session_counts_from_one_again(trace: Trace) -> None:
    source_migrates(trace.source)
    source_migrates(trace.source)
    events = trace.events()
    assert [(s.session, s.image) for s in saves(events)] == [
        (session, image) for session in (1, 2) for image in (1, 2, 3, 4)
    ]
    assert summary(events, SOURCE).sessions == 2


@pytest.mark.parametrize(
    ("before", "now", "start", "length", "buffers", "size"),
    [
        (100, 100 + 16 + 523, 116, 523, 1, 523),
        (0, 24 + 16 + 523, 40, 523, 1, 523),
        # Drained before anyone looked: the buffer has no place any more.
        (100, 100 + 16 + 523, 0, 4096, 1, 523),
        # Before 6.2: one image, without a header.
        (0, 523, 0, 0, 0, 523),
    ],
)
def test_an_unseen_callback_still_gives_a_row(
    trace: Trace, before: int, now: int, start: int, length: int, buffers: int, size: int
) -> None:
    vf = trace.source
    vf.arc("RUNNING", "PRE_COPY")
    issued = vf.issue(INITIAL)
    seen = vf.put(Kind.SAVE_UNSEEN, vf.work, issued, before, now, start, length, buffers)
    events = trace.events()
    (save,) = saves(events)
    assert not save.callback_seen
    assert (save.kind, save.image_bytes) == ("initial", size)
    assert (save.fw_ns, save.fw_max_ns) == (None, seen - issued)
    assert save.status is None
    assert summary(events, SOURCE).incomplete_saves == 1
    assert summary(events, SOURCE).image_bytes == [size]


def test_saves_that_are_never_seen_to_end(trace: Trace) -> None:
    trace.source.arc("RUNNING", "PRE_COPY")
    trace.source.issue(INITIAL)
    trace.source.issue(MIDDLE)
    events = trace.events()
    assert [(s.kind, s.image_bytes, s.callback_seen) for s in saves(events)] == [
        ("initial", None, False),
        ("middle", None, False),
    ]
    assert [s.in_flight for s in saves(events)] == [False, True], "the driver waited for the first"
    assert isinstance(events[-1], Lost)
    assert events[-1].incomplete_saves == 1


def test_a_callback_whose_issue_was_lost(trace: Trace) -> None:
    trace.source.done(523)
    (save,) = saves(trace.events())
    assert (save.kind, save.image_bytes, save.fw_ns) == ("unknown", 523, None)
    assert save.pid == 0, "the callback interrupts someone who has nothing to do with it"


def test_a_failed_save_keeps_the_firmwares_words(trace: Trace) -> None:
    trace.source.issue(MIDDLE)
    trace.source.done(0, status=9, syndrome=0x3B5F20)
    trace.source.issue(MIDDLE)
    trace.source.done(0, result=-errno.ETIMEDOUT)
    events = trace.events()
    first, second = saves(events)
    assert (first.status_name, first.syndrome, first.errno) == ("BAD_RES_STATE", 0x3B5F20, 0)
    assert (second.status, second.error) == (0, "ETIMEDOUT")
    assert summary(events, SOURCE).failed_saves == 2
    assert summary(events, SOURCE).images == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RUNNING", "PRE_COPY"),
        ("RUNNING_P2P", "PRE_COPY_P2P"),
        ("STOP", "STOP_COPY"),
        ("STOP", "RESUMING"),
    ],
)
def test_a_session_begins_with_no_save_in_flight(trace: Trace, old: str, new: str) -> None:
    vf = trace.source
    vf.go("RUNNING", "PRE_COPY")
    issued = vf.issue(INITIAL)
    vf.work += 64
    begun = vf.issue(FINAL)
    vf.go(old, new)
    vf.read(0, 0, temporary=1)
    events = trace.events()
    assert [(s.session, s.kind, s.callback_seen) for s in saves(events)] == [
        (1, "initial", False),
        (1, "final", False),
    ]
    assert saves(events)[0].fw_max_ns == begun - issued
    assert [e.reason for e in events if isinstance(e, End)] == ["nobody-asked"]
    assert summary(events, SOURCE).incomplete_saves == 2


def test_a_refused_save_has_an_errno_and_nothing_of_the_firmware(trace: Trace) -> None:
    vf = trace.source
    issued = vf.issue(INITIAL)
    vf.put(Kind.SAVE_DONE, vf.work, issued, result=-errno.EBUSY, flags=FLAG_REFUSED)
    events = trace.events()
    (save,) = saves(events)
    assert (save.errno, save.error, save.image_bytes) == (errno.EBUSY, "EBUSY", None)
    assert (save.status, save.status_name, save.fw_ns) == (None, "", None)
    assert summary(events, SOURCE).failed_saves == 1
    (line,) = Text(0).lines(save)
    assert line.split()[-2:] == ["-", "EBUSY"]


def test_kinds_of_saves_by_what_the_vf_does(trace: Trace) -> None:
    vf = trace.source
    vf.arc("RUNNING_P2P", "PRE_COPY_P2P")
    vf.save(INITIAL, 1)
    vf.set_state("PRE_COPY_P2P")
    vf.arc("PRE_COPY_P2P", "RUNNING_P2P")
    vf.save(CLEANUP, 0)
    vf.set_state("RUNNING_P2P")
    vf.arc("STOP", "STOP_COPY")
    vf.save(CLEANUP, 3)
    vf.set_state("STOP_COPY")
    vf.save(FINAL, 4)
    events = trace.events()
    assert [(s.kind, s.image) for s in saves(events)] == [
        ("initial", 1),
        ("cleanup", None),
        ("final", 1),
        ("final", 2),
    ]
    assert summary(events, SOURCE).cleanup_saves == 1
    assert summary(events, SOURCE).images == 3


def test_a_cleanup_that_failed_is_one_when_it_comes_again(trace: Trace) -> None:
    vf = trace.source
    vf.go("RUNNING", "PRE_COPY")
    vf.arc("PRE_COPY", "RUNNING")
    vf.issue(CLEANUP, state="PRE_COPY")
    vf.done(0, status=5)
    vf.set_state("RUNNING")
    for old, new in (("RUNNING", "PRE_COPY"), ("RUNNING_P2P", "STOP"), ("STOP", "RUNNING_P2P")):
        vf.arc(old, new)
        vf.issue(CLEANUP, state=old)
        vf.done(0)
        vf.set_state(new)
    assert [s.kind for s in saves(trace.events())] == ["cleanup"] * 4


def test_started_in_mid_session(trace: Trace) -> None:
    vf = trace.source
    vf.issue(CLEANUP, state="PRE_COPY")
    vf.done(0)
    vf.issue(FINAL, state="STOP_COPY")
    vf.done(5)
    vf.issue(CLEANUP, state="STOP")
    vf.done(5)
    vf.set_state("STOP")
    events = trace.events()
    assert [(s.session, s.kind) for s in saves(events)] == [
        (0, "cleanup"),
        (0, "final"),
        (0, "final"),
    ]
    state = next(e for e in events if isinstance(e, State))
    assert (state.old_state, state.new_state) == ("?", "STOP")


def test_a_failed_arc_and_a_refused_state(trace: Trace) -> None:
    vf = trace.source
    vf.arc("PRE_COPY_P2P", "STOP_COPY")
    vf.set_state("STOP_COPY", result=-errno.EIO)
    vf.set_state("PRE_COPY", result=-errno.EINVAL)
    events = [e for e in trace.events() if isinstance(e, State)]
    assert [(e.old_state, e.new_state, e.error) for e in events] == [
        ("PRE_COPY_P2P", "STOP_COPY", "EIO"),
        ("PRE_COPY_P2P", "PRE_COPY", "EINVAL"),
    ]


def test_requests_for_states_are_counted_not_their_arcs(trace: Trace) -> None:
    vf = trace.source
    vf.arc("RUNNING", "RUNNING_P2P", "STOP")
    vf.arc("RUNNING_P2P", "STOP")
    vf.set_state("STOP")
    vf.set_state("STOP")
    vf.set_state("PRE_COPY", result=-errno.EINVAL)
    found = summary(trace.events(), SOURCE)
    assert (found.state_changes, found.failed_state_changes, found.failed_arcs) == (3, 1, 1)


def test_an_ioctl_that_the_file_does_not_have_is_none(trace: Trace) -> None:
    trace.source.put(Kind.IOCTL, 0x3B7A, 0, 0, 0, result=-errno.ENOTTY)
    trace.source.ioctl(1, 2)
    assert summary(trace.events(), SOURCE).ioctls == 1


def test_ioctls_that_fail_or_cannot_be_read(trace: Trace) -> None:
    trace.source.ioctl(1, 2, result=-errno.EINVAL)
    trace.source.put(Kind.IOCTL, 0x3B79, 0, 1, 2, flags=FLAG_UNREADABLE)
    refused, unreadable = (e for e in trace.events() if isinstance(e, Ioctl))
    assert (refused.error, refused.precopy_init_size_bytes) == ("EINVAL", None)
    assert (unreadable.errno, unreadable.precopy_dirty_size_bytes) == (0, None)


def test_snapshots_are_differences_and_repeats_are_counted(trace: Trace) -> None:
    vf = trace.source
    vf.read(2, 100, temporary=1)
    vf.read(0, 0, temporary=22)
    vf.read(1, 7, again=1)
    vf.read(0, 0, errors=1, errno=errno.ENODEV)
    events = trace.events()
    assert [(e.calls, e.bytes) for e in events if isinstance(e, Read)] == [(2, 100), (1, 7)]
    assert [(e.kind, e.calls, e.error) for e in events if isinstance(e, End)] == [
        ("temporary", 1, ""),
        ("temporary", 22, ""),
        ("again", 1, ""),
        ("error", 1, "ENODEV"),
    ]
    found = summary(events, SOURCE)
    assert (found.temporary_ends, found.again_ends, found.stream_errors) == (23, 1, 1)


def test_a_lost_snapshot_costs_nothing(trace: Trace) -> None:
    trace.source.read(2, 100)
    del trace.out[-1]
    trace.source.read(1, 7)
    assert summary(trace.events(), SOURCE).read_bytes == 107


def test_a_vf_that_is_bound_again_begins_anew(trace: Trace) -> None:
    trace.source.read(5, 100)
    again = Vf(trace.clock, SOURCE, 0x5000, trace.out)
    again.read(7, 300)
    assert summary(trace.events(), SOURCE).read_bytes == 400


def test_load_failures_and_commands(trace: Trace) -> None:
    vf = trace.target
    vf.command(Opcode.LOAD_VHCA_STATE, size=523, status=3, syndrome=0x51, result=-errno.EINVAL)
    vf.command(Opcode.RESUME_VHCA, op_mod=1)
    events = trace.events()
    load = next(e for e in events if isinstance(e, Load))
    assert (load.image_bytes, load.status_name, load.error) == (523, "BAD_PARAM", "EINVAL")
    command = next(e for e in events if isinstance(e, Command))
    assert (command.name, command.op_mod) == ("RESUME", "INITIATOR")
    assert (summary(events, TARGET).failed_loads, summary(events, TARGET).load_bytes) == (1, [])


def test_the_four_losses(trace: Trace) -> None:
    trace.source.put(Kind.LOST, 5)
    counters = Counters(
        lost_records=7,
        probes={
            "save-read": ProbeCounts(entries=101, returns=97, open=1, skipped=2),
            "cmd-exec": ProbeCounts(entries=3, returns=3),
            # No return probe: nothing can be missed.
            "save-callback": ProbeCounts(entries=9, skipped=1),
        },
    )
    events = trace.events(counters)
    first, last = (e for e in events if isinstance(e, Lost))
    assert (first.lost_records, first.at_end) == (5, False)
    assert (last.lost_records, last.missed_returns, last.skipped) == (7, 3, 3)
    assert summary(events, SOURCE).lost_records == 7
    assert Counters.from_json(counters.to_json()) == counters


def test_records_without_a_name_belong_to_no_vf() -> None:
    out: list[bytes] = []
    vf = Vf(Clock(), SOURCE, 0x1000, out)
    vf.query(1)
    decoder = Decoder()
    (event,) = decoder.feed(out[1])
    assert event.bdf is None
    assert not [e for e in decoder.finish(Counters()) if isinstance(e, Summary)]


def test_records_pack_and_unpack() -> None:
    raw = records.Raw(1, 2, 3, 4, Kind.READ, 5, -6, b"comm".ljust(16, b"\0"), tuple(range(10)))
    data = records.pack(raw)
    assert len(data) == records.SIZE == 128
    assert records.unpack(data) == raw
    assert list(records.unpack_all(data * 2 + data[:77])) == [raw, raw]
    name = "8f4c2d1e-0000-4000-8000-0123456789ab"
    named = raw._replace(kind=Kind.DEVICE, value=records.name_values(name))
    assert records.device_name(records.unpack(records.pack(named))) == name


VALUES = st.one_of(st.integers(0, 20), st.integers(0, (1 << 64) - 1))
RAWS = st.builds(
    Raw,
    boot_ns=st.integers(0, (1 << 63) - 1),
    vdev=st.integers(0, 2),
    pid=st.just(1),
    tid=st.integers(1, 2),
    kind=st.sampled_from([*map(int, Kind), 0xFFFF]),
    flags=st.integers(0, 63),
    result=st.integers(-(1 << 31), (1 << 31) - 1),
    comm=st.just(b"\xff"),
    value=st.tuples(*[VALUES] * records.VALUE_COUNT),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(RAWS, max_size=20))
def test_records_that_no_kernel_makes_break_nothing(raws: list[Raw]) -> None:
    decoder = Decoder()
    events = list(decoder.feed(b"".join(map(records.pack, raws))))
    events += decoder.finish(Counters())
    text = Text(0, verbose=True)
    for event in events:
        assert jsonl.line(event)
        list(text.lines(event))
