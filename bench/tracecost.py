# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``mlxtrace precopy`` costs: for each call that it traces, in a flood of calls, to start.

Run alone: bench/tracecost.py [--rounds N] [--calls N] [--flood N] [--startups N] [--kernel NAME].
Its peers are bpftrace and ``trace-cmd record`` in the same guest, in turn, on the same writes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tracecost_table import costs, startups

HERE = Path(__file__).resolve().parent
PEERS = ("bpftrace", "trace-cmd")
CAVEAT = """\
A call is a write of one byte into a resuming VF. Added: beyond the mean of the calls before and
after, without a tracer; medians, ± half of the range over the rounds. Ratios are those of the same
round. mlxtrace has all its probes on. "The same sums": calls, bytes, time, and histograms of size
and time; "count by map": the entry only, one count for each file. trace-cmd has entry and return as
records (function_graph)."""


def require_peers() -> None:
    """Install the peers that are missing, and say so.

    Raises:
        SystemExit: they cannot be installed.
    """
    missing = [command for command in PEERS if not shutil.which(command)]
    if not missing:
        return
    words = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    print(f"tracecost: {' '.join(words)}", file=sys.stderr)
    if os.geteuid() or subprocess.run(words, stdout=subprocess.DEVNULL).returncode:
        sys.exit(f"tracecost: these Debian packages are needed: {' '.join(missing)}")


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3, help="of all tracers in turn (3)")
    parser.add_argument("--calls", type=int, default=20_000, help="writes in a repeat (20000)")
    parser.add_argument("--repeats", type=int, default=5, help="in a round (5)")
    parser.add_argument("--startups", type=int, default=2, help="of mlxtrace and bpftrace (2)")
    parser.add_argument("--floods", type=int, default=1, help="rounds of the flood (1)")
    parser.add_argument(
        "--count", type=int, default=1_000_000, help="writes in a flood: 10000000 take minutes"
    )
    parser.add_argument("--kernel", default="carried-6.1", help="one of mlxlab kernels")
    arguments = parser.parse_args()
    require_peers()
    with tempfile.TemporaryDirectory() as folder:
        program, plan, result = (Path(folder) / n for n in ("writes", "plan.json", "result.json"))
        source = HERE / "tracecost_writes.c"
        subprocess.run(["gcc", "-O2", "-Wall", "-static", "-o", program, source], check=True)
        # Alone before all, then before and after each tracer.
        blocks = arguments.calls * arguments.repeats * arguments.rounds * (1 + 2 * 4)
        floods = arguments.count * arguments.floods * (1 + 2 * 2)
        wanted = {
            "program": str(program),
            "rounds": arguments.rounds,
            "calls": arguments.calls,
            "repeats": arguments.repeats,
            "startups": arguments.startups,
            "floods": arguments.floods,
            "flood": arguments.count,
            "total": blocks + floods + arguments.calls,
        }
        plan.write_text(json.dumps(wanted))
        words = [str(Path(sys.executable).parent / "mlxlab"), "run", "--kernel", arguments.kernel]
        words += ["--out", folder, "--"]
        words += ["python", str(HERE / "tracecost_guest.py"), str(plan), str(result)]
        done = subprocess.run(words, cwd=HERE.parent)
        if done.returncode:
            sys.exit(f"tracecost: the lab ended with status {done.returncode}")
        found = json.loads(result.read_text())
    print(f"{found['release']}\n")
    if found["calls"]:
        writes = arguments.calls * arguments.repeats
        print(f"{writes} writes in each of {arguments.rounds} rounds")
        print("\n".join(costs(found["calls"])))
    if found["flood"]:
        print(f"\nflood: {arguments.count} writes in each of {arguments.floods} rounds")
        print("\n".join(costs(found["flood"])))
    if found["startups"]:
        print(f"\nstart-up, {arguments.startups} times")
        print("\n".join(startups(found["startups"])))
    print(f"\n{CAVEAT}")


if __name__ == "__main__":
    main()
