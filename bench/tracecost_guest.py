# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the lab's guest: small writes into a resuming VF, alone and under each tracer in turn.

usage: tracecost_guest.py PLAN RESULT: JSON files; ``PLAN`` is what bench/tracecost.py asks for.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracecost_tracers import (
    COUNT,
    SUMS,
    TRACER_CPU,
    Bpftrace,
    Mlxtrace,
    NotAttachedError,
    TraceCmd,
    Tracer,
    same_probes,
)

from mlxtrace.vfio import Device, ResumingStream

VF = os.environ["MLXLAB_VF1"]
# In front of each image: bytes of it, flags, tag.
HEADER = struct.Struct("<QII")


@dataclass
class Workload:
    """Writes of one byte into an image that is never complete, so that it is never loaded."""

    program: str
    stream: ResumingStream

    def run(self, count: int, repeats: int) -> list[float]:
        """Write ``count`` times; return the nanoseconds of a write in each repeat."""
        fd = self.stream.fileno()
        words = [self.program, str(fd), str(count), str(repeats)]
        done = subprocess.run(
            words,
            pass_fds=[fd],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {1 - TRACER_CPU}),
        )
        return [int(line) / count for line in done.stdout.split()]


def rounds(
    work: Workload, tracers: list[Tracer], number: int, count: int, repeats: int
) -> list[dict[str, Any]]:
    """Run the workload alone and under each tracer, in turn: a result for each tracer and round."""
    results = []
    for _ in range(number):
        before = work.run(count, repeats)
        for tracer in tracers:
            try:
                startup_s = tracer.start()
            except NotAttachedError as error:
                print(f"tracecost: {error}", file=sys.stderr, flush=True)
                continue
            traced = work.run(count, repeats)
            seen = tracer.stop()
            after = work.run(count, repeats)
            results.append(
                {
                    "tracer": tracer.name,
                    "startup_s": startup_s,
                    "before_ns": before,
                    "traced_ns": traced,
                    "after_ns": after,
                    "wrote": count * repeats,
                    "calls": seen.calls,
                    "lost": seen.lost,
                }
            )
            print(f"tracecost: {json.dumps(results[-1])}", file=sys.stderr, flush=True)
            before = after
    return results


def startups(number: int) -> list[dict[str, Any]]:
    """Start bpftrace on the places of mlxtrace's probes so many times."""
    script = same_probes()
    results = []
    for _ in range(number):
        for tracer in (Mlxtrace(), Bpftrace("bpftrace, the same probes", script)):
            results.append({"tracer": tracer.name, "startup_s": tracer.start()})
            tracer.stop()
    return results


def main() -> None:
    """Do what the plan says, and leave the VF as it was."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    sums, count = (
        Bpftrace("bpftrace, the same sums", SUMS),
        Bpftrace("bpftrace, count by map", COUNT),
    )
    result: dict[str, Any] = {"release": os.uname().release}
    with Device.open(VF) as device, contextlib.ExitStack() as last:
        stream = device.resume()
        last.callback(device.reset)
        last.callback(stream.close)
        stream.write_all(HEADER.pack(plan["total"] + 1, 0, 0))
        work = Workload(plan["program"], stream)
        work.run(plan["calls"], 1)
        everyone: list[Tracer] = [Mlxtrace(), sums, count, TraceCmd()]
        result["calls"] = rounds(work, everyone, plan["rounds"], plan["calls"], plan["repeats"])
        result["startups"] = startups(plan["startups"])
        result["flood"] = rounds(work, [Mlxtrace(), count], plan["floods"], plan["flood"], 1)
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
