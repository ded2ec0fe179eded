# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's trace is read as it is written: lines of QEMU 10.0.2, shortened."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxlab.vmm import qemulog
from mlxlab.vmm.qemulog import Asked

SECOND = 10**9
BEGIN = 1795611670 * SECOND
END = BEGIN + 10 * SECOND

LOGS = Path(__file__).parent / "logs"
# A VM starts, and migrates with pre-copy.
SOURCE = (LOGS / "qemu-source.log").read_text()
# One block goes wrong, and one comes through a multifd channel.
TARGET = (LOGS / "qemu-target.log").read_text()


def test_a_line_has_a_time_an_event_and_a_text() -> None:
    first = next(qemulog.parse(SOURCE))
    assert first.realtime_ns == 1795611669809035000
    assert first.event == "vfio_migration_set_state"
    assert first.text == "(0000:01:00.1) new state RUNNING_P2P, recover state ERROR"


def test_what_is_no_event_is_passed_over() -> None:
    assert list(qemulog.parse("QEMU 10.0.2 monitor\n\n310@oops\n")) == []


def test_the_source_of_a_migration() -> None:
    told = qemulog.told(SOURCE, "", BEGIN, END)
    # The VM's start is before, its end after; STOP_COPY was asked for twice, and given once.
    assert told.states == [
        Asked(state, False) for state in ("PRE_COPY", "PRE_COPY_P2P", "STOP_COPY", "STOP")
    ]
    assert told.resets == 0
    # The setup's ioctl, known from the first estimate, and two of pending_exact.
    assert told.answers == [(8405096, 0), (16488, 0), (0, 1050688)]
    assert told.blocks == [1048576, 16488, 849688]
    assert told.empty == 1
    assert told.migration == ["setup", "completed"]
    assert told.acknowledged


def test_the_target_of_a_migration() -> None:
    told = qemulog.told(TARGET, "", BEGIN, END)
    assert told.loaded == [1048576]
    assert told.failed_blocks == [16488]
    assert told.buffers == 1


def test_only_what_was_said_between_the_times_counts() -> None:
    told = qemulog.told(SOURCE, "", BEGIN, BEGIN + 2 * SECOND)
    assert told.blocks == [1048576]
    assert told.states == [Asked("PRE_COPY", False)]


def refused(state: str, fallback: str, became: str) -> str:
    return (
        f"347@1795611675.198872:vfio_migration_set_state  (0000:01:00.1) new state {state}, "
        f"recover state {fallback}\n"
        "347@1795611675.309784:vfio_migration_set_device_state  (0000:01:00.1) "
        f"state {became}\n"
    )


@pytest.mark.parametrize(
    ("state", "fallback", "became", "states", "resets"),
    [
        ("PRE_COPY_P2P", "ERROR", "RUNNING", [("PRE_COPY_P2P", True)], 1),
        ("PRE_COPY", "RUNNING", "RUNNING", [("PRE_COPY", True), ("RUNNING", False)], 0),
        ("STOP_COPY", "STOP", "STOP", [("STOP_COPY", True), ("STOP", False)], 0),
        ("STOP_COPY", "STOP", "RUNNING", [("STOP_COPY", True), ("STOP", True)], 1),
    ],
)
def test_a_refused_state_is_known_by_where_the_device_is(
    state: str, fallback: str, became: str, states: list[tuple[str, bool]], resets: int
) -> None:
    told = qemulog.told(refused(state, fallback, became), "", BEGIN, END)
    assert told.states == [Asked(*one) for one in states]
    assert told.resets == resets


ERROR = (
    "2026-11-25T13:01:15.309900Z qemu-system-x86_64: 0000:01:00.1: Failed setting device state "
    "to RUNNING. Recover state is ERROR. Resetting device: No such device\n"
)


@pytest.mark.parametrize(
    ("errors", "was_refused"),
    [
        (ERROR, True),
        ("", False),
        # Another device's, and one from before.
        (ERROR.replace("00.1", "00.2"), False),
        (ERROR.replace("13:01:15", "13:01:14"), False),
    ],
)
def test_a_refused_running_looks_granted_but_for_the_error(errors: str, was_refused: bool) -> None:
    told = qemulog.told(refused("RUNNING", "ERROR", "RUNNING"), errors, BEGIN, END)
    assert told.states == [Asked("RUNNING", was_refused)]
    assert told.resets == int(was_refused)


def test_errors_have_times_and_texts() -> None:
    (line,) = qemulog.parse_errors(ERROR)
    assert line.realtime_ns == 1795611675309900000
    assert line.text.startswith("0000:01:00.1: Failed setting device state to RUNNING")
