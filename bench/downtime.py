# SPDX-License-Identifier: GPL-2.0-or-later
"""The downtime of a migration on each kernel of the lab, in its parts, with the same firmware.

Run alone: bench/downtime.py [--runs N] [--boots N] [--kernel NAME]... [--profile NAME]...
The first kernel is what the others' ratios are to.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from downtime_table import Summary, most, rows

from mlxlab import firmware

HERE = Path(__file__).resolve().parent
KERNELS = ["stock-6.1", "carried-6.1", "upstream-6.12"]
PROFILES = ["default", "busy"]
CAVEAT = """\
The firmware is simulated: a command takes a fixed time, and its bytes go at a fixed rate, the same
on every kernel. So this compares what drivers do around the same commands, and what they leave to
do when the source stops. It says nothing of a card's times; and where the guest is emulated, what
the CPU does (copying, allocating, waking up) weighs more than on a host."""


def measure(
    kernel: str, runs: int, profiles: list[str], memory_mib: int
) -> dict[str, list[Summary]]:
    """Boot ``kernel`` and return the summaries of so many migrations by profile.

    Raises:
        SystemExit: the lab failed; it has said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        words = [str(Path(sys.executable).parent / "mlxlab"), "run", "--kernel", kernel]
        words += ["--memory", str(memory_mib), "--out", folder, "--"]
        words += ["python", str(HERE / "downtime_guest.py"), str(runs), str(result), *profiles]
        done = subprocess.run(words, cwd=HERE.parent, stdout=subprocess.DEVNULL)
        if done.returncode:
            sys.exit(f"downtime: the lab on {kernel} ended with status {done.returncode}")
        return dict(json.loads(result.read_text()))


def main() -> None:
    """Run the benchmark and print a table for each profile."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=5, help="migrations in a boot (5)")
    parser.add_argument("--boots", type=int, default=1, help="boots of each kernel, in turn (1)")
    parser.add_argument("--kernel", action="append", help="instead of the three: mlxlab kernels")
    parser.add_argument("--profile", action="append", help="instead of default and busy")
    arguments = parser.parse_args()
    profiles = arguments.profile or PROFILES
    known = firmware.profiles()
    memory_mib = max([2048, *(known[name].memory_mib for name in profiles if name in known)])
    results: dict[str, dict[str, list[Summary]]] = {profile: {} for profile in profiles}
    for _ in range(arguments.boots):
        for kernel in arguments.kernel or KERNELS:
            for profile, found in measure(kernel, arguments.runs, profiles, memory_mib).items():
                results[profile].setdefault(kernel, []).extend(found)
    for profile, by_kernel in results.items():
        summary = known[profile].summary if profile in known else "as the lab has it"
        print(f"\n{profile}: {summary}")
        print(f"{arguments.runs * arguments.boots} migrations each; ms, median ± half of the range")
        print("\n".join([*rows(by_kernel), *most(by_kernel)]))
    print(f"\n{CAVEAT}")


if __name__ == "__main__":
    main()
