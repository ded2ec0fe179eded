# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing that was captured is thrown away because something could not be written."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from genbindings.errors import Error
from mlxtrace import precopy, recording, report
from mlxtrace.decoder import Decoder
from mlxtrace.precopy import Options

from .fake_capture import FakeCapture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlxtrace.counters import Counters

POLLS = 9
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> FakeCapture:
    """A trace that Ctrl-C ends after some polls."""
    made = FakeCapture(monkeypatch)
    made.at_poll = ctrl_c
    return made


def ctrl_c(polls: int) -> None:
    if polls == POLLS:
        os.kill(os.getpid(), signal.SIGINT)


def trace(path: Path | None, stream: TextIO, **options: Any) -> int:
    return precopy.run(Options(as_json=True, recording=path, **options), stream)


def told(text: str) -> int:
    """How many records are told, in rows and in the summary at the end."""
    events = [json.loads(line) for line in text.splitlines()]
    rows = [event["type"] for event in events].count("ioctl")
    assert [event["ioctls"] for event in events if event["type"] == "summary"] == [rows]
    assert events[-1]["type"] == "lost"
    return rows


def recorded(path: Path) -> tuple[int, list[str]]:
    """How many records are in a recording, and what is wrong with it."""
    out = io.StringIO()
    warnings: list[str] = []
    report.report(path, out, as_json=True, warn=warnings.append)
    return told(out.getvalue()), warnings


class FullDisk(recording.Writer):
    """A recording on a disk that is full after ``room`` writes."""

    room = 0

    def _put(self, data: bytes) -> None:
        type(self).room -= 1
        if self.room < 0:
            self._file.close()
            self._file = Path("/dev/full").open("wb")  # noqa: SIM115
        super()._put(data)


@pytest.mark.parametrize("kept", [0, 4, POLLS + 1])
def test_a_full_disk_ends_the_recording_and_not_the_trace(
    ring: FakeCapture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kept: int,
) -> None:
    monkeypatch.setattr(precopy, "Writer", FullDisk)
    monkeypatch.setattr(FullDisk, "room", 1 + kept)
    out = io.StringIO()
    assert trace(tmp_path / "a.mlxrec", out) == 1
    assert told(out.getvalue()) == POLLS + 1
    assert ring.stops == 1
    said = capsys.readouterr().err
    assert said.count("warning") == 1
    assert f"cannot write {tmp_path}/a.mlxrec: No space left on device" in said
    if kept:
        found, warnings = recorded(tmp_path / "a.mlxrec")
        assert found == kept
        assert "its end is missing" in warnings[0]


def test_what_fails_when_the_file_is_closed_is_told(tmp_path: Path) -> None:
    writer = recording.Writer(tmp_path / "a.mlxrec", {})
    inner = writer._file

    class Quota(io.BytesIO):
        def close(self) -> None:
            raise OSError(122, "Disk quota exceeded")

    writer._file = Quota()
    inner.close()
    with pytest.raises(Error, match=r"a\.mlxrec: Disk quota exceeded"):
        writer.close({})
    writer.abandon()


def reader_goes(descriptor: int, polls: int) -> Callable[[int], None]:
    """At each poll: the one that closes the reading end of the pipe."""

    def at_poll(number: int) -> None:
        if number == polls:
            os.close(descriptor)
        ctrl_c(number)

    return at_poll


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """The reading end of a pipe, which the test closes, and a stream into it."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        yield reading, stream


@pytest.mark.parametrize("polls", [0, 3])
@pytest.mark.parametrize(("lost", "status"), [(0, 0), (5, 3)])
def test_a_reader_that_goes_away_does_not_end_the_recording(
    ring: FakeCapture,
    tmp_path: Path,
    pipe: tuple[int, TextIO],
    capsys: pytest.CaptureFixture[str],
    polls: int,
    lost: int,
    status: int,
) -> None:
    reading, stream = pipe
    ring.at_poll = reader_goes(reading, polls)
    ring.counters.lost_records = lost
    if not polls:
        # As of "| true": it is gone before there is a row.
        os.close(reading)
    assert trace(tmp_path / "a.mlxrec", stream, strict=True) == status
    assert recorded(tmp_path / "a.mlxrec") == (POLLS + 1, [])
    said = capsys.readouterr().err
    assert said.count("nobody reads standard output any more; the recording goes on") == 1


def test_a_reader_that_goes_away_ends_a_trace_without_recording(
    ring: FakeCapture, pipe: tuple[int, TextIO]
) -> None:
    reading, stream = pipe
    ring.at_poll = reader_goes(reading, 3)
    with pytest.raises(BrokenPipeError):
        trace(None, stream)
    assert (ring.polls, ring.stops) == (3, 1)


def test_rows_on_a_full_disk(
    ring: FakeCapture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as stream:
        assert trace(tmp_path / "a.mlxrec", stream) == 1
    assert recorded(tmp_path / "a.mlxrec") == (POLLS + 1, [])
    said = capsys.readouterr().err
    assert said.count("cannot write to standard output: No space left on device") == 1
    with Path("/dev/full").open("w") as stream, pytest.raises(Error, match="standard output"):
        trace(None, stream)
    assert ring.stops == 1


def test_nothing_left_to_write_to_ends_the_trace(
    ring: FakeCapture, tmp_path: Path, pipe: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, stream = pipe
    monkeypatch.setattr(precopy, "Writer", FullDisk)
    monkeypatch.setattr(FullDisk, "room", 1 + 5)
    ring.at_poll = reader_goes(reading, 2)
    with pytest.raises(Error, match=r"cannot write .*a\.mlxrec"):
        trace(tmp_path / "a.mlxrec", stream)
    assert (ring.polls, ring.stops) == (6, 1)


def test_what_a_decoder_cannot_take_is_recorded(
    ring: FakeCapture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("unforeseen")

    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "feed", fail)
        with pytest.raises(KeyError):
            trace(tmp_path / "a.mlxrec", io.StringIO())
    assert ring.stops == 1
    assert recorded(tmp_path / "a.mlxrec") == (2, [])


def test_what_was_captured_is_told_though_the_end_fails(
    ring: FakeCapture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> tuple[bytes, Counters]:
        raise OSError("unforeseen")

    monkeypatch.setattr(ring, "stop", fail)
    out = io.StringIO()
    with pytest.raises(OSError, match="unforeseen"):
        trace(tmp_path / "a.mlxrec", out)
    assert told(out.getvalue()) == POLLS
    assert json.loads(out.getvalue().splitlines()[-1])["lost_records"] is None
    found, (warning,) = recorded(tmp_path / "a.mlxrec")
    assert found == POLLS
    assert "its end is missing" in warning


@pytest.mark.parametrize("ignored", [False, True])
def test_a_hangup_ends_a_trace_unless_it_is_ignored(ring: FakeCapture, ignored: bool) -> None:
    def at_poll(number: int) -> None:
        if number == 3:
            os.kill(os.getpid(), signal.SIGHUP)
        ctrl_c(number)

    ring.at_poll = at_poll
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else lambda *_: None)
    out = io.StringIO()
    try:
        assert trace(None, out) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert told(out.getvalue()) == ring.polls + 1 == (POLLS if ignored else 3) + 1


COMMAND = """
import pytest
from tests.tracer.fake_capture import FakeCapture
from mlxtrace.cli import main
ring = FakeCapture(pytest.MonkeyPatch())
main()
"""


@pytest.mark.parametrize("rest", ["| head -1", "| true", ">/dev/full"])
def test_the_command_ends_well_and_quietly(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "a.mlxrec"
    script = f'"$0" -c "$1" precopy -w {path} --duration 0.3 {rest}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, COMMAND],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    full = rest == ">/dev/full"
    assert done.returncode == full
    assert "the recording goes on" in done.stderr or not full
    assert all(word not in done.stderr for word in ("Traceback", "Exception", "rror:"))
    found, warnings = recorded(path)
    assert found > 1
    assert not warnings


def test_a_terminal_that_goes_away_ends_the_recording_well(tmp_path: Path) -> None:
    """As a dropped ssh: SIGHUP, and nothing can be written to it any more."""
    path = tmp_path / "a.mlxrec"
    master, terminal = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "precopy", "-w", str(path)],
        cwd=ROOT,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:
        os.close(terminal)
        said = b""
        while b"INFO" not in said:
            said += os.read(master, 4096)
        os.close(master)
    assert process.returncode == 1, "the rows could not be written to their end"
    found, warnings = recorded(path)
    assert found > 1
    assert not warnings
