# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: save streams to files, load them, or feed them to a driver unasked.

Writes what became of each, by the step's words.

usage: streams.py RESULT VERB:FIRMWARE:FILE...

VERB is `save`, `save-stopped` (without PRE_COPY), `load`, or `feed`: the bytes of the stream,
whatever the driver says that it takes. FIRMWARE is one of ``FIRMWARES``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.lab.guest.faults import rebind

from mlxlab import firmware
from mlxtrace import streamfile
from mlxtrace.migrate import migrate_from_file, migrate_to_file
from mlxtrace.migrate_model import Options, summary
from mlxtrace.vfio import Device, State, VfioError, errno_name

PF = os.environ["MLXLAB_PF"]
SOURCE, TARGET = os.environ["MLXLAB_VF0"], os.environ["MLXLAB_VF1"]

PRESENT = ("multi_load=1", "tracking_state=1", "migration_in_chunks=0")
FIRMWARES = {
    "precopy": PRESENT,
    # The PF's capabilities that PRE_COPY takes are absent.
    "plain": ("multi_load=0", "tracking_state=0", "migration_in_chunks=0"),
    "chunks": ("multi_load=1", "tracking_state=1", "migration_in_chunks=1"),
}
# Of a state of 8 MiB.
CHUNK_BYTES = 1 << 20


def become(name: str, chunk_bytes: int = CHUNK_BYTES) -> None:
    """Give the firmware other capabilities: a driver reads them when it takes a VF."""
    firmware.apply(PF, FIRMWARES[name])
    for vf in (SOURCE, TARGET):
        firmware.apply(vf, [f"chunk_bytes={chunk_bytes}"])
        rebind(vf)


def save(path: Path, *, precopy: bool) -> dict[str, Any]:
    """Save the source into ``path`` and return the summary."""
    with Device.open(SOURCE) as vf:
        return summary(migrate_to_file(vf, path, Options(precopy=precopy)))


def load(path: Path) -> dict[str, Any]:
    """Load ``path`` into the target and return the summary."""
    with Device.open(TARGET) as vf:
        return summary(migrate_from_file(streamfile.load(path), vf))


def feed(path: Path) -> dict[str, Any]:
    """Write the stream in ``path`` to the target's driver; return where it was refused, and how."""
    refused, at = None, 0
    with Device.open(TARGET) as vf:
        with vf.resume() as stream:
            try:
                for data in streamfile.load(path).chunks():
                    stream.write_all(data)
                    at += len(data)
            except VfioError as error:
                refused = errno_name(error.errno)
            try:
                vf.set_state(State.STOP)
                stopped = "done"
            except VfioError as error:
                stopped = errno_name(error.errno)
        vf.reset()
        return {
            "written_bytes": at,
            "refused": refused,
            "stopped": stopped,
            "after_reset": vf.state().name,
        }


def main() -> None:
    """Take the steps, one after the other, and leave the firmware as it was."""
    chunk_bytes = int(firmware.show(SOURCE)["chunk_bytes"])
    results = {}
    current = ""
    for step in sys.argv[2:]:
        verb, wanted, file = step.split(":", 2)
        print(f"streams: {verb} {wanted} {file}", flush=True)
        if wanted != current:
            become(wanted)
            current = wanted
        path = Path(file)
        if verb == "load":
            result = load(path)
        elif verb == "feed":
            result = feed(path)
        else:
            result = save(path, precopy=verb == "save")
        results[f"{verb}:{wanted}:{path.stem}"] = result
    become("precopy", chunk_bytes)
    Path(sys.argv[1]).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
