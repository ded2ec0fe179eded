# SPDX-License-Identifier: GPL-2.0-or-later
"""The dashboard: a picture of what is known, on any width, and a summary when it is over."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pty
import signal
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from rich.console import Console

from genbindings.errors import UsageError
from mlxtrace import host, layout, live, live_output, output, precopy
from mlxtrace.catalogue import PROBES
from mlxtrace.cli import group
from mlxtrace.counters import Counters
from mlxtrace.decoder import Decoder
from mlxtrace.events import State
from mlxtrace.live_output import LiveOutput
from mlxtrace.probetable import ATTACHED, ProbeState
from mlxtrace.selection import EVERYTHING, Selection

from .raw_records import INITIAL, MIDDLE, Clock, Vf, source_migrates, target_loads

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mlxtrace.events import Event

ONE, TWO = "0000:01:00.1", "0000:01:00.2"
START_NS = 1_000_000


def events(*make: Callable[[Vf], None]) -> list[Event]:
    out: list[bytes] = []
    clock = Clock()
    for number, each in enumerate(make):
        each(Vf(clock, (ONE, TWO)[number], 0x10 * (number + 1), out))
    return list(Decoder().feed(b"".join(out)))


def picture(
    seen: list[Event],
    width: int,
    *,
    now_ns: int = START_NS + 50_000,
    unknown: Collection[str] = (),
) -> str:
    model = live.Model(START_NS, unknown)
    model.take(seen)
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None)
    console.print(live.render(model, now_ns, width, ["a failure"] if model.failures else []))
    return out.getvalue()


def in_precopy(vf: Vf) -> None:
    vf.go("RUNNING", "PRE_COPY")
    vf.save(INITIAL, 8192)
    vf.ioctl(8208, 0)
    vf.read(2, 8208, temporary=1)
    vf.save(MIDDLE, 523)
    vf.ioctl(0, 539)


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_and_has_what_it_must(width: int) -> None:
    text = picture(events(in_precopy, target_loads), width)
    assert max(map(len, text.splitlines())) <= width
    assert "2 VFs  lost 0  incomplete 0" in text
    for said in (
        f"{ONE}  PRE_COPY",
        "session 1",
        "qemu-kvm/8123",
        "2, 2 SAVEs",
        "8.0K in 2 calls",
        "precopy_init_size=0",
        "precopy_dirty_size=539",
        "-> converging",
        "to read, SAVE ~",
        "firmware, ms",
        f"{TWO}  RUNNING",
        "4 LOADs",
    ):
        assert said in text, said


def test_a_wide_terminal_has_the_histogram_beside_the_figures() -> None:
    seen = events(in_precopy)
    narrow, wide = picture(seen, 80).splitlines(), picture(seen, 120).splitlines()
    assert len(wide) < len(narrow)
    assert any("state" in line and "firmware, ms" in line for line in wide)
    assert not any("state" in line and "firmware, ms" in line for line in narrow)


@pytest.mark.parametrize("width", [20, 40, 80, 300])
def test_any_width_will_do(width: int) -> None:
    text = picture(events(source_migrates, target_loads), width)
    assert max(map(len, text.splitlines())) <= width


def test_before_anything_happens_it_says_that_it_waits() -> None:
    assert "waiting for a VF to migrate" in picture([], 80)


def test_failures_and_losses_are_seen() -> None:
    def failing(vf: Vf) -> None:
        vf.go("RUNNING", "PRE_COPY")
        vf.issue(INITIAL)
        vf.done(0, status=9, syndrome=0x123)
        vf.set_state("STOP_COPY", result=-5)

    text = picture(events(failing), 80)
    assert "1 SAVE, 1 failed" in text
    assert "1 states" in text
    assert "last failures" in text
    assert "a failure" in text


@pytest.mark.parametrize("name", ["[/x]", "q[/]", "[red]q", "[link=x]"])
def test_a_name_is_no_markup(name: str) -> None:
    """Of a process, which chooses its own, and of a device."""
    seen: list[Event] = []
    for event in events(in_precopy):
        if isinstance(event, State):
            event = dataclasses.replace(event, comm=name)
        seen.append(dataclasses.replace(event, bdf=name))
    text = picture(seen, 80)
    assert f"{name}/8123" in text
    assert f"{name}  PRE_COPY" in text


def test_a_rate_is_that_of_the_last_seconds() -> None:
    seen = events(in_precopy)
    now = seen[-1].boot_ns
    assert "now 4.0K/s" in picture(seen, 80, now_ns=now)
    assert "now 0/s" in picture(seen, 80, now_ns=now + 10_000_000_000)


def test_the_same_events_make_the_same_picture() -> None:
    assert picture(events(source_migrates), 80) == picture(events(source_migrates), 80)


def header() -> dict[str, object]:
    return output.new_header(
        clock={"boot_ns": START_NS, "monotonic_ns": 1, "realtime_ns": 1},
        layout="",
        offsets={},
        names=[],
        vfs=[],
        probes=[],
        command=[],
    )


def drawn(selection: Selection = EVERYTHING) -> tuple[str, LiveOutput]:
    """Return what a terminal gets from a whole run."""
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None)
    printer = LiveOutput(out, output.meta_of(header()), selection, console)
    records: list[bytes] = []
    clock = Clock()
    source_migrates(Vf(clock, ONE, 0x10, records))
    decoder = Decoder()
    for number, record in enumerate(records):
        printer.write(decoder.feed(record))
        printer.tick(START_NS + number * 100_000_000)
    printer.write(decoder.finish(Counters(), clock.now))
    printer.close()
    return out.getvalue(), printer


def test_the_summary_is_what_is_left() -> None:
    text, printer = drawn()
    assert printer.complete
    assert "waiting for a VF" not in text.rpartition("\x1b")[2]
    assert text.rstrip().splitlines()[-1].startswith("lost 0 (ring)")
    assert f"{ONE} saved 4 images" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor is back"


def test_p_chooses_here_too() -> None:
    text, _ = drawn(Selection(pid=4))
    assert ONE not in text


@pytest.mark.parametrize(
    "arguments", [["--json"], ["-i", "1"], ["-x"], ["5"], ["-v"], ["--ebpf"], ["--dry-run"]]
)
def test_it_stands_alone(arguments: list[str]) -> None:
    error = CliRunner().invoke(group, ["precopy", "--live", *arguments]).exception
    assert isinstance(error, UsageError)
    assert "exclude each other" in str(error)


def test_without_a_terminal_it_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    error = CliRunner().invoke(group, ["precopy", "--live"]).exception
    assert isinstance(error, UsageError)
    assert error.hint.startswith("leave --live out")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(UsageError):
        live_output.require_terminal(sys.stdout)


class Interrupted:
    """A capture of one migration, during which the user presses Ctrl-C."""

    def __init__(self, *_: object, content: bool) -> None:
        self.polls = 0
        assert not content

    def start(self) -> list[ProbeState]:
        return [ProbeState(PROBES[0], ATTACHED, PROBES[0].symbols[0], "kprobe")]

    def poll(self, _timeout_ms: int) -> bytes:
        self.polls += 1
        if self.polls == 1:
            out: list[bytes] = []
            source_migrates(Vf(Clock(), ONE, 0x10, out))
            return b"".join(out)
        signal.raise_signal(signal.SIGINT)
        return b""

    def stop(self) -> tuple[bytes, Counters]:
        return b"", Counters()


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    for check in ("require_privileges", "require_module"):
        monkeypatch.setattr(host, check, lambda *_: None)
    monkeypatch.setattr(layout, "of_running_module", lambda: layout.Layouts("a test", {}))
    monkeypatch.setattr(precopy, "load_bcc", lambda: None)
    monkeypatch.setattr(precopy, "Capture", Interrupted)


@pytest.mark.parametrize("as_dashboard", [True, False])
def test_ctrl_c_leaves_the_summary_on_the_terminal(interrupted: None, as_dashboard: bool) -> None:
    del interrupted
    ours, theirs = pty.openpty()
    seen: list[bytes] = []

    def look() -> None:
        # The other side is closed: EIO.
        with contextlib.suppress(OSError):
            while data := os.read(ours, 4096):
                seen.append(data)

    user = threading.Thread(target=look)
    user.start()
    with os.fdopen(theirs, "w") as terminal:
        status = precopy.run(precopy.Options(live=as_dashboard, argv=()), terminal)
    user.join()
    os.close(ours)
    text = b"".join(seen).decode()
    assert status == 0
    shown = text.rpartition("\x1b[")[2] if as_dashboard else text
    assert f"{ONE} saved 4 images" in shown
    assert shown.rstrip().splitlines()[-1].startswith("lost 0 (ring)")
    assert ("firmware, ms" in text) == as_dashboard
