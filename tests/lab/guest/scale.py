# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: many migrations at once, or a long one whose kernel memory is watched.

usage: scale.py RESULT at-once
       scale.py RESULT long STREAM_BYTES STATE_BYTES
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genbindings.errors import Error
from mlxlab import firmware
from mlxtrace.migrate import migrate_to_device
from mlxtrace.migrate_model import Options, summary
from mlxtrace.vfio import Device

if TYPE_CHECKING:
    from collections.abc import Iterator

VFS = os.environ["MLXLAB_VFS"].split()
CGROUP = Path("/run/scale-cgroup")
# Bytes a second: faster than anything that is done with them.
UNLIMITED = 64 << 30


def at_once() -> list[dict[str, Any]]:
    """Migrate the first half of the VFs to the second half, all of them in PRE_COPY together."""
    half = len(VFS) // 2
    together = threading.Barrier(half, timeout=300)

    def migrate(source: Device, target: Device) -> dict[str, Any]:
        met: list[int] = []

        def tell(what: str, done_bytes: int, announced_bytes: int) -> None:  # noqa: ARG001
            if not met:
                met.append(together.wait())

        return summary(migrate_to_device(source, target, Options(), tell=tell))

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(half) as pool:
        vfs = [stack.enter_context(Device.open(vf)) for vf in VFS]
        return list(pool.map(migrate, vfs[:half], vfs[half:]))


@contextlib.contextmanager
def charged() -> Iterator[Path]:
    """Put this process into a memory cgroup of its own, and yield the group's folder."""
    CGROUP.mkdir(exist_ok=True)
    if not CGROUP.is_mount():
        subprocess.run(["mount", "-t", "cgroup2", "none", str(CGROUP)], check=True)
    (CGROUP / "cgroup.subtree_control").write_text("+memory")
    group = CGROUP / "scale"
    group.mkdir(exist_ok=True)
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield group
    finally:
        (CGROUP / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def kernel_bytes(group: Path) -> int:
    """Return the kernel memory that is charged to ``group``, migration buffers among it."""
    found = re.search(r"^kernel (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def available_bytes() -> int:
    """Return MemAvailable of the guest."""
    found = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert found is not None
    return int(found[1]) << 10


@contextlib.contextmanager
def firmware_with(knobs: dict[str, int]) -> Iterator[None]:
    """Set ``knobs`` of the first two VFs, and put them back: other tests use the same boot."""
    before = {vf: firmware.show(vf) for vf in VFS[:2]}
    for vf in before:
        firmware.apply(vf, [f"{knob}={value}" for knob, value in knobs.items()])
    try:
        yield
    finally:
        for vf, values in before.items():
            firmware.apply(vf, [f"{knob}={values[knob]}" for knob in knobs])


class Watch:
    """Samples memory while a migration goes on."""

    def __init__(self, group: Path) -> None:
        self._group = group
        self.before = kernel_bytes(group)
        self.available_before = available_bytes()
        self.most = 0
        self.least_available = self.available_before
        self.samples = 0

    def tell(self, what: str, done_bytes: int, announced_bytes: int) -> None:  # noqa: ARG002
        """Take a sample: what was read last was written as well."""
        self.most = max(self.most, kernel_bytes(self._group) - self.before)
        self.least_available = min(self.least_available, available_bytes())
        self.samples += 1


def long(stream_bytes: int, state_bytes: int) -> dict[str, Any]:
    """Migrate a VF that never converges until so many bytes were streamed."""
    source, target = VFS[:2]
    knobs = {"size_bytes": state_bytes, "working_set_bytes": state_bytes, "latency_us": 0}
    rates = ("save_bytes_per_s", "load_bytes_per_s", "dirty_bytes_per_s")
    knobs |= dict.fromkeys(rates, UNLIMITED)
    rounds = -(-stream_bytes // state_bytes)
    options = Options(downtime_limit_s=0, min_rounds=rounds, max_rounds=rounds)
    with firmware_with(knobs), charged() as group:
        with Device.open(source) as first, Device.open(target) as second:
            watch = Watch(group)
            began = time.monotonic()
            result = migrate_to_device(first, second, options, tell=watch.tell)
            seconds = time.monotonic() - began
        left = kernel_bytes(group) - watch.before
    if result.error is not None:
        raise Error(str(result.error))
    return {
        **summary(result),
        "seconds": seconds,
        "most_kernel_bytes": watch.most,
        "left_kernel_bytes": left,
        "used_bytes": watch.available_before - watch.least_available,
        "samples": watch.samples,
    }


def main() -> None:
    """Do what is asked and write the result."""
    result, what, *numbers = sys.argv[1:]
    found = at_once() if what == "at-once" else long(*map(int, numbers))
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
