# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the lab's guest: migrate to and fro under each profile, and keep the summaries.

usage: downtime_guest.py RUNS RESULT PROFILE...
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from mlxlab import firmware
from mlxtrace.migrate import migrate_to_device
from mlxtrace.migrate_model import Options, summary
from mlxtrace.vfio import Device

VFS = os.environ["MLXLAB_VF0"], os.environ["MLXLAB_VF1"]


def become(profile: str, defaults: dict[str, str]) -> None:
    """Give both VFs the knobs of ``profile``; ``default`` is that of a lab without one."""
    chosen = () if profile == "default" else firmware.pick(profile).settings
    # The size first: another one makes a new state.
    knobs = defaults | {setting.name: setting.value for setting in chosen}
    order = sorted(knobs, key=lambda knob: knob != "size_bytes")
    for vf in VFS:
        firmware.apply(vf, [f"{knob}={knobs[knob]}" for knob in order])


def migrate(number: int) -> dict[str, Any]:
    """Migrate one way or the other and return the client's summary."""
    names = VFS if number % 2 else VFS[::-1]
    with Device.open(names[0]) as source, Device.open(names[1]) as target:
        result = migrate_to_device(source, target, Options())
    if result.error is not None:
        raise result.error
    return summary(result)


def main() -> None:
    """Migrate so many times under each profile, after one that only warms up."""
    runs, result, *profiles = sys.argv[1:]
    wanted = ("size_bytes", "dirty_bytes_per_s", "working_set_bytes", "latency_us")
    wanted += ("save_bytes_per_s", "load_bytes_per_s")
    defaults = {knob: firmware.show(VFS[0])[knob] for knob in wanted}
    summaries: dict[str, list[dict[str, Any]]] = {}
    for profile in profiles:
        become(profile, defaults)
        migrate(0)
        summaries[profile] = [migrate(number) for number in range(int(runs))]
        print(f"downtime: {profile}", flush=True)
    Path(result).write_text(json.dumps(summaries))


if __name__ == "__main__":
    main()
