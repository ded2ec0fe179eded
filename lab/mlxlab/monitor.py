# SPDX-License-Identifier: GPL-2.0-or-later
"""Run QEMU and watch it: the guest's streams, its progress, its end.

One thread, one loop. QEMU is killed on every way out of here; if mlxlab itself is killed, the
kernel does it (see :func:`mlxlab.vm.dies_with_us`).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from mlxlab import vm
from mlxlab.errors import NotStartedError
from mlxlab.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from mlxlab.runs import Run

    # Our ends of the ports, by port name.
    Ends = Mapping[str, socket.socket]

PORTS = ("control", "stdout", "stderr")
_TICK_S = 0.5
# A healthy guest says something at least every two seconds until the command runs, and after that
# "alive" every five.
BOOT_SILENCE_S = 40.0
HEARTBEAT_SILENCE_S = 90.0
# After it was told to stop: killing what runs, its kernel log, its last words.
_LAST_WORDS_S = 15.0
_GRACE_S = 5.0


@dataclass
class Outcome:
    """How the VM ended."""

    report: Report = field(default_factory=Report)
    timed_out: bool = False
    interrupted: bool = False
    lost: str = ""  # why the VM counts as lost
    wall_s: float = 0.0


@dataclass(frozen=True)
class Limits:
    """How long to wait, in seconds.

    Attributes:
        total_s: for the whole run of the VM, if limited.
        scale: how much slower than usual this machine is; stretches the watchdogs.
    """

    total_s: float | None = None
    scale: float = 1.0


class Sockets:
    """The connected socket pairs of the ports; QEMU inherits one end of each."""

    def __init__(self) -> None:
        """Make them."""
        self.ours: dict[str, socket.socket] = {}
        self._theirs: dict[str, socket.socket] = {}
        for name in PORTS:
            self.ours[name], self._theirs[name] = socket.socketpair()

    @property
    def descriptors(self) -> dict[str, int]:
        """QEMU's ends."""
        return {name: end.fileno() for name, end in self._theirs.items()}

    def release(self) -> None:
        """Close QEMU's ends here, so that its death is seen as end of file."""
        for end in self._theirs.values():
            end.close()

    def close(self) -> None:
        """Close everything."""
        self.release()
        for end in self.ours.values():
            end.close()


class Monitor:
    """Starts a VM and sees it through."""

    def __init__(self, run: Run, limits: Limits, on_stage: Callable[[str, float], None]) -> None:
        """``on_stage`` is told each stage that the guest reached and its uptime in seconds."""
        self._run = run
        self._limits = limits
        self._on_stage = on_stage
        self._outcome = Outcome()
        self._interrupts = 0
        self._pending = b""

    def see_through(self, command: list[str], sockets: Sockets) -> Outcome:
        """Start QEMU by ``command``, stream the guest's output, return how it ended.

        Raises:
            NotStartedError: QEMU refused its command line.
        """
        with self._qemu(command, sockets) as qemu:
            self._watch(qemu.pid, sockets.ours)
        self._drain(sockets.ours)
        report = self._outcome.report
        if not report.stages and not _size(self._run.console) and not self._stopped:
            said = self._run.qemu_log.read_text(errors="replace").strip().splitlines()
            if said:
                raise NotStartedError(f"QEMU did not start: {said[-1]}")
        return self._judged()

    def attend(self, pid: int, ends: Ends, line: str) -> Outcome:
        """Give ``line`` to a guest that is idle, and see through what it makes it do.

        ``pid`` is the QEMU of the kept VM, ``ends`` our ends of its ports. The VM is left alone,
        whatever happens.
        """
        if line:
            self._tell(ends, line)
        self._watch(pid, ends)
        self._drain(ends)
        return self._judged()

    def _judged(self) -> Outcome:
        if not (self._outcome.report.ended or self._outcome.lost or self._stopped):
            self._outcome.lost = "it ended before it had reported"
        return self._outcome

    @property
    def _stopped(self) -> bool:
        return self._outcome.timed_out or self._outcome.interrupted

    @contextlib.contextmanager
    def _qemu(self, command: list[str], sockets: Sockets) -> Iterator[subprocess.Popen[bytes]]:
        with self._run.qemu_log.open("wb") as log:
            qemu = subprocess.Popen(
                [*vm.dies_with_us(), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=tuple(sockets.descriptors.values()),
                # Ctrl-C in the terminal is for mlxlab, which tells the guest.
                start_new_session=True,
            )
        sockets.release()
        try:
            yield qemu
        finally:
            stop(qemu)

    @contextlib.contextmanager
    def _counting_interrupts(self) -> Iterator[None]:
        def count(_number: int, _frame: object) -> None:
            self._interrupts += 1

        before = signal.signal(signal.SIGINT, count)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _watch(self, pid: int, ends: Ends) -> None:
        begin = time.monotonic()
        with self._counting_interrupts():
            self._loop(pid, ends, begin)
        self._outcome.wall_s = time.monotonic() - begin

    def _loop(self, pid: int, ends: Ends, begin: float) -> None:
        watchdog = _Watchdog(self._run, self._limits.scale)
        deadline = begin + self._limits.total_s if self._limits.total_s else None
        told_at: float | None = None
        interrupts = 0
        try:
            exit_handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(exit_handle, selectors.EVENT_READ, None)
                for name, end in ends.items():
                    selector.register(end, selectors.EVENT_READ, name)
                while not self._outcome.report.ended:
                    for key, _ in selector.select(_TICK_S):
                        if key.data is None:
                            return
                        watchdog.sign_of_life()
                        if not self._read(key.data, ends[key.data]):
                            selector.unregister(key.fileobj)
                    now = time.monotonic()
                    if self._interrupts > interrupts:
                        interrupts = self._interrupts
                        self._outcome.interrupted = True
                        if interrupts > 1 or not self._outcome.report.running:
                            return
                        self._tell(ends, "interrupt")
                        told_at = now
                    if deadline and now > deadline and not self._outcome.timed_out:
                        self._outcome.timed_out = True
                        if not self._outcome.report.running:
                            return
                        self._tell(ends, "stop")
                        told_at = now
                    if told_at and now > told_at + _LAST_WORDS_S * self._limits.scale:
                        return
                    lost = watchdog.check(self._outcome.report)
                    if lost:
                        self._outcome.lost = lost
                        return
        finally:
            os.close(exit_handle)

    def _read(self, port: str, end: socket.socket) -> bool:
        """Take what ``port`` has; return False at its end, or if it has nothing."""
        try:
            data = end.recv(1 << 16, socket.MSG_DONTWAIT)
        except (ConnectionError, BlockingIOError):
            data = b""
        if not data:
            return False
        if port == "control":
            self._take(data)
        else:
            stream: BinaryIO = sys.stdout.buffer if port == "stdout" else sys.stderr.buffer
            stream.write(data)
            stream.flush()
        return True

    def _take(self, data: bytes) -> None:
        *lines, self._pending = (self._pending + data).split(b"\n")
        for raw in lines:
            line = raw.decode(errors="replace")
            if self._outcome.report.feed(line) == "stage":
                name, uptime = list(self._outcome.report.stages.items())[-1]
                self._on_stage(name, uptime)

    def _drain(self, ends: Ends) -> None:
        for name, end in ends.items():
            while self._read(name, end):
                pass

    def _tell(self, ends: Ends, line: str) -> None:
        with contextlib.suppress(OSError):
            ends["control"].sendall(f"{line}\n".encode())


class _Watchdog:
    """Decides when a guest that says nothing is lost."""

    def __init__(self, run: Run, scale: float) -> None:
        self._console = run.console
        self._scale = scale
        self._size = -1
        self._alive_at = time.monotonic()

    def sign_of_life(self) -> None:
        self._alive_at = time.monotonic()

    def check(self, report: Report) -> str:
        """Return why the guest counts as lost, or nothing."""
        size = _size(self._console)
        if size != self._size:
            self._size = size
            self.sign_of_life()
        started = bool({"command", "shell"} & set(report.stages))
        limit = (HEARTBEAT_SILENCE_S if started else BOOT_SILENCE_S) * self._scale
        if time.monotonic() - self._alive_at < limit:
            return ""
        reached = list(report.stages)[-1] if report.stages else "power on"
        return f"it said nothing for {limit:.0f} s after stage '{reached}'"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def stop(qemu: subprocess.Popen[bytes]) -> None:
    """End QEMU, with SIGKILL if it does not listen."""
    if qemu.poll() is None:
        qemu.terminate()
        try:
            qemu.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            qemu.kill()
    qemu.wait()
