# SPDX-License-Identifier: GPL-2.0-or-later
"""What `./run bench report` feeds to mlxtrace and its peers."""

from __future__ import annotations

import importlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxtrace import report

BENCH = Path(__file__).resolve().parents[2] / "bench"
EVENTS = 20_011


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module: bench/ is no package."""
    pytest.importorskip("numpy", reason="the optional numpy is missing; the [dev] extra has it")
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.delitem(sys.modules, "report_inputs", raising=False)
    return importlib.import_module("report_inputs")


def test_the_recording_has_all_events(tmp_path: Path, inputs: Any) -> None:
    inputs.recording(tmp_path / "run.mlxrec", EVENTS)
    out = io.StringIO()
    assert report.report(tmp_path / "run.mlxrec", out, as_json=True, summary_only=True)
    found = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (
        sum(e["read_calls"] + e["write_calls"] for e in found if e["type"] == "summary") == EVENTS
    )
    rows = io.StringIO()
    report.report(tmp_path / "run.mlxrec", rows)
    lines = rows.getvalue().splitlines()
    assert sum(" READ " in line or " WRITE " in line for line in lines) == EVENTS


def test_the_peers_files_hold_as_many(tmp_path: Path, inputs: Any) -> None:
    inputs.ctf(tmp_path / "ctf", EVENTS)
    packets = -(-EVENTS // 8192)
    assert (tmp_path / "ctf/stream").stat().st_size == EVENTS * 106 + packets * 40
    inputs.trace_dat(tmp_path / "trace.dat", EVENTS)
    data = (tmp_path / "trace.dat").read_bytes()
    assert data.startswith(b"\x17\x08\x44tracing6\0")
    pages = -(-EVENTS // 40)
    assert len(data) % 4096 == 0
    assert len(data) >= pages * 4096
