# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording says what the live trace said, and a damaged one as much as can be known."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error
from mlxtrace import output, recording, report
from mlxtrace.catalogue import PROBES
from mlxtrace.counters import Counters, ProbeCounts
from mlxtrace.decoder import Decoder
from mlxtrace.probetable import ATTACHED, ProbeState

from .raw_records import Clock, Vf, source_migrates, target_loads

if TYPE_CHECKING:
    from pathlib import Path

CLOCK = {"boot_ns": 1_000_000, "monotonic_ns": 900_000, "realtime_ns": 1_800_000_000_000_000_000}
END = {"boot_ns": 9_000_000, "monotonic_ns": 8_900_000, "realtime_ns": 1_800_000_000_008_000_000}
COUNTERS = Counters(probes={probe.name: ProbeCounts(23, 23) for probe in PROBES})


def stream() -> list[bytes]:
    """Chunks as the ring gives them: several records, then one at a time."""
    out: list[bytes] = []
    clock = Clock()
    source, target = Vf(clock, "0000:01:00.1", 0x10, out), Vf(clock, "0000:01:00.2", 0x20, out)
    source_migrates(source)
    target_loads(target)
    return [b"".join(out[:7]), *out[7:]]


def header() -> dict[str, object]:
    return output.new_header(
        clock=CLOCK,
        layout="BTF of mlx5_vfio_pci",
        offsets={"OFF_VDEV": 0},
        names=[],
        vfs=["0000:01:00.1", "0000:01:00.2"],
        probes=[ProbeState(p, ATTACHED, p.symbols[0], "kprobe").to_json() for p in PROBES],
        command=["mlxtrace", "precopy"],
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "run.mlxrec"
    writer = recording.Writer(path, header())
    for chunk in stream():
        writer.write(chunk)
    writer.close({"clock": END, "counters": COUNTERS.to_json()})
    return path


def live(*, as_json: bool, verbose: bool = False) -> str:
    out = io.StringIO()
    printer = output.Output(out, output.meta_of(header()), as_json=as_json, verbose=verbose)
    decoder = Decoder()
    for chunk in stream():
        printer.write(decoder.feed(chunk))
    printer.write(decoder.finish(COUNTERS, END["boot_ns"]))
    assert printer.complete
    return out.getvalue()


def replayed(path: Path, warnings: list[str], *, as_json: bool, verbose: bool = False) -> str:
    out = io.StringIO()
    report.report(path, out, as_json=as_json, verbose=verbose, warn=warnings.append)
    return out.getvalue()


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("verbose", [False, True])
def test_a_recording_replays_to_what_the_live_trace_printed(
    recorded: Path, as_json: bool, verbose: bool
) -> None:
    warnings: list[str] = []
    assert replayed(recorded, warnings, as_json=as_json, verbose=verbose) == live(
        as_json=as_json, verbose=verbose
    )
    assert not warnings


def test_every_json_line_has_its_type_vf_and_time(recorded: Path) -> None:
    lines = [json.loads(line) for line in replayed(recorded, [], as_json=True).splitlines()]
    assert {line["type"] for line in lines} == {
        "meta", "state", "save", "ioctl", "estimate", "read", "end", "header", "drain", "buffer",
        "histogram", "load", "command", "summary", "lost",
    }  # fmt: skip
    assert all("bdf" in line and line["boot_ns"] > 0 for line in lines)
    assert lines[0]["type"] == "meta"
    assert lines[-1]["type"] == "lost"
    assert lines[-1]["at_end"]


def test_text_fits_and_ends_with_the_losses(recorded: Path) -> None:
    text = replayed(recorded, [], as_json=False, verbose=True)
    assert max(map(len, text.splitlines())) < 100
    assert text.splitlines()[-1] == (
        "lost 0 (ring)  missed 0 (returns)  skipped - (kernel)  "
        "incomplete 0 (SAVE without callback)"
    )
    assert "precopy_init_size=8.0K precopy_dirty_size=0" in text


def test_what_is_no_recording_is_refused(tmp_path: Path, recorded: Path) -> None:
    other = tmp_path / "x"
    with pytest.raises(Error, match="cannot read"):
        recording.Reader(other, print)
    other.write_bytes(b"#!/bin/sh\n")
    with pytest.raises(Error, match="is not a recording"):
        recording.Reader(other, print)
    newer = bytearray(recorded.read_bytes())
    newer[8] = 99
    other.write_bytes(newer)
    with pytest.raises(Error, match="version 99"):
        recording.Reader(other, print)
    with pytest.raises(Error, match="cannot write"):
        recording.Writer(tmp_path / "no" / "folder", {})
