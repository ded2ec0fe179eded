# SPDX-License-Identifier: GPL-2.0-or-later
"""The tracers that ``bench/tracecost.py`` compares: how each is started, and what it saw."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mlxtrace import host
from mlxtrace.catalogue import PROBES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WRITE = "mlx5vf_resume_write"
TRACING = Path("/sys/kernel/tracing")
STARTUP_S = 240
END_S = 60
TRACER_CPU = 0

_ATTACHED = 'interval:ms:20 /@up == 0/ { printf("attached\\n"); @up = 1; }'
SUMS = f"""
kprobe:{WRITE} {{ @start[tid] = nsecs; }}
kretprobe:{WRITE} /@start[tid]/ {{
	$took = nsecs - @start[tid];
	delete(@start[tid]);
	@calls = count();
	@bytes = sum(retval);
	@busy = sum($took);
	@sizes = hist(retval);
	@times = hist($took);
}}
{_ATTACHED}
"""
"""What mlxtrace has of the writes, but for the VF, the ends of the stream and its continuity."""

COUNT = f"kprobe:{WRITE} {{ @calls[arg0] = count(); }} {_ATTACHED}"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a tracer says of a run: calls, and those that it knows it lost (None: it cannot say)."""

    calls: int | None
    lost: int | None


class NotAttachedError(Exception):
    """A tracer ended, or took too long, before it was attached; what it said."""


class Tracer(Protocol):
    """Something that traces writes."""

    name: str

    def start(self) -> float:
        """Start it; return the seconds until it was attached."""

    def stop(self) -> Seen:
        """End it."""


class _Process:
    """A tracer's process; its output goes to a file, so that it never waits for a reader."""

    def __init__(self, words: Sequence[str], attached: Callable[[str], bool]) -> None:
        self._output = tempfile.NamedTemporaryFile("w+", suffix=".trace")  # noqa: SIM115
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, {TRACER_CPU}),
        )
        while not attached(self.text()):
            if self._process.poll() is not None or time.monotonic() - self._began > STARTUP_S:
                self._process.kill()
                raise NotAttachedError(f"{words[0]} did not attach: {self.text()[-1000:]}")
            time.sleep(0.01)
        self.startup_s = time.monotonic() - self._began

    def text(self) -> str:
        """What it wrote so far."""
        return Path(self._output.name).read_text(errors="replace")

    def end(self) -> str:
        """Interrupt it as Ctrl-C does; return all that it wrote."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        text = self.text()
        self._output.close()
        return text


class Mlxtrace:
    """``mlxtrace precopy`` with all of its probes."""

    name = "mlxtrace precopy"

    def start(self) -> float:
        """Start it; return the seconds until it was attached."""
        words = ["mlxtrace", "precopy", "--json"]
        self._process = _Process(words, lambda text: "Tracing " in text)
        return self._process.startup_s

    def stop(self) -> Seen:
        """End it; what is lost are records, calls without a return, and skipped probes."""
        calls, lost = 0, 0
        for line in self._process.end().splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("type") == "summary":
                calls += event["write_calls"]
            if event.get("type") == "lost" and event["at_end"]:
                keys = ("lost_records", "missed_returns", "skipped")
                lost = sum(event[key] or 0 for key in keys)
        return Seen(calls, lost)


class Bpftrace:
    """A script of bpftrace, whose map ``@calls`` counts."""

    def __init__(self, name: str, script: str) -> None:
        self.name = name
        self._script = script

    def start(self) -> float:
        """Start it; return the seconds until it was attached."""
        words = ["bpftrace", "-B", "none", "-f", "json", "-e", self._script]
        self._process = _Process(words, _says_attached)
        return self._process.startup_s

    def stop(self) -> Seen:
        """End it. It does not know of returns that the kernel missed."""
        return Seen(_bpftrace_calls(self._process.end()), None)


def _says_attached(text: str) -> bool:
    # Not the line "attached_probes", which it writes before it attaches.
    return '"data": "attached' in text


def _bpftrace_calls(text: str) -> int | None:
    for line in text.splitlines():
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("type") == "map" and "@calls" in event["data"]:
            value = event["data"]["@calls"]
            return sum(value.values()) if isinstance(value, dict) else int(value)
    return None


class TraceCmd:
    """``trace-cmd record``: entry and return of each call, as records in a file."""

    name = "trace-cmd record"

    def start(self) -> float:
        """Start it; return the seconds until it was attached."""
        self._folder = tempfile.TemporaryDirectory()
        words = ["trace-cmd", "record", "-p", "function_graph", "-l", WRITE]
        words += ["-o", f"{self._folder.name}/trace.dat"]
        self._process = _Process(words, self._attached)
        return self._process.startup_s

    def stop(self) -> Seen:
        """End it. The kernel counts what the buffers had no room for."""
        lost = 0
        for file in TRACING.glob("per_cpu/cpu*/stats"):
            for line in file.read_text().splitlines():
                name, _, value = line.partition(":")
                if name in ("overrun", "dropped events"):
                    lost += int(value)
        self._process.end()
        self._folder.cleanup()
        return Seen(None, lost)

    def _attached(self, _: str) -> bool:
        return (
            (TRACING / "current_tracer").read_text().strip() == "function_graph"
            and (TRACING / "tracing_on").read_text().strip() == "1"
            and WRITE in (TRACING / "set_ftrace_filter").read_text()
        )


def same_probes() -> str:
    """Return a script that counts at all places of ``mlxtrace precopy``, entries and returns."""
    handlers = []
    for probe in PROBES:
        places = [s for s in probe.symbols if not host.why_absent(s, probe.module)]
        if places:
            sides = ("kretprobe" if at_return else "kprobe" for at_return in probe.sides)
            handlers += [f"{side}:{places[0]} {{ @calls[probe] = count(); }}" for side in sides]
    return "\n".join([*handlers, _ATTACHED])
