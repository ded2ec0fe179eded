# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the parts of the stress run in the guest, and write what they did and what was wrong.

usage: python -m tests.lab.guest.stress RESULT [--parts PART,...] [--cycles N] ...
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.guest import soak
from tests.lab.guest.stress import allocations, cycles, knobs, races, resets, sessions
from tests.lab.guest.stress.rig import Tally, settle

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS = (
    "cycles",
    "knobs",
    "allocations",
    "storm",
    "sessions",
    "sriov",
    "races",
    "resets",
    "signals",
)


def share(text: str) -> slice:
    """Return the I-th of N shares of a list, where ``text`` is I/N: each N-th of it.

    Raises:
        ValueError: it is something else; argparse says so.
    """
    first, count = (int(word) for word in text.split("/"))
    if not 1 <= first <= count:
        raise ValueError(text)
    return slice(first - 1, None, count)


def arguments() -> argparse.Namespace:
    """Return the command line: the counts are those of the short run."""
    parser = argparse.ArgumentParser(prog="tests.lab.guest.stress")
    parser.add_argument("result", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--seed", type=int, default=1)
    for name, count in (
        ("cycles", 20),
        ("storm", 200),
        ("races", 6),
        ("resets", 1),
        ("signals", 2),
    ):
        parser.add_argument(f"--{name}", type=int, default=count, help="how many")
    for name, part in (
        *(("knobs", "1/24"), ("allocations", "1/40"), ("sessions", "1/6"), ("sriov", "7/10")),
    ):
        parser.add_argument(f"--{name}", type=share, default=part, help="I/N: the I-th of N shares")
    parser.add_argument("--calls", default="", help="allocations: only calls with this name")
    given = parser.parse_args()
    unknown = set(given.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return given


def parts(given: argparse.Namespace) -> dict[str, Callable[[Tally], None]]:
    """Return what runs each part."""
    return {
        "cycles": lambda tally: cycles.run(tally, given.cycles, given.seed),
        "knobs": lambda tally: knobs.run(tally, given.knobs),
        "allocations": lambda tally: allocations.run(tally, given.allocations, given.calls),
        "storm": lambda tally: allocations.storm(tally, given.storm, given.seed),
        "sessions": lambda tally: sessions.run(tally, given.sessions),
        "sriov": lambda tally: sessions.sriov(tally, given.sriov),
        "races": lambda tally: races.run(tally, given.races, given.seed),
        "resets": lambda tally: resets.run(tally, given.resets, given.seed),
        "signals": lambda tally: races.signals(tally, given.signals, given.seed),
    }


def attempt(tally: Tally, part: Callable[[Tally], None]) -> float:
    """Run ``part`` and return its seconds; what it raises is wrong too."""
    settle()
    began = time.monotonic()
    try:
        part(tally)
    except Exception as error:  # noqa: BLE001 - noted, and the other parts run
        traceback.print_exc()
        tally.check(False, f"{type(error).__name__}: {error}")
    return time.monotonic() - began


def main() -> int:
    """Run the parts and write the result."""
    given = arguments()
    chosen = given.parts.split(",")
    kernel = {"fault_injection": allocations.available()}
    if not kernel["fault_injection"]:
        # The image that distributions ship has none; the debug kernel has.
        chosen = [name for name in chosen if name not in ("allocations", "storm")]
    settle()
    # What the first sessions allocate and keep is not what is looked for.
    for _ in range(3):
        Tally("warm-up").migration("at the beginning")
    before = soak.measure()
    results = {}
    for name in chosen:
        tally = Tally(name)
        seconds = attempt(tally, parts(given)[name])
        results[name] = {"counts": dict(tally.counts), "wrong": tally.wrong, "seconds": seconds}
        said = ", ".join(f"{count} {what}" for what, count in tally.counts.items())
        print(f"stress: {name}: {seconds:.0f} s: {len(tally.wrong)} wrong: {said}", flush=True)
    settle()
    if kernel["fault_injection"]:
        kernel["kmemleak"] = allocations.kmemleak_works()
    result = {"parts": results, "kernel": kernel, "before": before, "after": soak.measure()}
    given.result.write_text(json.dumps(result, indent=1))
    return int(any(part["wrong"] for part in results.values()))


if __name__ == "__main__":
    sys.exit(main())
