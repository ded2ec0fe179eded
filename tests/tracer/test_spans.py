# SPDX-License-Identifier: GPL-2.0-or-later
"""Times in pre-copy and of standing still, of which a trace may see only a part, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .raw_records import MIDDLE, Vf, source_migrates
from .test_summary import summed, text

if TYPE_CHECKING:
    from collections.abc import Callable

LATER_NS = 25_000_000_000


def enters(vf: Vf) -> None:
    vf.go("RUNNING", "PRE_COPY")


def test_pre_copy_that_goes_on_counts_so_far() -> None:
    found = summed(enters, later_ns=LATER_NS)
    assert found.precopy_ns == LATER_NS + 1000, "from the start of the arc"
    assert found.precopy_is_open
    assert "  pre-copy  25000.001 ms so far, 0 rounds" in text(found)
    over = summed(source_migrates, later_ns=LATER_NS)
    assert not over.precopy_is_open
    assert "so far" not in text(over)
    assert (over.precopy_ns or LATER_NS) < 1_000_000


def leaves(vf: Vf) -> None:
    vf.go("PRE_COPY", "STOP_COPY")


def only_asks(vf: Vf) -> None:
    vf.ioctl(0, 100)


def only_saves(vf: Vf) -> None:
    vf.save(MIDDLE, 100)


@pytest.mark.parametrize("make", [leaves, only_asks, only_saves])
def test_pre_copy_that_was_not_seen_to_begin_is_not_0(make: Callable[[Vf], None]) -> None:
    found = summed(make, later_ns=LATER_NS)
    assert (found.precopy_ns, found.precopy_is_open) == (None, False)
    assert "  pre-copy  - ms, " in text(found)

    def and_another(vf: Vf) -> None:
        make(vf)
        source_migrates(vf)

    assert summed(and_another).precopy_ns == summed(source_migrates).precopy_ns


def test_an_arc_that_hangs_ends_pre_copy_where_it_began() -> None:
    def hangs(vf: Vf) -> None:
        enters(vf)
        vf.arc("PRE_COPY", "STOP_COPY")

    found = summed(hangs, later_ns=LATER_NS)
    assert (found.precopy_ns, found.precopy_is_open) == (2000, False)
    assert found.stopped_ns is None, "nobody knows for how long it will be"


def starts_in_stop_copy(vf: Vf) -> None:
    vf.read(2, 100, final=1)


def leaves_stop_copy(vf: Vf) -> None:
    vf.go("STOP_COPY", "STOP")


def is_not_read(vf: Vf) -> None:
    vf.go("RUNNING", "PRE_COPY")
    vf.go("PRE_COPY", "STOP_COPY")
    vf.read(2, 100)


def is_given_up(vf: Vf) -> None:
    is_not_read(vf)
    vf.go("STOP_COPY", "STOP")


@pytest.mark.parametrize("make", [starts_in_stop_copy, leaves_stop_copy, is_not_read, is_given_up])
def test_a_stop_that_was_not_seen_whole_is_not_0(make: Callable[[Vf], None]) -> None:
    found = summed(make, later_ns=LATER_NS)
    assert found.stopped_ns is None
    assert "  stopped   - ms, " in text(found)


def test_a_stop_that_was_seen_counts_beside_one_that_was_not() -> None:
    def both(vf: Vf) -> None:
        starts_in_stop_copy(vf)
        vf.go("STOP_COPY", "STOP")
        vf.go("STOP", "RUNNING")
        source_migrates(vf)

    assert summed(both).stopped_ns == summed(source_migrates).stopped_ns


def test_the_end_of_a_stream_may_be_read_again() -> None:
    def again(vf: Vf) -> None:
        is_not_read(vf)
        vf.read(final=1)
        vf.clock.now += LATER_NS
        vf.read(final=2)
        vf.go("STOP_COPY", "STOP")

    assert (summed(again).stopped_ns or LATER_NS) < 1_000_000


def test_a_pause_is_no_stop() -> None:
    def pauses(vf: Vf) -> None:
        vf.go("RUNNING", "RUNNING_P2P")
        vf.go("RUNNING_P2P", "STOP")

    assert summed(pauses, later_ns=LATER_NS).stopped_ns == 0
