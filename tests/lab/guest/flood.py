# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: floods both VFs with small writes, by threads of several processes at once.

Writes, by VF, how many writes there were, of how many bytes, and how many of each size.

usage: flood.py RESULT
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
import threading
from pathlib import Path

from mlxtrace.vfio import Device

# In front of each image: bytes of it, flags, tag.
HEADER = struct.Struct("<QII")
# Of each thread; every so many writes one is larger, so that not all are alike.
WRITES = {os.environ["MLXLAB_VF0"]: 10007, os.environ["MLXLAB_VF1"]: 15013}
LARGE_EVERY, LARGE = 2003, bytes(4096)
PROCESSES, THREADS = 2, 2


def write(fd: int, count: int) -> None:
    """Write ``count`` times."""
    for number in range(1, count + 1):
        data = LARGE if number % LARGE_EVERY == 0 else b"x"
        if os.write(fd, data) != len(data):
            os._exit(1)


def flood(descriptors: dict[str, int]) -> None:
    """Write from THREADS threads to each."""
    threads = [
        threading.Thread(target=write, args=(fd, WRITES[name]))
        for name, fd in descriptors.items()
        for _ in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    """Flood, and leave the VFs as they were."""
    result = {}
    with contextlib.ExitStack() as last:
        descriptors = {}
        for name, each in WRITES.items():
            large = PROCESSES * THREADS * (each // LARGE_EVERY)
            small = PROCESSES * THREADS * each - large
            size = small + large * len(LARGE)
            sizes = {1: small, HEADER.size: 1, len(LARGE): large}
            result[name] = {"calls": small + large + 1, "bytes": size + 16, "sizes": sizes}
            device = last.enter_context(Device.open(name))
            stream = device.resume()
            last.callback(device.reset)
            last.callback(stream.close)
            # An image that is never complete is never loaded.
            stream.write_all(HEADER.pack(size + 1, 0, 0))
            descriptors[name] = stream.fileno()
        children = []
        for _ in range(PROCESSES):
            child = os.fork()
            if not child:
                flood(descriptors)
                os._exit(0)
            children.append(child)
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
    Path(sys.argv[1]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
