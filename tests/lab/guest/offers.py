# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: what a driver offers to a user, each with the errno where it is refused.

usage: offers.py RESULT
"""

from __future__ import annotations

import json
import mmap
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtrace.stream import HEADER
from mlxtrace.vfio import Device, End, MigrationFlags, State, VfioError, errno_name

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


def large(vf: Device, *, records: bool) -> str:
    """Begin to load a large image, in a record or bare; return the answer."""
    # Memory that nobody touches: a write that is refused for its size does not, either.
    data = memoryview(mmap.mmap(-1, LARGE_BYTES))
    if records:
        data = memoryview(HEADER.pack(LARGE_BYTES, 0, 0) + bytes(data[:4096]))
    stream = vf.resume()
    said = answer(lambda: stream.write(data))
    vf.reset()
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
        with vf.save(State.STOP_COPY) as stream:
            results["precopy ioctl in STOP_COPY"] = answer(stream.precopy_info)
            # The driver of 6.1 has a SAVE hold the file and the module, and waits for it nowhere.
            while stream.read(1 << 20) is not End.FINAL:
                stream.wait(1)
        vf.set_state(State.RUNNING)
        records = MigrationFlags.PRE_COPY in vf.migration_flags()
        results["large image"] = large(vf, records=records)
    Path(sys.argv[1]).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
