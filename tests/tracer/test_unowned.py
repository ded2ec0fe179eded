# SPDX-License-Identifier: GPL-2.0-or-later
"""Data files that were open before the trace, and do not say whose they are, are told of."""

from __future__ import annotations

import ctypes
import io
import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest

from mlxtrace import capture, catalogue, output, records, summary_text
from mlxtrace.calls import Calls
from mlxtrace.counters import Counters
from mlxtrace.decoder import Decoder
from mlxtrace.events import Lost
from mlxtrace.layout import Layouts
from mlxtrace.records import Kind
from mlxtrace.selection import Selection
from mlxuapi import vfio as uapi

from .native import BUFFERS, CORE, MLX5, CoreVf, Memory, Native, Vf
from .raw_records import Clock
from .raw_records import Vf as Records
from .test_selection import header

if TYPE_CHECKING:
    from pathlib import Path

ONE = "0000:01:00.1"
INFO, OTHER = int(uapi.VFIO_MIG_GET_PRECOPY_INFO), 0x3B7A


def ask(native: Native, file: Memory, command: int) -> None:
    native.call("enter_precopy_ioctl", file.address, command, Memory().address)
    native.call("leave_precopy_ioctl")


def test_any_drivers_file_that_was_open_before(tmp_path: Path) -> None:
    native, file = Native(tmp_path, CORE), Memory()
    native.as_task(8123)
    native.read(file, 1000)
    ask(native, file, INFO)
    assert native.unowned(8123) == 2
    # An ioctl that no data file has.
    ask(native, file, OTHER)
    native.as_task(99)
    native.write(file, 1000)
    assert (native.unowned(8123), native.unowned(99)) == (2, 1)
    vf, known = CoreVf(native, ONE), Memory()
    vf.go("STOP", "STOP_COPY", known)
    native.read(known, 1000)
    ask(native, known, INFO)
    assert (native.unowned(8123), native.unowned(99)) == (2, 1)


def test_a_target_before_linux_6_2(tmp_path: Path) -> None:
    native = Native(tmp_path, MLX5)
    native.as_task(8123)
    vf = Vf(native, ONE)
    native.write(vf.file(says_whose=False), 1000)
    native.write(vf.file(says_whose=False), 1000)
    assert native.unowned(8123) == 2
    native.write(vf.file(), 1000)
    native.read(vf.file(), 1000)
    assert native.unowned(8123) == 2


def test_a_driver_whose_files_say_whose_they_are(tmp_path: Path) -> None:
    native = Native(tmp_path, MLX5 | BUFFERS)
    native.as_task(8123)
    vf = Vf(native, ONE)
    file = vf.file()
    native.read(file, 1000)
    native.write(file, 1000)
    ask(native, file, INFO)
    assert native.unowned(8123) == 0


@pytest.mark.parametrize(
    "how",
    [{"armed": False}, {"without": ("data-file",)}],
    ids=["not begun", "files not looked for"],
)
def test_what_is_not_counted(tmp_path: Path, how: dict[str, Any]) -> None:
    native, file = Native(tmp_path, CORE, **how), Memory()
    native.as_task(8123)
    native.read(file, 1000)
    native.write(file, 1000)
    ask(native, file, INFO)
    assert native.unowned(8123) == 0


def told(pid: int, kind: Kind = Kind.DATA_SIZE) -> bytes:
    """A record of a VF that was asked for, made by that process."""
    raw = records.Raw(5, 0x10, pid, pid, kind, 0, 0, b"qemu", (1, 2))
    return records.pack(raw)


@pytest.mark.parametrize(
    ("devices", "seen", "expected"),
    [
        ((), [], {8123: 512, 99: 3}),
        ((ONE,), [], {}),
        ((ONE,), [told(8123), told(4)], {8123: 512}),
        # Whose task a completion interrupts has nothing to do with it.
        ((ONE,), [told(99, Kind.SAVE_DONE)], {}),
    ],
)
def test_of_vfs_that_were_not_asked_for_none_is_counted(
    devices: tuple[str, ...], seen: list[bytes], expected: dict[int, int]
) -> None:
    u64 = ctypes.c_uint64
    tables: dict[str, Any] = defaultdict(MagicMock)
    tables["unowned"].items = lambda: [(u64(8123), u64(512)), (u64(99), u64(3))]
    tracer = capture.Capture(catalogue.PROBES, Layouts("a test", {}), devices)
    tracer._bpf = MagicMock(__getitem__=lambda _, name: tables[name])
    tracer._attacher, tracer._calls, tracer._flows = MagicMock(), Calls(tables), MagicMock()
    for record in seen:
        buffer = ctypes.create_string_buffer(record)
        tracer._receive(None, ctypes.addressof(buffer), records.SIZE)
    _, found = tracer.stop()
    assert found.unowned == expected


def closing(unowned: dict[int, int], selection: Selection) -> tuple[dict[str, Any], bool]:
    """Return the last JSON line, and whether it tells of no loss."""
    out: list[bytes] = []
    Records(Clock(), ONE, 0x10, out).go("RUNNING", "PRE_COPY")
    stream, decoder = io.StringIO(), Decoder()
    printer = output.Output(stream, output.meta_of(header()), as_json=True, selection=selection)
    printer.write(decoder.feed(b"".join(out)))
    counters = Counters.from_json(json.loads(json.dumps(Counters(unowned=unowned).to_json())))
    printer.write(decoder.finish(counters, 2_000_000))
    return json.loads(stream.getvalue().splitlines()[-1]), printer.complete


@pytest.mark.parametrize(
    ("unowned", "selection", "shown"),
    [
        ({}, Selection(), {}),
        ({8123: 512, 99: 3}, Selection(), {"8123": 512, "99": 3}),
        ({8123: 512, 99: 3}, Selection(pid=99), {"99": 3}),
        ({8123: 512}, Selection(pid=99), {}),
    ],
)
def test_the_loss_line_has_them_and_a_strict_trace_fails(
    unowned: dict[int, int], selection: Selection, shown: dict[str, int]
) -> None:
    line, complete = closing(unowned, selection)
    assert line["unowned_calls"] == shown
    assert complete is not bool(shown)


def test_a_recording_from_before_does_not_know() -> None:
    data = Counters().to_json()
    del data["unowned"]
    (event,) = Decoder().finish(Counters.from_json(data))
    assert isinstance(event, Lost)
    assert event.unowned_calls is None
    assert output.is_complete(event)


@pytest.mark.parametrize("pids", [[8123], list(range(4_194_000, 4_194_304))])
def test_people_are_told_what_to_do(pids: list[int]) -> None:
    event = Lost(
        bdf=None,
        boot_ns=0,
        lost_records=0,
        missed_returns=0,
        skipped=0,
        incomplete_saves=0,
        untracked=0,
        unowned_calls=dict.fromkeys(pids, 12_345_678),
        at_end=True,
    )
    lines = list(summary_text.losses(event))
    assert max(map(len, lines)) < 100
    assert str(pids[0]) in " ".join(lines)
    assert lines[-1].endswith("begin the trace before the migration")
