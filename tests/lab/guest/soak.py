# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: many migrations in one process, to and fro, and what has grown by then.

usage: soak.py COUNT RESULT
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from mlxlab import firmware
from mlxtrace.migrate import migrate_to_device
from mlxtrace.migrate_model import Options, summary
from mlxtrace.vfio import Device

PF = os.environ["MLXLAB_PF"]
VFS = os.environ["MLXLAB_VF0"], os.environ["MLXLAB_VF1"]
# What the first ones allocate and keep: code that is imported, caches that are filled.
WARM_UP = 5
SETTLES = 20
SETTLED_KIB = 512


def migrate(number: int) -> bool:
    """Migrate one way or the other; return whether the hashes are equal."""
    names = VFS if number % 2 else VFS[::-1]
    with Device.open(names[0]) as source, Device.open(names[1]) as target:
        # Few rounds: it is the beginning and the end of a migration that allocate.
        options = Options(min_rounds=1, max_rounds=2)
        return bool(summary(migrate_to_device(source, target, options))["state_hashes_equal"])


def slabs() -> dict[str, int]:
    """Return the objects in use of each kmalloc cache."""
    lines = Path("/proc/slabinfo").read_text().splitlines()
    return {
        words[0]: int(words[1])
        for line in lines
        if (words := line.split())[0].startswith("kmalloc")
    }


def measure() -> dict[str, Any]:
    """Return what must not grow."""
    Path("/proc/sys/vm/drop_caches").write_text("3")
    # Tens of MB of free pages wait in each CPU's lists, and are not in MemFree.
    waiting = re.findall(r"^ +count: +(\d+)", Path("/proc/zoneinfo").read_text(), re.MULTILINE)
    memory = dict(re.findall(r"(\w+): +(\d+) kB", Path("/proc/meminfo").read_text()))
    objects = firmware.figures(PF)["objects"].split()
    return {
        "fds": len(list(Path("/proc/self/fd").iterdir())),
        "files_system": int(Path("/proc/sys/fs/file-nr").read_text().split()[0]),
        "free_kib": int(memory["MemFree"]) + 4 * sum(map(int, waiting)),
        "programs_kib": int(memory["AnonPages"]),
        "objects": dict(zip(objects[::2], map(int, objects[1::2]), strict=True)),
        "slabs": slabs(),
    }


def settle(before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Measure once all that is freed later has been: until as much is free as ``before``.

    A driver may leave it to a worker to free a target's images, so that the guest runs earlier.
    """
    time.sleep(1)
    after = measure()
    for _ in range(SETTLES):
        if not before or after["free_kib"] >= before["free_kib"] - SETTLED_KIB:
            break
        time.sleep(0.5)
        after = measure()
    return after


def main() -> None:
    """Migrate and write the figures before and after."""
    count = int(sys.argv[1])
    for number in range(WARM_UP):
        migrate(number)
    before = settle()
    equal = 0
    for number in range(count):
        equal += migrate(number)
        if number % 20 == 19:
            print(f"soak: {number + 1} migrations", flush=True)
    result = {"equal": equal, "before": before, "after": settle(before)}
    Path(sys.argv[2]).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
