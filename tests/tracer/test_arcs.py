# SPDX-License-Identifier: GPL-2.0-or-later
"""Arcs whose SET_STATE was not seen to return, and SET_STATEs of several threads at once."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mlxtrace import output
from mlxtrace.counters import Counters
from mlxtrace.decoder import Decoder
from mlxtrace.events import Event, Lost, State, Summary
from mlxtrace.mailbox import STATES
from mlxtrace.records import Kind
from mlxtrace.text import Text

from .raw_records import Clock, SomeEvent, Vf

if TYPE_CHECKING:
    from collections.abc import Iterable

BDF = "0000:01:00.1"
LATER_NS = 30_000_000_000
ONE, TWO = 8124, 99


def vf() -> Vf:
    return Vf(Clock(), BDF, 0x10, [])


def begins(made: Vf, tid: int, old: str, new: str, asked: str = "") -> int:
    states = map(STATES.index, (old, asked or new, new))
    return made.put(Kind.STEP, *states, made.clock.now, tid=tid)


def returns(made: Vf, tid: int, asked: str, result: int = 0) -> int:
    value = (STATES.index(asked), made.clock.now, 0)
    return made.put(Kind.SET_STATE, *value, result=result, tid=tid)


def events(made: Vf) -> list[Event]:
    decoder = Decoder()
    return [*decoder.feed(b"".join(made.out)), *decoder.finish(Counters(), made.clock.now)]


def of(kind: type[SomeEvent], found: Iterable[Event]) -> list[SomeEvent]:
    return [event for event in found if isinstance(event, kind)]


def told(made: Vf) -> list[tuple[str, str, int | None, int]]:
    return [(e.old_state, e.new_state, e.errno, e.tid) for e in of(State, events(made))]


def test_a_failure_whose_return_was_lost_is_no_success() -> None:
    made = vf()
    made.arc("RUNNING", "PRE_COPY")
    made.clock.now += LATER_NS
    made.go("RUNNING", "PRE_COPY")
    found = events(made)
    first, second = of(State, found)
    assert (first.errno, first.error, first.duration_ns) == (None, "", None)
    assert first.duration_max_ns == LATER_NS
    assert (second.errno, second.duration_ns) == (0, 1000)
    (row, _) = (line for event in of(State, found) for line in Text(0).lines(event))
    assert row.endswith("<30000.000 unseen")
    (summary,) = of(Summary, found)
    assert (summary.unseen_arcs, summary.failed_arcs) == (1, 0)
    assert (summary.precopy_ns or LATER_NS) < LATER_NS, "it never got there"
    (lost,) = of(Lost, found)
    assert lost.unseen_arcs == 1
    assert not output.is_complete(lost)
    assert any("1 state change (unseen)" in line for line in Text(0).lines(lost))


def test_the_next_state_tells_that_it_got_there_but_not_when() -> None:
    made = vf()
    made.arc("RUNNING", "PRE_COPY")
    made.clock.now += LATER_NS
    made.go("PRE_COPY", "RUNNING")
    first, _ = of(State, events(made))
    assert (first.errno, first.duration_ns, first.duration_max_ns) == (0, None, LATER_NS)
    (summary,) = of(Summary, events(made))
    assert summary.unseen_arcs == 1
    assert (summary.precopy_ns or 0) > LATER_NS


def test_arcs_of_one_set_state_end_where_the_next_begins() -> None:
    made = vf()
    made.arc("RUNNING", "RUNNING_P2P", "STOP")
    made.arc("RUNNING_P2P", "STOP")
    made.set_state("STOP")
    assert told(made) == [("RUNNING", "RUNNING_P2P", 0, ONE), ("RUNNING_P2P", "STOP", 0, ONE)]
    (summary,) = of(Summary, events(made))
    assert summary.unseen_arcs == 0


def test_a_return_of_another_call_ends_no_arc() -> None:
    made = vf()
    made.arc("RUNNING", "PRE_COPY")
    made.set_state("RESUMING", result=-errno.EINVAL)
    assert told(made) == [
        ("RUNNING", "PRE_COPY", None, ONE),
        ("?", "RESUMING", errno.EINVAL, ONE),
    ]


def test_a_return_that_comes_after_the_next_thread_began_is_its_own() -> None:
    """The driver lets the next SET_STATE in before the probe sees the one before return."""
    made = vf()
    begins(made, ONE, "RUNNING", "PRE_COPY")
    begins(made, TWO, "RUNNING", "PRE_COPY")
    returns(made, ONE, "PRE_COPY", -errno.EIO)
    returns(made, TWO, "PRE_COPY")
    assert told(made) == [
        ("RUNNING", "PRE_COPY", errno.EIO, ONE),
        ("RUNNING", "PRE_COPY", 0, TWO),
    ]
    first, second = of(State, events(made))
    assert first.boot_ns == second.start_boot_ns - 1000, "when the other one was let in"


def test_a_return_that_comes_too_late_is_not_waited_for() -> None:
    for result in (0, -errno.EIO):
        made = vf()
        begins(made, ONE, "RUNNING", "PRE_COPY")
        begins(made, TWO, "PRE_COPY", "RUNNING")
        returns(made, TWO, "RUNNING")
        returns(made, ONE, "PRE_COPY", result)
        made.set_state("PRE_COPY", result=-errno.EINVAL)
        expected = [("RUNNING", "PRE_COPY", 0, ONE), ("PRE_COPY", "RUNNING", 0, TWO)]
        if result:
            expected.append(("RUNNING", "PRE_COPY", errno.EIO, ONE))
        expected.append(("RUNNING", "PRE_COPY", errno.EINVAL, ONE))
        assert told(made) == expected
        (summary,) = of(Summary, events(made))
        assert summary.unseen_arcs == 0, "nothing of it is missing"


def test_a_refused_set_state_ends_no_other_threads_arc() -> None:
    made = vf()
    begins(made, ONE, "RUNNING", "PRE_COPY")
    returns(made, TWO, "RESUMING", -errno.EINVAL)
    returns(made, ONE, "PRE_COPY")
    made.set_state("STOP", result=-errno.EINVAL)
    assert told(made) == [
        ("RUNNING", "RESUMING", errno.EINVAL, TWO),
        ("RUNNING", "PRE_COPY", 0, ONE),
        ("PRE_COPY", "STOP", errno.EINVAL, ONE),
    ]


def test_a_thread_that_calls_anew_has_left_its_call() -> None:
    made = vf()
    begins(made, ONE, "RUNNING", "RUNNING_P2P")
    begins(made, TWO, "RUNNING_P2P", "STOP")
    begins(made, ONE, "STOP", "RESUMING")
    returns(made, ONE, "RESUMING")
    assert told(made) == [
        ("RUNNING", "RUNNING_P2P", 0, ONE),
        ("RUNNING_P2P", "STOP", 0, TWO),
        ("STOP", "RESUMING", 0, ONE),
    ]
    (summary,) = of(Summary, events(made))
    assert summary.unseen_arcs == 2
