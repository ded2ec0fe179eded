# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxtrace report`` against babeltrace2 and ``trace-cmd report``, on the same events.

Run alone: bench/report.py [--events N] [--runs N]. All on one core; what is compared is CPU time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import report_inputs

PACKAGES = {"babeltrace2": "babeltrace2", "trace-cmd": "trace-cmd"}
CAVEAT = """\
An event is a record of 128 bytes that tells of reads or writes; in CTF it has 106 and in trace.dat
100 bytes, with the same content. Rows: a line for each, to /dev/null. Sums: mlxtrace adds up the
calls, bytes and ends of each VF; babeltrace2 (sink.utils.counter) only counts events; trace-cmd has
nothing like it. Other records (state changes, SAVEs, ioctls) are decoded one by one, and take
longer."""


@dataclass
class Peer:
    """A command, and the CPU seconds that each of its runs took.

    Attributes:
        lines: whether its output has a line for each event.
    """

    name: str
    words: list[str]
    lines: bool
    seconds: list[float] = field(default_factory=list)

    def check(self, events: int) -> None:
        """Run once, so that the input is cached, and see that no event is left out.

        Raises:
            SystemExit: some are.
        """
        with subprocess.Popen(self.words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
            assert run.stdout is not None
            lines = text_length = 0
            while block := run.stdout.read(1 << 20):
                lines += block.count(b"\n")
                text_length += len(block)
        if run.returncode or (self.lines and lines < events) or not text_length:
            sys.exit(f"report: {' '.join(self.words)}: status {run.returncode}, {lines} lines")

    def run(self) -> None:
        """Run once and keep the CPU time, user's and system's."""
        process = subprocess.Popen(self.words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
        self.seconds.append(usage.ru_utime + usage.ru_stime)


def require_peers() -> None:
    """Install the peers that are missing, and say so.

    Raises:
        SystemExit: they cannot be installed.
    """
    missing = [package for command, package in PACKAGES.items() if not shutil.which(command)]
    if not missing:
        return
    words = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    print(f"report: {' '.join(words)}", file=sys.stderr)
    if os.geteuid() or subprocess.run(words, stdout=subprocess.DEVNULL).returncode:
        sys.exit(f"report: these Debian packages are needed: {' '.join(missing)}")


def table(title: str, peers: list[Peer], events: int) -> None:
    """Print a row a peer; the first one is what the ratios are to."""
    print(f"\n{title}")
    print(f"{'':<34}{'M events/s':>16}{'ratio':>9}")
    base = events / statistics.median(peers[0].seconds)
    for peer in peers:
        rates = [events / seconds / 1e6 for seconds in peer.seconds]
        rate = statistics.median(rates)
        spread = f"\u00b1{(max(rates) - min(rates)) / 2:.2f}"
        print(f"{peer.name:<34}{rate:>9.2f} {spread:<6}{rate * 1e6 / base:>8.2f}x")


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--events", type=int, default=5_000_000, help="events in each file")
    parser.add_argument("--runs", type=int, default=3, help="runs of each command, in turn")
    arguments = parser.parse_args()
    require_peers()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    mlxtrace = str(Path(sys.executable).parent / "mlxtrace")
    with tempfile.TemporaryDirectory() as folder:
        recording, ctf, dat = (Path(folder) / name for name in ("run.mlxrec", "ctf", "trace.dat"))
        report_inputs.recording(recording, arguments.events)
        report_inputs.ctf(ctf, arguments.events)
        report_inputs.trace_dat(dat, arguments.events)
        sums = [
            Peer("mlxtrace report --summary-only",
                 [mlxtrace, "report", "-s", str(recording)], False),
            Peer("babeltrace2, counting only",
                 ["babeltrace2", str(ctf), "-c", "sink.utils.counter"], False),
        ]  # fmt: skip
        rows = [
            Peer("mlxtrace report", [mlxtrace, "report", str(recording)], True),
            Peer("babeltrace2", ["babeltrace2", str(ctf)], True),
            Peer("trace-cmd report", ["trace-cmd", "report", "-i", str(dat)], True),
        ]
        for peer in sums + rows:
            peer.check(arguments.events)
        for _ in range(arguments.runs):
            for peer in sums + rows:
                peer.run()
    print(f"{arguments.events} events, {arguments.runs} runs each, CPU time, start-up included")
    table("sums", sums, arguments.events)
    table("rows", rows, arguments.events)
    print(f"\n{CAVEAT}")


if __name__ == "__main__":
    main()
