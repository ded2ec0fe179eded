# SPDX-License-Identifier: GPL-2.0-or-later
"""The tracer's part of a scenario, how a scenario ended, and which ones there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from genbindings.errors import UsageError
from mlxlab.vmm import outcome, scenarios, traced
from mlxlab.vmm.qemulog import Asked
from mlxlab.vmm.scenarios import End
from mlxlab.vmm.traced import Seen
from mlxtrace.events import End as StreamEnd
from mlxtrace.events import Ioctl, Read, Save, State
from tests.lab.witnesses import VF0, VF1, counters, witnesses

if TYPE_CHECKING:
    from mlxtrace.events import Event

WHO: dict[str, Any] = {"bdf": VF0, "session": 1, "pid": 1, "tid": 1, "comm": "qemu"}


def state(at: int, old: str, new: str, wanted: str, errno: int = 0) -> State:
    return State(
        **WHO,
        boot_ns=at,
        old_state=old,
        new_state=new,
        asked_state=wanted,
        start_boot_ns=at,
        duration_ns=0,
        errno=errno,
        error="",
    )


def flow(at: int, size: int, direction: str = "read") -> Read:
    return Read(
        bdf=VF0,
        boot_ns=at,
        session=1,
        direction=direction,
        calls=1,
        bytes=size,
        busy_ns=0,
        first_boot_ns=at,
        last_boot_ns=at,
        position_bytes=None,
        gap_bytes=None,
    )


def empty(at: int) -> StreamEnd:
    return StreamEnd(
        bdf=VF0,
        boot_ns=at,
        session=1,
        direction="read",
        kind="temporary",
        reason="idle",
        calls=3,
        position_bytes=None,
        gap_bytes=None,
        errno=0,
        error="",
    )


def save(at: int, status: int = 0) -> Save:
    return Save(
        **WHO,
        boot_ns=at,
        image=1,
        kind="middle",
        query_bytes=7,
        requested_bytes=7,
        buffer=None,
        queued_images=0,
        queued_bytes=0,
        image_bytes=None if status else 7,
        issue_boot_ns=at,
        wait_ns=0,
        fw_ns=0,
        fw_max_ns=None,
        callback_seen=True,
        status=status,
        status_name="",
        syndrome=0,
        errno=0,
        error="",
    )


def ioctl(at: int) -> Ioctl:
    return Ioctl(
        **WHO,
        boot_ns=at,
        precopy_init_size_bytes=3,
        precopy_dirty_size_bytes=4,
        latency_ns=0,
        errno=0,
        error="",
    )


def test_the_tracers_part_of_a_scenario() -> None:
    events: list[Event] = [
        flow(5, 999),
        state(10, "RUNNING", "RUNNING_P2P", "STOP"),
        state(11, "RUNNING_P2P", "STOP", "STOP"),
        state(12, "STOP", "RESUMING", "RESUMING", errno=5),
        flow(20, 100),
        empty(21),
        empty(22),
        flow(23, 50),
        empty(24),
        save(30),
        save(31, status=5),
        ioctl(32),
        state(40, "PRE_COPY_P2P", "STOP_COPY", "STOP_COPY"),
        flow(41, 7),
        save(90),
        flow(95, 30, "write"),
        flow(120, 1, "write"),
    ]
    seen = traced.seen(events, VF0, 10, 80, 100)
    assert seen.states == [Asked("STOP", False), Asked("RESUMING", True), Asked("STOP_COPY", False)]
    assert (seen.reads, seen.read_bytes) == (3, 157)
    assert (seen.final_reads, seen.final_read_bytes) == (1, 7)
    assert seen.empty == 2
    assert seen.kinds == {"middle": 1, "failed": 1}
    assert seen.save_bytes == [7]
    assert seen.answers == [(3, 4)]
    # What flowed is told late, a SAVE is not: that one is the next scenario's.
    assert seen.written_bytes == 30
    assert traced.seen(events, VF1, 10, 80) == Seen()


@pytest.mark.parametrize(
    ("name", "changes", "surprise"),
    [
        ("precopy", {}, None),
        ("fail-load", {}, "the migration should be failed: it is completed"),
        ("precopy", {"migration": "failed"}, "the migration should be completed"),
        ("precopy", {"source.vm": "running"}, "the source's VF should be stopped"),
        ("precopy", {"source.exit_status": -6}, "its QEMU exited with -6"),
        ("precopy", {"target.vm": "paused"}, "the target's VF should be running"),
        ("precopy", {"target.counters": counters(reset=1)}, "it is reset"),
        ("precopy", {"source.status.tracked": 1}, "still tracks"),
        ("precopy", {"source.faults": ["query # seen 0, hit 0"]}, "did not strike"),
    ],
)
def test_an_end_that_is_none_is_a_surprise(
    name: str, changes: dict[str, Any], surprise: str | None
) -> None:
    result = witnesses()["result"]
    for path, value in changes.items():
        *way, last = path.split(".")
        at = result
        for step in way:
            at = at[step]
        at[last] = value
    found = outcome.surprises(scenarios.by_name()[name], result)
    assert bool(found) == (surprise is not None)
    assert surprise is None or surprise in "; ".join(found)


def test_a_driver_that_recovers_where_upstreams_is_reset_is_better() -> None:
    result = witnesses()["result"] | {"migration": "failed"}
    result["source"] |= {
        "vm": "running",
        "status": {"initiator_suspended": 0, "responder_suspended": 0, "tracked": 0},
        "changing": True,
    }
    result["target"] |= {"vm": "ended", "exit_status": 1}
    assert outcome.ended(result) == End("failed", "running", "ended")
    assert outcome.surprises(scenarios.by_name()["fail-final-query"], result) == []
    result["source"]["counters"]["reset"] = 1
    assert outcome.surprises(scenarios.by_name()["fail-final-query"], result) == []
    assert outcome.surprises(scenarios.by_name()["fail-setup"], result) != []
    result["source"]["changing"] = False
    (surprise,) = outcome.surprises(scenarios.by_name()["fail-final-query"], result)
    assert "its state does not change" in surprise


def test_qemu_may_call_a_cancelled_migration_failed_where_there_is_a_return_path() -> None:
    result = witnesses()["result"]
    result["source"] |= {
        "vm": "running",
        "status": {"initiator_suspended": 0, "responder_suspended": 0, "tracked": 0},
        "changing": True,
    }
    result["target"] |= {"vm": "ended", "exit_status": 1}
    cancel, cancel_ack = scenarios.pick(["cancel", "cancel-ack"])
    for said, fine in (("cancelled", True), ("failed", False), ("active", False)):
        ended = result | {"migration": said}
        assert (outcome.surprises(cancel, ended) == []) == fine
        assert (outcome.surprises(cancel_ack, ended) == []) == (fine or said == "failed")
    # The VF is held to the same.
    result["source"]["counters"]["reset"] = 1
    assert "it is reset" in str(outcome.surprises(cancel_ack, result | {"migration": "failed"}))


def test_scenarios_are_picked_by_name_and_by_what_the_driver_can() -> None:
    assert [one.name for one in scenarios.pick(["cancel", "precopy"])] == ["precopy", "cancel"]
    assert [one.name for one in scenarios.pick([], precopy=False)] == ["stopped"]
    assert len(scenarios.pick([])) == len(scenarios.SCENARIOS)
    with pytest.raises(UsageError, match="no scenario 'pre-copy'") as caught:
        scenarios.pick(["pre-copy"])
    assert "switchover-ack" in caught.value.hint
