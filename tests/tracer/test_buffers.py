# SPDX-License-Identifier: GPL-2.0-or-later
"""Buffers: what is held, which SAVEs found one, and what was queued."""

from __future__ import annotations

import errno

import pytest

from mlxtrace import records
from mlxtrace.events import Buffer, Save, Summary
from mlxtrace.records import Kind
from mlxtrace.text import Text

from .raw_records import FINAL, INITIAL, MIDDLE, Clock, Vf, events

BDF = "0000:01:00.1"


@pytest.fixture
def vf() -> Vf:
    return Vf(Clock(), BDF, 0x1000, [])


def test_which_saves_had_to_wait_for_memory(vf: Vf) -> None:
    vf.arc("RUNNING", "PRE_COPY")
    # Set aside for stop-copy, while the session is opened.
    vf.alloc(0x9000, 9011)
    vf.alloc(0x5000, 8192)
    vf.save(INITIAL, 8192)
    vf.set_state("PRE_COPY")
    vf.save(MIDDLE, 523)
    vf.ioctl(0, 523)
    vf.alloc(0x6000, 100_000)
    vf.save(MIDDLE, 100_000)
    vf.ioctl(0, 100_000)
    vf.arc("PRE_COPY", "STOP_COPY")
    vf.buffer = 0x9000
    vf.save(FINAL, 257)
    saves = events(vf, Save)
    assert [save.buffer for save in saves] == ["new", "reused", "new", "reused"]
    (summary,) = events(vf, Summary)
    assert (summary.buffers_allocated, summary.buffers_reused) == (3, 2)
    assert (summary.mkeys, summary.mkey_ns) == (3, 3000)
    assert summary.buffer_ns == 6000


def test_a_driver_whose_buffers_are_not_seen_says_nothing_of_them(vf: Vf) -> None:
    vf.go("RUNNING", "PRE_COPY")
    vf.buffer = 0x9000
    vf.save(INITIAL, 523)
    assert [save.buffer for save in events(vf, Save)] == [None]


def test_what_is_held(vf: Vf) -> None:
    vf.alloc(0x5000, 8192)
    vf.alloc(0x6000, 1)
    vf.free(0x5000, 8192)
    vf.alloc(0x7000, 4096, result=-errno.ENOMEM)
    vf.free(0x6000, 4096)
    told = [(b.action, b.buffers, b.held_bytes, b.error) for b in events(vf, Buffer)]
    assert [row for row in told if row[0] != "mkey"] == [
        ("alloc", 1, 8192, ""),
        ("alloc", 2, 12288, ""),
        ("free", 1, 4096, ""),
        ("alloc", 1, 4096, "ENOMEM"),
        ("free", 0, 0, ""),
    ]
    (summary,) = events(vf, Summary)
    assert (summary.buffers_allocated, summary.buffers_freed) == (2, 2)
    assert (summary.held_bytes_max, summary.mkeys) == (12288, 2)
    shown = [line for event in events(vf, Buffer) for line in Text(0).lines(event)]
    assert len(shown) == 2
    assert all(line.endswith("ENOMEM") for line in shown)


def test_a_buffer_that_grows(vf: Vf) -> None:
    vf.alloc(0x5000, 0)
    vf.put(Kind.MKEY, vf.clock.now, 0x5000, 8192)
    vf.free(0x5000, 12288)
    assert [b.held_bytes for b in events(vf, Buffer)] == [0, 0, 8192, 0]
    assert events(vf, Summary)[0].held_bytes_max == 12288


def test_how_long_the_queue_was(vf: Vf) -> None:
    vf.go("RUNNING", "PRE_COPY")
    vf.save(INITIAL, 4096)
    vf.issue(MIDDLE, state="PRE_COPY")
    vf.put(Kind.SAVE_DONE, vf.work, 0, 0, 0, 523, 0, 1, 4112)
    saves = events(vf, Save)
    assert [(save.queued_images, save.queued_bytes) for save in saves] == [(0, 0), (1, 4112)]
    assert events(vf, Summary)[0].queued_bytes_max == 4112 + 523


def test_the_kinds_are_those_of_the_program() -> None:
    assert len({int(kind) for kind in Kind}) == len(Kind)
    assert max(Kind) < 1 << 16
    assert records.SIZE == 128
