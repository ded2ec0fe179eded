# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparison of the client's summary with the trace notices every figure that differs."""

from __future__ import annotations

from typing import Any

import pytest

from genbindings.errors import Error
from mlxtrace.agreement import compare, compare_calls, compare_firmware

SOURCE, TARGET = "0000:01:00.1", "0000:01:00.2"
SIZES = [4096, 23, 29, 31]
SHARED = {
    "images": 4,
    "initial_images": 1,
    "middle_images": 2,
    "final_images": 1,
    "image_bytes": SIZES,
    "read_bytes": 4283,
    "ioctls": 5,
    "temporary_ends": 3,
    "final_ends": 1,
}


def client(**changes: Any) -> dict[str, Any]:
    summary = {
        "source": SOURCE,
        "target": TARGET,
        "written_bytes": 4283,
        "state_hashes_equal": True,
    }
    return summary | SHARED | changes


def events(**changes: Any) -> list[dict[str, Any]]:
    """The closing events of a trace; a change goes to whichever event has the key."""
    source = {"type": "summary", "bdf": SOURCE, "failed_saves": 0} | SHARED
    source |= {"drained_images": 4, "gap_bytes": 0}
    target = {
        "type": "summary",
        "bdf": TARGET,
        "written_bytes": 4283,
        "load_bytes": SIZES,
        "failed_loads": 0,
        "gap_bytes": 0,
    }
    lost = {"type": "lost", "lost_records": 0, "missed_returns": 0}
    result: list[dict[str, Any]] = [source, target, lost]
    for event in result:
        event.update({key: value for key, value in changes.items() if key in event})
    return result


def test_two_witnesses_of_the_same_migration_agree() -> None:
    rows = compare(client(), events())
    assert all(row.agrees for row in rows)
    assert len(rows) >= 15


@pytest.mark.parametrize(
    "change",
    [
        {"images": 5},
        {"drained_images": 3},
        {"gap_bytes": 1},
        {"initial_images": 0},
        {"middle_images": 3},
        {"final_images": 2},
        {"image_bytes": [4096, 23, 29, 37]},
        {"load_bytes": [4096, 23, 31, 29]},
        {"read_bytes": 4282},
        {"written_bytes": 4282},
        {"ioctls": 4},
        {"temporary_ends": 2},
        {"final_ends": 2},
        {"failed_saves": 1},
        {"failed_loads": 1},
        {"lost_records": 1},
        {"missed_returns": 1},
    ],
    ids=lambda change: str(next(iter(change))),
)
def test_each_figure_that_differs_is_noticed(change: dict[str, Any]) -> None:
    assert sum(not row.agrees for row in compare(client(), events(**change))) == 1


def test_hashes_that_differ_are_noticed_and_absent_ones_are_no_figure() -> None:
    assert [row.agrees for row in compare(client(state_hashes_equal=False), events())][-1] is False
    names = [row.name for row in compare(client(state_hashes_equal=None), events())]
    assert not [name for name in names if "hash" in name]


def test_a_trace_without_one_of_the_vfs_is_an_error() -> None:
    with pytest.raises(Error, match=f"no summary of {TARGET}"):
        compare(client(), [event for event in events() if event.get("bdf") != TARGET])


CALLS = {"read_bytes": 4283, "ioctls": 5, "resets": 7}


def traced_calls(**changes: int) -> list[dict[str, Any]]:
    """The closing events of a trace of calls that both VFs got; the changes are the target's."""
    source, target, lost = events()
    return [
        source | {"resets": 3},
        target | {"read_bytes": 0, "ioctls": 0, "resets": 4} | changes,
        lost,
    ]


def test_calls_are_compared_with_the_sums_over_all_vfs() -> None:
    rows = compare_calls(CALLS, traced_calls())
    assert [row for row in rows if not row.agrees] == []
    assert {row.name for row in rows} == {*CALLS, "records lost", "returns missed"}


@pytest.mark.parametrize("name", CALLS)
def test_each_call_that_was_not_seen_is_noticed(name: str) -> None:
    calls = CALLS | {name: CALLS[name] + 1}
    rows = compare_calls(calls, traced_calls())
    assert [row.name for row in rows if not row.agrees] == [name]


def test_a_trace_that_was_cut_is_an_error() -> None:
    with pytest.raises(Error, match="was cut"):
        compare_calls(CALLS, traced_calls()[:-1])
    with pytest.raises(Error, match="was cut"):
        compare(client(), [event for event in events() if event["type"] != "lost"])


FIRMWARE = {
    "save": 5,
    "save_initial": 1,
    "save_middle": 2,
    "save_final": 1,
    "save_cleanup": 1,
    "save_failed": 0,
    "save_bytes": sum(SIZES),
    "load": 0,
    "load_failed": 0,
    "load_bytes": 0,
    "query": 2,
    "suspend": 1,
    "resume": 0,
}


def traced_commands() -> list[dict[str, Any]]:
    commands = [(SOURCE, "QUERY"), (SOURCE, "QUERY"), (SOURCE, "SUSPEND"), (TARGET, "RESUME")]
    found = [{"type": "command", "bdf": bdf, "name": name} for bdf, name in commands]
    counts = {"saves": 5, "cleanup_saves": 1, "loads": 0, "load_bytes": [], "failed_loads": 0}
    return [*found, *[e | counts if e["type"] == "summary" else e for e in events()]]


def test_the_firmware_is_a_witness_too() -> None:
    rows = compare_firmware(SOURCE, FIRMWARE, traced_commands())
    assert [row for row in rows if not row.agrees] == []
    assert {row.name for row in rows} == {f"{SOURCE} {name}" for name in FIRMWARE}


@pytest.mark.parametrize("name", FIRMWARE)
def test_each_command_that_differs_is_noticed(name: str) -> None:
    counted = FIRMWARE | {name: FIRMWARE[name] + 1}
    differ = [row for row in compare_firmware(SOURCE, counted, traced_commands()) if not row.agrees]
    assert [row.name for row in differ] == [f"{SOURCE} {name}"]
