# SPDX-License-Identifier: GPL-2.0-or-later
"""The closing verdicts, from events alone: rates, convergence, downtime by phase, losses."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import pytest

from mlxtrace import summary_text
from mlxtrace.convergence import percentile, spread
from mlxtrace.counters import Counters, ProbeCounts
from mlxtrace.decoder import Decoder
from mlxtrace.events import Lost, Summary
from mlxtrace.mailbox import Opcode
from mlxtrace.records import Kind

from .raw_records import FINAL, INITIAL, MIDDLE, STEP_NS, Clock, Vf, source_migrates, target_loads

if TYPE_CHECKING:
    from collections.abc import Callable

BDF = "0000:01:00.1"


def summed(make: Callable[[Vf], None], *, later_ns: int = 0) -> Summary:
    """Return the summary of what ``make`` does; the trace ends ``later_ns`` after it."""
    out: list[bytes] = []
    clock = Clock()
    make(Vf(clock, BDF, 0x10, out))
    decoder = Decoder()
    list(decoder.feed(b"".join(out)))
    events = decoder.finish(Counters(), clock.now + later_ns)
    (found,) = (event for event in events if isinstance(event, Summary))
    return found


def text(event: Summary) -> str:
    return "\n".join(summary_text.summary(event))


def test_downtime_of_a_source_adds_up() -> None:
    found = summed(source_migrates)
    phases = (
        found.suspend_responder_ns,
        found.final_query_ns,
        found.final_buffer_ns,
        found.final_wait_ns,
        found.final_save_ns,
        found.final_read_ns,
    )
    assert found.suspend_initiator_ns is None, "it was not seen, and that is not 0"
    assert None not in phases
    assert sum(part or 0 for part in phases) <= (found.stopped_ns or 0)
    assert found.final_save_ns == 2 * STEP_NS
    assert found.final_read_ns == STEP_NS
    assert found.final_wait_ns == 1200, "from the entry to the issue"
    assert "suspend initiator -, responder 0.001" in text(found)


def test_buffer_time_lies_between_query_and_save() -> None:
    def slow_buffer(vf: Vf) -> None:
        vf.go("RUNNING", "RUNNING_P2P")
        vf.command(Opcode.SUSPEND_VHCA, op_mod=0)
        vf.command(Opcode.SUSPEND_VHCA, op_mod=1)
        vf.query(257)
        vf.clock.now += 1_000_000
        vf.issue(FINAL, state="STOP")
        vf.done(257)
        vf.read(1, 257, final=1)

    found = summed(slow_buffer)
    assert found.final_buffer_ns == 1_000_000 - 200
    assert found.suspend_initiator_ns == found.suspend_responder_ns == STEP_NS


def test_phases_of_two_migrations_are_summed_and_of_cancelled_ones_forgotten() -> None:
    def twice(vf: Vf) -> None:
        source_migrates(vf)
        vf.go("STOP", "RUNNING")
        source_migrates(vf)

    def cancelled(vf: Vf) -> None:
        vf.go("RUNNING", "PRE_COPY")
        vf.go("PRE_COPY", "PRE_COPY_P2P")
        vf.command(Opcode.SUSPEND_VHCA, op_mod=0)
        vf.go("PRE_COPY_P2P", "RUNNING")

    assert summed(twice).final_save_ns == 2 * (summed(source_migrates).final_save_ns or 0)
    assert summed(cancelled).suspend_initiator_ns is None


@pytest.mark.parametrize("way", [("PRE_COPY", "STOP_COPY"), ("STOP", "STOP_COPY")])
def test_a_driver_without_p2p_stops_at_once(way: tuple[str, str]) -> None:
    def stops(vf: Vf) -> None:
        vf.clock.now += 1_000_000
        for old, new in itertools.pairwise(("RUNNING", *way)):
            vf.arc(old, new)
            if new != "PRE_COPY":
                vf.clock.now += 100_000_000
            vf.set_state(new)
        vf.read(2, 2000, final=1)
        vf.clock.now += 1_000_000_000
        vf.go("STOP_COPY", "STOP")

    stopped = 100_000_000 * (2 - ("PRE_COPY" in way))
    assert stopped < (summed(stops).stopped_ns or 0) < stopped + 10 * STEP_NS


def test_pre_copy_and_back_is_no_downtime() -> None:
    def cancelled(vf: Vf) -> None:
        vf.go("RUNNING", "PRE_COPY")
        vf.go("PRE_COPY", "RUNNING")
        vf.read(final=1)

    assert summed(cancelled).stopped_ns == 0


def test_suspending_a_target_is_no_downtime() -> None:
    def target(vf: Vf) -> None:
        vf.command(Opcode.SUSPEND_VHCA, op_mod=0)
        vf.command(Opcode.SUSPEND_VHCA, op_mod=1)
        target_loads(vf)

    assert summed(target).suspend_responder_ns is None


def test_downtime_of_a_target() -> None:
    def target(vf: Vf) -> None:
        target_loads(vf, (8192, 257))
        vf.command(Opcode.RESUME_VHCA)

    def resuming(vf: Vf) -> None:
        vf.go("STOP", "RESUMING")
        vf.command(Opcode.LOAD_VHCA_STATE, size=257)
        vf.go("RESUMING", "STOP")
        vf.arc("STOP", "RUNNING")
        vf.command(Opcode.RESUME_VHCA, op_mod=0)
        vf.command(Opcode.RESUME_VHCA, op_mod=1)
        vf.set_state("RUNNING")

    assert summed(target).final_load_ns == STEP_NS
    found = summed(resuming)
    assert found.resume_fw_ns == 2 * STEP_NS
    assert found.resume_ns is not None
    assert found.resume_ns >= found.resume_fw_ns
    assert "from the last LOAD to RUNNING, of it firmware 0.002 ms" in text(found)


def loads(vf: Vf) -> None:
    vf.go("STOP", "RESUMING")
    vf.write(1, 600)
    vf.command(Opcode.LOAD_VHCA_STATE, size=500)


def is_paused(vf: Vf) -> None:
    """Its guest is stopped and goes on, ten minutes later."""
    vf.clock.now += 600_000_000_000
    vf.go("RUNNING", "RUNNING_P2P")
    vf.go("RUNNING_P2P", "STOP")
    vf.go("STOP", "RUNNING_P2P")
    vf.command(Opcode.RESUME_VHCA, op_mod=0)
    vf.go("RUNNING_P2P", "RUNNING")


def is_reset(vf: Vf) -> None:
    vf.taken(Kind.RESET, "RESUMING", "mlx5vf_pci_aer_reset_done+0x10", resuming=1)
    is_paused(vf)


def becomes_a_source(vf: Vf) -> None:
    vf.go("RESUMING", "STOP")
    vf.go("STOP", "STOP_COPY")
    vf.save(FINAL, 100)
    vf.go("STOP_COPY", "STOP")
    is_paused(vf)


def is_given_another_stream(vf: Vf) -> None:
    vf.go("RESUMING", "STOP")
    vf.go("STOP", "RESUMING")
    vf.go("RESUMING", "STOP")
    is_paused(vf)


@pytest.mark.parametrize("then", [is_reset, becomes_a_source, is_given_another_stream])
def test_what_was_loaded_is_only_resumed_in_its_own_session(then: Callable[[Vf], None]) -> None:
    def target(vf: Vf) -> None:
        loads(vf)
        then(vf)

    found = summed(target)
    assert found.final_load_ns == STEP_NS
    assert (found.resume_ns, found.resume_fw_ns) == (None, None)


def precopy(dirty: int, *, read: int) -> Callable[[Vf], None]:
    """Three rounds a second apart, ``dirty`` bytes each, read at ``read`` bytes a second."""

    def make(vf: Vf) -> None:
        vf.arc("RUNNING", "PRE_COPY")
        vf.issue(INITIAL)
        vf.done(4096)
        vf.set_state("PRE_COPY")
        for _ in range(2):
            vf.clock.now += 1_000_000_000
            vf.issue(MIDDLE, state="PRE_COPY")
            vf.done(dirty)
            total = vf.flows[next(iter(vf.flows))]
            total[2] += 1_000_000_000
            vf.read(1, read)
        vf.ioctl(100, dirty)

    return make


def test_convergence_is_reading_faster_than_dirtying() -> None:
    good, bad = summed(precopy(1000, read=50_000)), summed(precopy(50_000, read=1000))
    assert good.rounds == bad.rounds == 3
    assert good.converging is True
    assert bad.converging is False
    assert 990 <= (good.dirty_bytes_per_s or 0) <= 1000
    assert 49_000 <= (good.read_bytes_per_s or 0) <= 51_000
    assert "-> converging" in text(good)
    assert "-> not converging" in text(bad)


def test_the_verdict_is_that_of_the_last_session() -> None:
    calm, wild = precopy(1000, read=50_000_000), precopy(50_000, read=1000)

    def both(first: Callable[[Vf], None], second: Callable[[Vf], None]) -> Callable[[Vf], None]:
        def make(vf: Vf) -> None:
            first(vf)
            vf.go("PRE_COPY", "RUNNING")
            vf.clock.now += 3_600_000_000_000
            second(vf)

        return make

    for first, second in ((calm, wild), (wild, calm)):
        alone, after = summed(second), summed(both(first, second))
        for key in ("read_bytes_per_s", "dirty_bytes_per_s", "converging"):
            assert getattr(after, key) == getattr(alone, key), key
        for key in ("stopped_now_bytes", "stopped_now_save_ns", "stopped_now_read_ns"):
            assert getattr(after, key) == getattr(alone, key), key
        assert after.rounds == 2 * alone.rounds


def test_a_session_without_pre_copy_has_no_verdict_of_the_one_before() -> None:
    def then_stops(vf: Vf) -> None:
        source_migrates(vf)
        vf.go("STOP", "STOP_COPY")
        vf.read(1, 100)

    found = summed(then_stops)
    assert (found.dirty_bytes_per_s, found.converging) == (None, None)
    assert found.read_bytes_per_s == 200_000_000, "100 bytes in 500 ns"


def test_what_it_would_cost_to_stop_now() -> None:
    at_once = summed(precopy(1000, read=50_000))
    later = summed(precopy(1000, read=50_000), later_ns=10_000_000_000)
    assert at_once.stopped_now_bytes == 1100, "initial and dirty bytes of the last ioctl"
    assert later.stopped_now_bytes is not None
    assert 10_900 <= later.stopped_now_bytes <= 11_100, "and what was dirtied since"
    assert at_once.stopped_now_save_ns == at_once.save_fw_p50_ns
    assert at_once.stopped_now_read_ns is not None
    assert "if stopped now: 1.1K to read" in text(at_once)
    over = summed(source_migrates)
    assert over.stopped_now_bytes is None, "it was stopped already"
    assert "if stopped now" not in text(over)
    assert over.precopy_dirty_size_bytes == 541


def test_without_a_middle_image_nobody_knows() -> None:
    def one_round(vf: Vf) -> None:
        vf.go("RUNNING", "PRE_COPY")
        vf.save(INITIAL, 100)
        vf.read(1, 100)

    found = summed(one_round)
    assert found.converging is None
    assert found.dirty_bytes_per_s is None
    assert "convergence unknown" in text(found)


def test_save_times_have_their_spread() -> None:
    assert percentile([], 50) is None
    assert [percentile(range(1, 101), p) for p in (50, 99, 100)] == [50, 99, 100]
    assert [percentile([7], p) for p in (50, 99)] == [7, 7]
    assert spread("x", [3, 1, 2]) == {"x_p50_ns": 2, "x_p99_ns": 3, "x_max_ns": 3}
    found = summed(source_migrates)
    assert found.queued_p50_ns is not None
    assert found.wait_max_ns == 1200
    assert found.save_fw_p50_ns == found.save_fw_p99_ns == found.save_fw_max_ns == 2 * STEP_NS


def has_troubles(vf: Vf) -> None:
    """A target whose writes fail, after one LOAD; then its stream has a gap, and it is reset."""
    loads(vf)
    vf.write(errors=3, errno=5)
    vf.positions[Kind.WRITE] += 7
    vf.write(1, 10)
    vf.arc("RESUMING", "STOP")
    vf.set_state("STOP", result=-5)
    vf.taken(Kind.RESET, "RESUMING", "mlx5vf_pci_aer_reset_done+0x10", resuming=1)
    vf.arc("RUNNING", "STOP")


def is_a_source_too(vf: Vf) -> None:
    has_troubles(vf)
    vf.set_state("STOP")
    vf.go("STOP", "STOP_COPY")
    vf.save(FINAL, 100)
    vf.arc("STOP_COPY", "STOP")


@pytest.mark.parametrize("make", [has_troubles, is_a_source_too])
def test_either_role_tells_what_went_wrong_and_once(make: Callable[[Vf], None]) -> None:
    told = text(summed(make))
    for said in (
        ", 3 errors\n",
        "  gaps      7 bytes of the stream went past the probe\n",
        "  aborted   1 session that no SET_STATE ended\n",
        "  failed    1 state change\n",
        "  in flight 1 call had not returned at the end\n",
    ):
        assert told.count(said) == 1, said
    assert "loaded 1 image" in told
    assert ("saved 1 image" in told) == (make is is_a_source_too)


def test_a_target_that_is_well_has_no_errors() -> None:
    told = text(summed(target_loads))
    assert "writes, 0 errors\n" in told
    for word in ("gaps", "aborted", "failed  ", "in flight", "unseen"):
        assert word not in told


def test_a_target_whose_load_failed_alone_is_no_source() -> None:
    def refuses(vf: Vf) -> None:
        vf.go("STOP", "RESUMING")
        vf.write(1, 10)

    assert "saved" not in text(summed(refuses))


def huge(event: Summary) -> Summary:
    """``event`` with 20 minutes for each time, and a terabyte for each size."""
    changes: dict[str, object] = {}
    for field in dataclasses.fields(event):
        if field.name.endswith("_ns") and field.name != "boot_ns":
            changes[field.name] = 1_234_567_890_123
        elif field.name.endswith(("_bytes", "_bytes_per_s")) and "image" not in field.name:
            changes[field.name] = None if field.name == "load_bytes" else 1 << 40
    changes["load_bytes"] = event.load_bytes
    return dataclasses.replace(event, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [source_migrates, target_loads, precopy(1, read=2)])
def test_lines_are_short_whatever_they_say(make: Callable[[Vf], None]) -> None:
    event = dataclasses.replace(
        huge(summed(make)), saves=100_000, loads=100_000, temporary_ends=100_000, aborts=3
    )
    lines = text(event).splitlines()
    assert max(map(len, lines)) < 100
    assert any(BDF in line for line in lines)


def lost(**values: int | None) -> list[str]:
    known: dict[str, int | None] = dict.fromkeys(
        ("lost_records", "missed_returns", "skipped", "incomplete_saves", "untracked"), 0
    )
    event = Lost(bdf=None, boot_ns=0, at_end=True, unowned_calls={}, **{**known, **values})
    return list(summary_text.losses(event))


def test_no_loss_is_told_in_zeros() -> None:
    blank, line = lost()
    assert not blank
    assert line == (
        "lost 0 (ring)  missed 0 (returns)  skipped 0 (kernel)  "
        "incomplete 0 (SAVE without callback)"
    )


@pytest.mark.parametrize(
    ("key", "knob"),
    [
        ("lost_records", "raise --ring-pages"),
        ("missed_returns", "--without"),
        ("skipped", "--without"),
        ("incomplete_saves", "mlxtrace doctor"),
        ("untracked", "tables"),
    ],
)
def test_each_loss_names_its_knob(key: str, knob: str) -> None:
    lines = lost(**{key: 1_234_567})
    assert knob in " ".join(lines[2:])
    assert max(map(len, lines)) < 100


def test_a_cut_recording_claims_no_zeros() -> None:
    (_, line) = lost(lost_records=None)
    assert "unknown" in line


def test_counters_reach_the_line() -> None:
    decoder = Decoder()
    counters = Counters(lost_records=3, probes={"save-read": ProbeCounts(5, 4)})
    (event,) = decoder.finish(counters, 1)
    assert isinstance(event, Lost)
    assert next(line for line in summary_text.losses(event) if line).startswith(
        "lost 3 (ring)  missed 1 (returns)"
    )
