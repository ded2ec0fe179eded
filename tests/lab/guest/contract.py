# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: every check of mlxtrace.checks, and some of them again under a fault.

Prints a line of JSON for each: its id, the fault's name if there is one, status, reason, steps.

usage: contract.py [--without=ID]... [ID | FAULT]...
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from typing import Any

from tests.lab.guest.faulty import FAULTS

from mlxlab import firmware
from mlxtrace.checks import Check, Context, all_checks, run

PF = os.environ["MLXLAB_PF"]
SOURCE, TARGET = os.environ["MLXLAB_VF0"], os.environ["MLXLAB_VF1"]
# Small, since it is copied often, and some of it a byte at a time.
SIZE_BYTES = 2 << 20
BUSY_BYTES_PER_S = 8 << 20
CYCLES = 50


class LabFirmware:
    """The stand-in, as the checks know it."""

    def set_busy(self, device: str, busy: bool) -> None:
        firmware.apply(device, [f"dirty_bytes_per_s={BUSY_BYTES_PER_S if busy else 0}"])

    def tracks(self, device: str) -> bool:
        return "tracked 1" in firmware.figures(device)["status"].splitlines()

    def objects(self) -> dict[str, int]:
        words = firmware.figures(PF)["objects"].split()
        return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def strikes(device: str) -> int:
    """Return how often the faults of ``device`` struck."""
    found = re.findall(r"hit (\d+)", firmware.figures(device)["faults"])
    return sum(map(int, found))


def make_small() -> None:
    """Set the size of both VFs' states, which is a default one when they were just made."""
    for vf in (SOURCE, TARGET):
        firmware.apply(vf, [f"size_bytes={SIZE_BYTES}"])


def report(check: Check, context: Context, fault: str = "") -> bool:
    """Run a check and print what came of it; False if nothing more can be run."""
    began = time.monotonic()
    device = PF if fault and FAULTS[fault].on_pf else SOURCE
    if fault:
        firmware.apply(device, [f"fault={FAULTS[fault].rule}"])
    line: dict[str, Any] = {"id": check.id, "fault": fault}
    hung = False
    try:
        outcome = run(check, context)
    except Exception:  # noqa: BLE001 - what is wrong with a check is the test's to say
        line |= {"status": "broken", "reason": traceback.format_exc()}
    else:
        hung = outcome.hung
        line |= {"status": outcome.status, "reason": outcome.reason}
    line |= {
        "steps": [str(step) for step in context.steps],
        "strikes": strikes(device),
        "seconds": round(time.monotonic() - began, 2),
    }
    if fault:
        firmware.apply(device, ["fault=clear"])
    if check.destructive:
        make_small()
    print(json.dumps(line), flush=True)
    return not hung


def main() -> int:
    """Run all checks and all faults, or those that are named."""
    without = {word.partition("=")[2] for word in sys.argv[1:] if word.startswith("--")}
    names = [word for word in sys.argv[1:] if not word.startswith("--")]
    make_small()
    context = Context(
        SOURCE,
        TARGET,
        firmware=LabFirmware(),
        may_rebind=True,
        may_destroy=True,
        cycles=CYCLES,
    )
    checks = {check.id: check for check in all_checks() if check.id not in without}
    for name, fault in FAULTS.items():
        if names and name not in names:
            continue
        if not report(checks[fault.check], context, name):
            return 1
    for check in checks.values():
        if (not names or check.id in names) and not report(check, context):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
