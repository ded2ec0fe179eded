# SPDX-License-Identifier: GPL-2.0-or-later
"""How a trace ends: by its command, by the time, by a signal; nothing is left unread."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from mlxtrace import child, precopy
from mlxtrace.child import Child
from mlxtrace.precopy import Options

from .fake_capture import FakeCapture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Bounded, so that a tracer that does not end it fails a test, and does not hang it.
_RUNS = "for i in $(seq 1000); do sleep 0.01; done; exit 9"


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> FakeCapture:
    return FakeCapture(monkeypatch)


def run(**options: object) -> tuple[int, list[dict[str, object]]]:
    """Trace; return the exit status and the events."""
    out = io.StringIO()
    status = precopy.run(Options(as_json=True, **options), out)  # type: ignore[arg-type]
    return status, [json.loads(line) for line in out.getvalue().splitlines()]


def told(events: list[dict[str, object]]) -> int:
    """How many of the ring's records are in the output."""
    (summary,) = (event for event in events if event["type"] == "summary")
    rows = sum(event["type"] == "ioctl" for event in events)
    assert summary["ioctls"] == rows
    return rows


def wait_for(path: Path) -> None:
    for _ in range(1000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"nobody made {path}")


def asks(number: int) -> Callable[[], object]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 5", 5), ("kill -9 $$", 137)])
def test_the_end_of_the_command_ends_it(ring: FakeCapture, script: str, status: int) -> None:
    found, events = run(command=("sh", "-c", script))
    assert found == status
    assert told(events) == ring.polls + ring.stops


@pytest.mark.parametrize(
    ("duration_s", "ask"),
    [
        pytest.param(1e-6, lambda: None, id="duration"),
        pytest.param(None, asks(signal.SIGINT), id="SIGINT"),
        pytest.param(None, asks(signal.SIGTERM), id="SIGTERM"),
    ],
)
def test_the_ring_is_read_while_the_command_is_being_ended(
    ring: FakeCapture, tmp_path: Path, duration_s: float | None, ask: Callable[[], object]
) -> None:
    """The command is asked to end, and ends once the ring was read after that."""
    ready, asked, read = (tmp_path / name for name in ("ready", "asked", "read"))
    waits = f"touch {asked}; until test -e {read}; do sleep 0.01; done; exit 7"

    def at_poll(number: int) -> None:
        if number == 1:
            wait_for(ready)
            ask()
        if asked.exists():
            read.touch()

    ring.at_poll = at_poll
    script = f"trap '{waits}' TERM; touch {ready}; {_RUNS}"
    status, events = run(command=("sh", "-c", script), duration_s=duration_s)
    assert status == 7
    assert told(events) == ring.polls + ring.stops


def test_a_command_that_does_not_end_is_killed(
    ring: FakeCapture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "GRACE_S", 0.02)
    ready = tmp_path / "ready"
    ring.at_poll = lambda number: wait_for(ready) if number == 1 else None
    script = f"trap '' TERM; touch {ready}; {_RUNS}"
    status, events = run(command=("sh", "-c", script), duration_s=1e-6)
    assert status == 128 + signal.SIGKILL
    assert told(events) == ring.polls + ring.stops


def test_a_command_that_nothing_ends_is_left_behind(
    ring: FakeCapture, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Stuck(Child):
        def __init__(self, *_: object) -> None:
            super().__init__(["true"], None)
            self._process.wait()
            deaf = dict.fromkeys(("poll", "terminate", "kill"), lambda: None)
            self._process = SimpleNamespace(**deaf, wait=print)  # type: ignore[assignment]

    monkeypatch.setattr(precopy, "Child", Stuck)
    monkeypatch.setattr(child, "GRACE_S", 0.02)
    monkeypatch.setattr(child, "STUCK_S", 0.02)
    status, events = run(command=("sh", "-c", "exit 0"), duration_s=1e-6)
    assert status == 128 + signal.SIGKILL
    assert "sh was killed, and does not end" in capfd.readouterr().err
    assert told(events) == ring.polls + ring.stops


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_trace_without_command(ring: FakeCapture, number: int) -> None:
    ring.at_poll = lambda polls: os.kill(os.getpid(), number) if polls == 3 else None
    status, events = run()
    assert status == 0
    assert told(events) == ring.polls + ring.stops == 4
