# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: what a driver offers to a user, each with the errno where it is refused.

usage: offers.py RESULT
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlxlab import firmware
from mlxtrace.vfio import Device, State, VfioError, errno_name

if TYPE_CHECKING:
    from collections.abc import Callable

VF = os.environ["MLXLAB_VF0"]
# More than the 512 MiB that the driver of Linux 6.1 takes.
LARGE_BYTES = 516 << 20


def answer(what: Callable[[], object]) -> str:
    """Return the errno's name that ``what`` fails with, or ``ok``."""
    try:
        what()
    except VfioError as error:
        return errno_name(error.errno)
    return "ok"


def large(vf: Device) -> str:
    """Save a large state; return the answer."""
    before = firmware.show(VF)["size_bytes"]
    firmware.apply(VF, [f"size_bytes={LARGE_BYTES}"])
    said = answer(lambda: vf.save(State.STOP_COPY))
    vf.reset()
    firmware.apply(VF, [f"size_bytes={before}"])
    return said


def main() -> None:
    """Ask for everything on one device."""
    with Device.open(VF) as vf:
        results: dict[str, object] = {
            "flags": int(vf.migration_flags()),
            "data size": answer(vf.stop_copy_bytes),
            "PRE_COPY": answer(lambda: vf.save(State.PRE_COPY)),
        }
        vf.set_state(State.RUNNING)
        stream = vf.save(State.STOP_COPY)
        results["precopy ioctl in STOP_COPY"] = answer(stream.precopy_info)
        vf.set_state(State.RUNNING)
        results["large state"] = large(vf)
    Path(sys.argv[1]).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
