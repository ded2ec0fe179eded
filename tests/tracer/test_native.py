# SPDX-License-Identifier: GPL-2.0-or-later
"""What the BPF program makes of calls, with the program itself, as a library of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlxtrace.events import Drain, Save, State, Summary

from .native import BUFFERS, CORE, MLX5, CoreVf, Memory, Native, Vf
from .raw_records import INITIAL

if TYPE_CHECKING:
    from pathlib import Path

ONE = "0000:01:00.1"
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
