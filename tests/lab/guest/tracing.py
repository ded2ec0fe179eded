# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: tracers that come late, are killed, or draw on a terminal.

Writes what the tracer should have seen, and what it left behind.

usage: tracing.py FOLDER
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab.guest.stress.rig import counter, drain

from mlxlab import firmware
from mlxtrace import streamfile
from mlxtrace.content import content_sum
from mlxtrace.vfio import Device, End, State

if TYPE_CHECKING:
    from collections.abc import Iterator

VF0, VF1 = os.environ["MLXLAB_VF0"], os.environ["MLXLAB_VF1"]
TRACE = ["mlxtrace", "precopy", "-d", VF0, "-d", VF1]
ATTACHED = b"Ctrl-C to end"
# Compiling takes half a minute in an emulated guest.
PATIENCE_S = 180.0
# Read before the tracer comes; most of the first image is left.
EARLY_BYTES = 100_003
MOVES = 3
SCREEN = struct.pack("HHHH", 40, 100, 0, 0)
DEBUG = Path("/sys/kernel/debug")


def saves() -> dict[str, int]:
    """Return how many SAVEs of each VF the firmware has counted so far."""
    return {vf: counter(vf, "save") for vf in (VF0, VF1)}


def probes() -> list[str]:
    """Return the places in the driver that something is attached to: kprobes, and fentry's."""
    files = (DEBUG / "kprobes/list", DEBUG / "tracing/enabled_functions")
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return [line for line in lines if "mlx5vf" in line or "mlx5_vfio" in line]


@contextmanager
def tracer(folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Trace into ``folder``; goes on when the probes are in place, and waits for its end."""
    errors = folder / "stderr"
    with errors.open("wb") as stderr, (folder / "stdout").open("wb") as stdout:
        process = subprocess.Popen([*TRACE, *words], cwd=folder, stdout=stdout, stderr=stderr)
    try:
        _wait_for(lambda: ATTACHED in errors.read_bytes(), process)
        yield process
    finally:
        process.wait(PATIENCE_S)


def _wait_for(holds: Any, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"the tracer has ended ({process.returncode}), or does not start")
        time.sleep(0.1)


def migrate(folder: Path, name: str, *words: str) -> subprocess.Popen[bytes]:
    """Start ``mlxtrace migrate`` with a summary in ``name``.json."""
    options = ["--json", f"{name}.json"]
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            ["mlxtrace", "migrate", *words, *options], cwd=folder, stdout=log, stderr=log
        )


def content_of(path: Path) -> tuple[int, int]:
    """Return the content sum of a stream file, which is removed, and of how many bytes it is."""
    data = b"".join(streamfile.load(path).chunks())
    path.unlink()
    return content_sum(data)


def late(folder: Path) -> dict[str, Any]:
    """A session is under way when the tracer comes; then two processes save two VFs at once."""
    before = saves()
    seen = 0

    def take(data: bytes) -> None:
        nonlocal seen
        seen += len(data)

    with Device.open(VF0) as vf, vf.save(State.PRE_COPY) as stream:
        while seen < EARLY_BYTES:
            data = stream.read(EARLY_BYTES)
            if isinstance(data, bytes):
                take(data)
            else:
                assert stream.wait(5)
        early, seen_early = saves(), seen
        with tracer(folder, "--content", "-w", "trace.mlxrec") as process:
            assert drain(stream, take) is End.TEMPORARY
            stream.precopy_info()
            assert drain(stream, take) is End.TEMPORARY
            vf.set_state(State.STOP_COPY)
            assert drain(stream, take) is End.FINAL
            vf.set_state(State.RUNNING)
            vf.close()
            resumed = saves()
            # Their states differ, so that what is taken for the other one's would show.
            firmware.apply(VF1, ["size_bytes=3000000"])
            both = [
                migrate(folder, "first", "--source", VF0, "--to", "first.mlxstream"),
                migrate(folder, "second", "--source", VF1, "--to", "second.mlxstream"),
            ]
            statuses = [each.wait(PATIENCE_S) for each in both]
            process.send_signal(signal.SIGINT)
    firmware.apply(VF1, ["size_bytes=8388608"])
    contents = {name: content_of(folder / f"{name}.mlxstream") for name in ("first", "second")}
    after = saves()
    return {
        "status": process.returncode,
        "migrations": statuses,
        "pids": [os.getpid(), *(each.pid for each in both)],
        "contents": contents,
        "early_bytes": seen_early,
        "late_bytes": seen - seen_early,
        "early_saves": early[VF0] - before[VF0],
        "late_saves": resumed[VF0] - early[VF0],
        "saves": {vf: after[vf] - resumed[vf] for vf in (VF0, VF1)},
    }


def renewed(folder: Path) -> dict[str, Any]:
    """The VFs are taken and given new places in memory under the tracer, and migrate each time."""
    driver = Path("/sys/bus/pci/drivers/mlx5_vfio_pci")
    statuses = []
    with tracer(folder, "--content", "-w", "trace.mlxrec") as process:
        for number in range(MOVES + 1):
            if number:
                # What was freed last is given out first, perhaps: the other one's.
                for action, names in (("unbind", (VF0, VF1)), ("bind", (VF0, VF1))):
                    for name in names:
                        (driver / action).write_text(name)
            way = (VF0, VF1) if number % 2 else (VF1, VF0)
            words = ["--source", way[0], "--target", way[1]]
            statuses.append(migrate(folder, f"client-{number}", *words).wait(PATIENCE_S))
        process.send_signal(signal.SIGINT)
    return {"status": process.returncode, "migrations": statuses}


def killed(folder: Path) -> dict[str, Any]:
    """The tracer is killed in the middle of a migration, and leaves no probe."""
    recording = folder / "trace.mlxrec"
    with tracer(folder, "-w", recording.name) as process:
        attached, empty = len(probes()), recording.stat().st_size
        migration = migrate(folder, "client", "--source", VF0, "--target", VF1)
        _wait_for(lambda: recording.stat().st_size > empty, process)
        process.kill()
    status = migration.wait(PATIENCE_S)
    # Maps and programs of a process that is gone are freed by the kernel's workers.
    until = time.monotonic() + PATIENCE_S
    while probes() and time.monotonic() < until:
        time.sleep(0.2)
    return {
        "status": process.returncode,
        "migration": status,
        "attached": attached,
        "left": probes(),
    }


class Terminal:
    """A terminal of 100 columns that ``words`` run on."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.text = b""
        main, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, SCREEN)
        self._main = main
        environment = {**os.environ, "TERM": "xterm"}
        self.process = subprocess.Popen(
            [*TRACE, *words],
            cwd=folder,
            stdin=end,
            stdout=end,
            stderr=end,
            env=environment,
            start_new_session=True,
            # The terminal is the session's, so that its Ctrl-C is a signal.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(end)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._main, 65536):
                self.text += data
        except OSError:
            # So a terminal says that nobody has it open any more.
            return

    def shows(self, text: bytes) -> None:
        """Wait until ``text`` has been drawn."""
        _wait_for(lambda: text in self.text, self.process)

    def press(self, key: bytes) -> None:
        """Type ``key``."""
        os.write(self._main, key)

    def wait(self) -> int:
        """Wait for the end, and return the exit status."""
        status = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return status


def dashboard(folder: Path) -> dict[str, Any]:
    """The dashboard shows a migration, and Ctrl-C ends it with the closing summary."""
    terminal = Terminal(folder, "--live")
    terminal.shows(ATTACHED)
    status = migrate(folder, "client", "--source", VF0, "--target", VF1).wait(PATIENCE_S)
    terminal.shows(b"resumed")
    drawn = len(terminal.text)
    terminal.press(b"\x03")
    ended = terminal.wait()
    (folder / "screen").write_bytes(terminal.text)
    plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", terminal.text[drawn:])
    return {
        "status": ended,
        "migration": status,
        "closing": plain.decode(errors="replace"),
        "cursor_shown": terminal.text.rfind(b"\x1b[?25h") > terminal.text.rfind(b"\x1b[?25l"),
        "left": probes(),
    }


def main() -> int:
    """Run all, and write what came of it."""
    root = Path(sys.argv[1])
    found = {}
    for scenario in (late, renewed, killed, dashboard):
        folder = root / scenario.__name__
        folder.mkdir()
        found[scenario.__name__] = scenario(folder)
        print(f"tracing: {scenario.__name__}", flush=True)
    (root / "tracing.json").write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
