# SPDX-License-Identifier: GPL-2.0-or-later
"""What the BPF program makes of calls, with the program itself, as a library of this process."""

from __future__ import annotations

import errno
import resource
from typing import TYPE_CHECKING

import pytest

from mlxtrace.content import STEP_BYTES
from mlxtrace.events import Buffer, Drain, End, Estimate, Save, State, Summary
from mlxtrace.mailbox import Opcode

from .native import BUFFERS, CORE, KERNEL, MLX5, CoreVf, Memory, Native, Vf
from .raw_records import INITIAL, MIDDLE

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO, THREE = "0000:01:00.1", "0000:01:00.2", "0000:01:00.3"
NO_DATA = -42
"""ENOMSG."""


@pytest.fixture
def mlx5(tmp_path: Path) -> Native:
    """The program for a driver as of Linux 6.12."""
    return Native(tmp_path, MLX5 | BUFFERS)


def migrate(vf: Vf, size: int, read: int) -> Memory:
    """A cancelled session: one image of ``size`` with its header, in reads of ``read`` bytes."""
    file = vf.file()
    vf.go("RUNNING", "PRE_COPY", file)
    vf.save(file, size - 16, INITIAL)
    for _ in range(size // read):
        vf.native.read(file, read)
    vf.native.read(file, NO_DATA)
    vf.go("PRE_COPY", "RUNNING")
    return file


def summaries(native: Native) -> dict[str | None, Summary]:
    return {summary.bdf: summary for summary in native.events(Summary)}


def test_a_session(mlx5: Native) -> None:
    migrate(Vf(mlx5, ONE), 10_000, 1000)
    states = [(event.bdf, event.old_state, event.new_state) for event in mlx5.events(State)]
    assert states == [(ONE, "RUNNING", "PRE_COPY"), (ONE, "PRE_COPY", "RUNNING")]
    (save,) = mlx5.events(Save)
    assert (save.kind, save.image_bytes, save.callback_seen) == ("initial", 9984, True)
    (drain,) = mlx5.events(Drain)
    assert (drain.start_bytes, drain.end_bytes, drain.bytes_behind) == (0, 10_000, 0)
    found = summaries(mlx5)[ONE]
    assert (found.read_bytes, found.read_calls, found.gap_bytes) == (10_000, 10, 0)
    assert found.temporary_ends == 1


def test_any_driver(tmp_path: Path) -> None:
    native = Native(tmp_path, CORE)
    vf, file = CoreVf(native, ONE), Memory()
    vf.go("STOP", "STOP_COPY", file)
    native.read(file, 1000)
    native.read(file, 0)
    vf.go("STOP_COPY", "STOP")
    found = summaries(native)[ONE]
    assert (found.read_bytes, found.final_ends, found.gap_bytes) == (1000, 1, 0)


def test_a_file_where_another_devices_file_was(tmp_path: Path) -> None:
    """Who migrates again while the other one streams does not take its file away."""
    native = Native(tmp_path, CORE)
    one, two = CoreVf(native, ONE), CoreVf(native, TWO)
    file, other = Memory(), Memory()
    one.go("STOP", "STOP_COPY", file)
    native.read(file, 1000)
    one.go("STOP_COPY", "STOP")
    file.fill(b"")
    native.as_task(2)
    two.go("STOP", "STOP_COPY", file)
    native.read(file, 1000)
    native.as_task(1)
    one.go("STOP", "STOP_COPY", other)
    native.read(other, 500)
    native.as_task(2)
    native.read(file, 1000)
    native.read(file, 0)
    native.as_task(1)
    native.read(other, 0)
    found = summaries(native)
    assert (found[ONE].read_bytes, found[ONE].final_ends) == (1500, 1)
    assert (found[TWO].read_bytes, found[TWO].final_ends) == (2000, 1)


def test_a_file_that_does_not_say_whose_where_another_devices_was(tmp_path: Path) -> None:
    """The same for targets before Linux 6.2."""
    native = Native(tmp_path, MLX5)
    one, two = Vf(native, ONE), Vf(native, TWO, vhca=8)
    file = one.file(says_whose=False)
    one.go("STOP", "RESUMING", file)
    native.write(file, 1000)
    one.go("RESUMING", "STOP")
    # The file of the other one, as far as the driver goes, is where that one's was.
    two.go("STOP", "RESUMING", file)
    native.write(file, 1000)
    one.go("STOP", "RESUMING", one.file(says_whose=False))
    native.write(file, 1000)
    two.go("RESUMING", "STOP")
    assert summaries(native)[TWO].written_bytes == 2000


def test_the_queue_of_a_session_before_its_first_read(mlx5: Native) -> None:
    """It does not begin where the last session's stream was read to."""
    vf = Vf(mlx5, ONE)
    migrate(vf, 10_000, 1000)
    file = vf.file()
    vf.go("STOP", "STOP_COPY", file)
    vf.save(file, 3000 - 16)
    vf.save(file, 500 - 16)
    mlx5.read(file, 1000)
    vf.save(file, 200 - 16)
    mlx5.read(file, 2500)
    vf.save(file, 100 - 16)
    queues = [(save.queued_images, save.queued_bytes) for save in mlx5.events(Save)]
    assert queues == [(0, 0), (0, 0), (1, 3000), (2, 2500), (1, 200)]


def ends(native: Native) -> list[tuple[str, int]]:
    return [(end.reason, end.calls) for end in native.events(End) if end.kind == "temporary"]


def test_a_save_that_is_refused_at_once(mlx5: Native) -> None:
    vf = Vf(mlx5, ONE)
    file = vf.file()
    vf.go("RUNNING", "PRE_COPY", file)
    vf.save(file, 1000, INITIAL)
    vf.issue(file, MIDDLE)
    vf.issued(-errno.EAGAIN)
    mlx5.read(file, 1016)
    mlx5.read(file, NO_DATA)
    _, save = mlx5.events(Save)
    assert (save.kind, save.errno, save.error) == ("middle", errno.EAGAIN, "EAGAIN")
    assert (save.status, save.syndrome, save.fw_ns, save.callback_seen) == (None, None, None, True)
    assert (save.queued_images, save.queued_bytes) == (1, 1016)
    assert ends(mlx5) == [("nobody-asked", 1)]
    found = summaries(mlx5)[ONE]
    assert (found.saves, found.failed_saves, found.incomplete_saves) == (2, 1, 0)


@pytest.mark.parametrize("late", [True, False])
def test_a_save_that_is_taken_is_told_once(mlx5: Native, late: bool) -> None:
    """Its callback may run before its issue has returned."""
    vf = Vf(mlx5, ONE)
    file = vf.file()
    vf.go("RUNNING", "PRE_COPY", file)
    vf.save(file, 1000, INITIAL, late=late)
    vf.save(file, 500, MIDDLE, late=late)
    mlx5.read(file, 1016)
    mlx5.read(file, 516)
    assert [(save.image_bytes, save.errno) for save in mlx5.events(Save)] == [(1000, 0), (500, 0)]
    assert [drain.end_bytes for drain in mlx5.events(Drain)] == [1016, 1532]


def test_the_return_of_another_command_is_not_the_saves(mlx5: Native) -> None:
    vf = Vf(mlx5, ONE)
    file = vf.file()
    vf.go("RUNNING", "PRE_COPY", file)
    vf.issue(file, INITIAL)
    # Its return was missed.
    vf.issue(file, opcode=Opcode.QUERY_VHCA_MIGRATION_STATE)
    vf.issued(-errno.EIO)
    vf.complete(file, 1000)
    assert [(save.image_bytes, save.errno) for save in mlx5.events(Save)] == [(1000, 0)]


def test_a_save_whose_end_was_lost_is_not_in_flight_for_ever(mlx5: Native) -> None:
    vf = Vf(mlx5, ONE)
    file = vf.file()
    vf.go("RUNNING", "PRE_COPY", file)
    vf.issue(file, INITIAL)
    mlx5.read(file, NO_DATA)
    vf.go("PRE_COPY", "RUNNING")
    migrate(vf, 1000, 1000)
    first, second = mlx5.events(Save)
    assert (first.session, first.callback_seen, first.image_bytes) == (1, False, None)
    assert (second.session, second.image_bytes) == (2, 984)
    assert ends(mlx5) == [("save-in-flight", 1), ("nobody-asked", 1)]


@pytest.mark.parametrize("in_pages", [False, True])
def test_a_buffer_is_asked_for_in_bytes_or_in_pages(tmp_path: Path, in_pages: bool) -> None:
    offsets = MLX5 | BUFFERS
    if in_pages:
        offsets["OFF_BUFFER_PAGES"] = offsets.pop("OFF_BUFFER_ALLOCATED")
    native = Native(tmp_path, offsets)
    vf = Vf(native, ONE)
    file, buffer = vf.file(), Memory()
    vf.go("STOP", "STOP_COPY", file)
    page = resource.getpagesize()
    buffer[BUFFERS["OFF_BUFFER_ALLOCATED"]] = 4 if in_pages else 4 * page
    asked = 3 if in_pages else 3 * page - 1
    # Of a register that takes 32 bits, the others may have anything.
    noise = 0xABC << 32 if in_pages else 0
    native.call("enter_buffer_alloc", vf.migf(file).address, noise | asked)
    native.call("leave_buffer_alloc", result=buffer.address | KERNEL)
    (event,) = native.events(Buffer)
    assert event.allocated_bytes == 4 * page
    assert event.asked_bytes == (3 * page if in_pages else 3 * page - 1)


def test_a_vf_whose_struct_is_where_another_ones_was(tmp_path: Path) -> None:
    native = Native(tmp_path, MLX5 | BUFFERS, content=True)
    first = Vf(native, ONE)
    file = first.file()
    first.go("RUNNING", "PRE_COPY", file)
    first.save(file, 10_000 - 16, INITIAL)
    for _ in range(10):
        native.read(file, 1000)
    first.go("PRE_COPY", "RUNNING")
    # Nobody has told of these yet, and of this image nothing was read.
    native.read(file, 700)
    first.save(file, 5000)
    assert native.samples(0) == -(-10_700 // STEP_BYTES)
    second = Vf(native, TWO, vhca=8, at=first.memory)
    other = second.file()
    second.go("RUNNING", "PRE_COPY", other)
    second.save(other, 20_000 - 16, INITIAL)
    native.read(other, 20_000)
    native.read(other, NO_DATA)
    second.go("PRE_COPY", "RUNNING")
    found = summaries(native)
    assert (found[ONE].read_bytes, found[ONE].read_calls) == (10_700, 11)
    assert (found[TWO].read_bytes, found[TWO].read_calls, found[TWO].gap_bytes) == (20_000, 1, 0)
    assert [(drain.bdf, drain.end_bytes) for drain in native.events(Drain)][1:] == [(TWO, 20_000)]
    assert native.samples(0) == -(-20_000 // STEP_BYTES)


def test_a_device_of_any_driver_where_another_one_was(tmp_path: Path) -> None:
    native = Native(tmp_path, CORE)
    first, file = CoreVf(native, ONE), Memory()
    first.go("STOP", "STOP_COPY", file)
    native.read(file, 1000)
    second, other = CoreVf(native, TWO, at=first.memory), Memory()
    second.go("STOP", "STOP_COPY", other)
    native.read(other, 5000)
    native.read(other, 0)
    found = summaries(native)
    assert (found[ONE].read_bytes, found[ONE].gap_bytes) == (1000, 0)
    assert (found[TWO].read_bytes, found[TWO].gap_bytes) == (5000, 0)


def test_what_comes_before_a_vfs_first_state_is_not_the_last_ones(tmp_path: Path) -> None:
    native = Native(tmp_path, MLX5 | BUFFERS)
    migrate(Vf(native, ONE, at=(place := Memory())), 1000, 1000)
    Vf(native, TWO, vhca=8, at=place).reset()
    Vf(native, THREE, vhca=9, at=place).estimate(4096)
    found = summaries(native)
    assert {name: summary.resets for name, summary in found.items()} == {ONE: 0, TWO: 1, THREE: 0}
    (estimate,) = native.events(Estimate)
    assert (estimate.bdf, estimate.stopcopy_size_bytes) == (THREE, 4096)


def test_what_comes_before_a_devices_first_state_is_not_the_last_ones(tmp_path: Path) -> None:
    native = Native(tmp_path, CORE)
    first = CoreVf(native, ONE)
    first.go("STOP", "STOP_COPY", Memory())
    CoreVf(native, TWO, at=first.memory).estimate(4096)
    (estimate,) = native.events(Estimate)
    assert (estimate.bdf, estimate.stopcopy_size_bytes) == (TWO, 4096)
