# SPDX-License-Identifier: GPL-2.0-or-later
"""Ends of sessions that nobody ordered: one row each, with who did it and from where."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlxtrace import records
from mlxtrace.counters import Counters
from mlxtrace.decoder import Decoder
from mlxtrace.events import Abort, Event, State, Summary
from mlxtrace.records import FLAG_ORDERED, Kind
from mlxtrace.text import Text

from .raw_records import Clock, Vf

BDF = "0000:01:00.1"
DISABLE = "mlx5vf_disable_fds+0x0 [mlx5_vfio_pci]"
UNLOCK = "mlx5vf_state_mutex_unlock+0x3d [mlx5_vfio_pci]"
RESET = "mlx5vf_pci_aer_reset_done+0x0 [mlx5_vfio_pci]"
IOCTL = "vfio_pci_core_ioctl+0x5f [vfio_pci_core]"


@pytest.fixture
def vf() -> Vf:
    made = Vf(Clock(), BDF, 0x1000, [])
    made.go("RUNNING", "PRE_COPY")
    return made


def events(vf: Vf) -> list[Event]:
    decoder = Decoder()
    found = list(decoder.feed(b"".join(vf.out)))
    return found + list(decoder.finish(Counters()))


def aborts(vf: Vf) -> list[Abort]:
    return [event for event in events(vf) if isinstance(event, Abort)]


def test_a_reset_is_one_row_though_it_is_seen_twice(vf: Vf) -> None:
    at = vf.taken(Kind.RESET, "PRE_COPY", RESET, IOCTL, saving=1)
    vf.taken(Kind.SESSION_END, "RUNNING", DISABLE, UNLOCK, RESET, IOCTL, saving=1)
    (abort,) = aborts(vf)
    assert (abort.cause, abort.state, abort.direction) == ("reset", "PRE_COPY", "read")
    assert abort.stack == [RESET, IOCTL]
    assert abort.boot_ns == at
    assert abort.session == 1


def test_a_reset_that_is_put_off_is_its_callers(vf: Vf) -> None:
    vf.arc("PRE_COPY", "PRE_COPY_P2P")
    vf.taken(Kind.RESET, "PRE_COPY", RESET, IOCTL, saving=1, tid=99)
    vf.taken(Kind.SESSION_END, "RUNNING", saving=1, flags=FLAG_ORDERED)
    vf.set_state("PRE_COPY_P2P")
    (abort,) = aborts(vf)
    assert (abort.tid, abort.stack) == (99, [RESET, IOCTL])


def test_a_reset_before_the_file_is_there_ends_it_all_the_same(vf: Vf) -> None:
    vf.taken(Kind.RESET, "STOP", RESET, tid=99)
    end = vf.taken(Kind.SESSION_END, "RUNNING", resuming=1, flags=FLAG_ORDERED)
    (abort,) = aborts(vf)
    assert (abort.tid, abort.direction, abort.boot_ns) == (99, "write", end)


def test_a_reset_without_a_session_is_none(vf: Vf) -> None:
    vf.taken(Kind.SESSION_END, "PRE_COPY", saving=1, flags=FLAG_ORDERED)
    vf.taken(Kind.RESET, "RUNNING", RESET, IOCTL)
    # The next session's end is its own.
    vf.go("RUNNING", "PRE_COPY")
    vf.taken(Kind.SESSION_END, "PRE_COPY", saving=1, flags=FLAG_ORDERED)
    assert aborts(vf) == []


def test_a_reset_of_what_a_failed_arc_left_over_is_told(vf: Vf) -> None:
    vf.taken(Kind.RESET, "PRE_COPY", RESET, IOCTL)
    (abort,) = aborts(vf)
    assert (abort.cause, abort.state, abort.direction) == ("reset", "PRE_COPY", "")


def test_the_reset_of_a_device_that_is_opened_ends_nothing() -> None:
    # Its last user left it in mid-session, before the trace began.
    vf = Vf(Clock(), BDF, 0x1000, [])
    vf.taken(Kind.RESET, "STOP_COPY", RESET, "vfio_pci_core_enable+0xa5 [vfio_pci_core]")
    vf.go("RUNNING", "PRE_COPY")
    assert aborts(vf) == []


def test_resets_are_counted_but_for_those_that_open(vf: Vf) -> None:
    vf.taken(Kind.RESET, "PRE_COPY", RESET, IOCTL, saving=1)
    vf.taken(Kind.SESSION_END, "RUNNING", DISABLE, UNLOCK, RESET, IOCTL, saving=1)
    vf.taken(Kind.RESET, "RUNNING", RESET, IOCTL)
    vf.taken(Kind.RESET, "RUNNING", RESET, "vfio_pci_core_enable+0xa5 [vfio_pci_core]")
    (summary,) = (event for event in events(vf) if isinstance(event, Summary))
    assert (summary.resets, summary.aborts) == (2, 1)


def test_what_is_tidied_up_while_the_device_runs_is_no_end(vf: Vf) -> None:
    vf.go("PRE_COPY", "RUNNING")
    vf.taken(Kind.RESET, "RUNNING", RESET, resuming=1)
    vf.taken(Kind.SESSION_END, "RUNNING", DISABLE, "process_one_work+0x1", resuming=1)
    vf.taken(Kind.SESSION_END, "RUNNING_P2P", DISABLE, "mlx5vf_pci_close_device+0x1", resuming=1)
    assert aborts(vf) == []


def test_the_reset_that_ends_a_close_is_part_of_it(vf: Vf) -> None:
    vf.taken(Kind.SESSION_END, "PRE_COPY", "mlx5vf_pci_close_device+0x1", saving=1)
    vf.taken(Kind.RESET, "PRE_COPY", RESET)
    assert [abort.cause for abort in aborts(vf)] == ["close"]


@pytest.mark.parametrize(
    ("functions", "cause", "state"),
    [
        (("mlx5vf_cmd_close_migratable+0x4", "mlx5vf_pci_close_device+0x1"), "close", "PRE_COPY"),
        (("mlx5vf_cmd_close_migratable+0x4", "mlx5fv_vf_event+0x9"), "vf-disabled", "PRE_COPY"),
        # The probe on the reset was not there: the state is that of the arc before.
        (("mlx5vf_state_mutex_unlock+0x3",), "reset", "PRE_COPY"),
        (("mlx5vf_state_mutex_lock+0x29", "mlx5vf_reset_work+0x12"), "reset", "PRE_COPY"),
        ((), "unknown", "STOP"),
    ],
)
def test_the_stack_tells_the_cause(
    vf: Vf, functions: tuple[str, ...], cause: str, state: str
) -> None:
    stack = [DISABLE, *(f"{name} [mlx5_vfio_pci]" for name in functions)] if functions else []
    now = "RUNNING" if cause == "reset" else state
    vf.taken(Kind.SESSION_END, now, *stack, saving=1)
    (abort,) = aborts(vf)
    assert (abort.cause, abort.state, abort.stack) == (cause, state, stack)


def test_frames_of_a_record_that_was_lost_are_not_anothers(vf: Vf) -> None:
    vf.put(Kind.FRAME, *records.frame_values("somewhere_else+0x1"), tid=99)
    vf.taken(Kind.SESSION_END, "PRE_COPY", DISABLE, saving=1)
    assert aborts(vf)[0].stack == [DISABLE]


def test_what_comes_after_starts_from_running(vf: Vf) -> None:
    vf.taken(Kind.RESET, "PRE_COPY", RESET, saving=1)
    vf.taken(Kind.SESSION_END, "RUNNING", DISABLE, saving=1)
    vf.set_state("STOP_COPY", result=-22)
    found = events(vf)
    assert [event.old_state for event in found if isinstance(event, State)][-1] == "RUNNING"
    (summary,) = (event for event in found if isinstance(event, Summary))
    assert summary.aborts == 1
    assert (summary.precopy_ns or 0) > 0


def test_a_long_function_name_is_cut_and_rows_stay_narrow(vf: Vf) -> None:
    vf.taken(Kind.RESET, "PRE_COPY", "a" * 200, "b+0x1 [module]", saving=1)
    (abort,) = aborts(vf)
    assert abort.stack == ["a" * 79, "b+0x1 [module]"]
    lines = list(Text(0).lines(abort))
    wide = replace(abort, comm="c" * 15, pid=4194304, state="PRE_COPY_P2P", cause="vf-disabled")
    lines += Text(0).lines(wide)
    assert max(map(len, lines)) < 100
    assert "ABORT saving ended in PRE_COPY by qemu-kvm/8123" in lines[0]
