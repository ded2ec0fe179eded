# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: every check of mlxtrace.checks, or those named, on two devices of mtty.

Prints a line of JSON for each: its id, status, reason, steps.

usage: mtty.py [ID]...
"""

from __future__ import annotations

import json
import os
import sys

from mlxtrace.checks import Context, all_checks, run

CYCLES = 50


def main() -> None:
    """Run the checks."""
    context = Context(
        os.environ["MLXLAB_VF0"], os.environ["MLXLAB_VF1"], may_rebind=True, cycles=CYCLES
    )
    for check in all_checks():
        if sys.argv[1:] and check.id not in sys.argv[1:]:
            continue
        outcome = run(check, context)
        steps = [str(step) for step in outcome.steps]
        line = {"id": check.id, "status": outcome.status, "reason": outcome.reason, "steps": steps}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
