# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: some of the checks of mlxtrace.checks under a fault of the firmware.

Prints a line of JSON for each: the fault's name, the check's id, status, reason, steps. Without
faults, `mlxtrace validate` runs them all.

usage: contract.py [FAULT]...
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
from mlxtrace.validate.simulated import SimulatedFirmware

PF = os.environ["MLXLAB_PF"]
SOURCE, TARGET = os.environ["MLXLAB_VF0"], os.environ["MLXLAB_VF1"]


class LabFirmware(SimulatedFirmware):
    """The stand-in, as the checks know it."""

    def __init__(self) -> None:
        super().__init__([SOURCE, TARGET])


def strikes(device: str) -> int:
    """Return how often the faults of ``device`` struck."""
    found = re.findall(r"hit (\d+)", firmware.figures(device)["faults"])
    return sum(map(int, found))


def report(check: Check, context: Context, fault: str) -> bool:
    """Run a check and print what came of it; False if nothing more can be run."""
    began = time.monotonic()
    device = PF if FAULTS[fault].on_pf else SOURCE
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
    firmware.apply(device, ["fault=clear"])
    print(json.dumps(line), flush=True)
    return not hung


def main() -> int:
    """Run all faults, or those that are named."""
    names = sys.argv[1:]
    context = Context(SOURCE, TARGET, firmware=LabFirmware())
    checks = {check.id: check for check in all_checks()}
    for name, fault in FAULTS.items():
        if names and name not in names:
            continue
        if not report(checks[fault.check], context, name):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
