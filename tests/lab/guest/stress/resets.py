# SPDX-License-Identifier: GPL-2.0-or-later
"""Resets of each kind that meet changes of state: the VF runs after them, and not suspended."""

from __future__ import annotations

import errno
import mmap
import os
import random
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.guest.stress.rig import SOURCE, faulty

from mlxtrace.vfio import Device, State, VfioError
from mlxuapi import vfio as uapi

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.guest.stress.rig import Tally

_AIMS = (
    State.PRE_COPY,
    State.PRE_COPY_P2P,
    State.STOP_COPY,
    State.RUNNING_P2P,
    State.STOP,
    State.RUNNING,
)
# Each command in turn takes long enough for a reset to come while it is executed.
_RULES = tuple(
    f"{where} delay_us=6000"
    for where in (
        "suspend_initiator",
        "suspend_responder",
        "resume_initiator",
        "resume_responder",
        "query",
        "save",
    )
)
# What a change of state may say that meets a reset, or another state than it was asked from.
_MAY_SAY = (errno.EIO, errno.EINVAL)
_RESETS = 3
# PCI: the first capability's offset, PCI Express's number, its Device Control, and FLR in that.
_CAPABILITIES, _EXPRESS, _CONTROL, _FLR = 0x34, 0x10, 0x08, 1 << 15
# VFIO gives region N of a PCI device at N << 40 (VFIO_PCI_OFFSET_SHIFT, drivers/vfio/pci).
_CONFIG = uapi.VFIO_PCI_CONFIG_REGION_INDEX << 40
_BAR = uapi.VFIO_PCI_BAR0_REGION_INDEX << 40


def function_level(vf: Device) -> None:
    """Reset ``vf`` as a guest's driver does, by Initiate Function Level Reset in its control.

    Raises:
        LookupError: it has no PCI Express capability.
    """
    at = os.pread(vf.fileno(), 1, _CONFIG + _CAPABILITIES)[0]
    while at:
        number, following = os.pread(vf.fileno(), 2, _CONFIG + at)
        if number == _EXPRESS:
            break
        at = following
    else:
        raise LookupError(f"{vf.name} has no PCI Express capability")
    where = _CONFIG + at + _CONTROL
    (control,) = struct.unpack("<H", os.pread(vf.fileno(), 2, where))
    os.pwrite(vf.fileno(), struct.pack("<H", control | _FLR), where)


def by_sysfs(vf: Device) -> None:
    """Reset ``vf`` as an administrator does."""
    Path(f"/sys/bus/pci/devices/{vf.name}/reset").write_text("1")


_WAYS: dict[str, Callable[[Device], None]] = {
    "VFIO_DEVICE_RESET": Device.reset,
    "FLR": function_level,
    "sysfs": by_sysfs,
}


def run(tally: Tally, count: int, seed: int) -> None:
    """Let resets meet changes of state, ``count`` times each way and with each slow command."""
    chance = random.Random(seed)
    for number in range(count):
        for rule in _RULES:
            for way in _WAYS:
                name = f"resets by {way}, {number}, {rule}"
                with faulty(SOURCE, rule):
                    _race(tally, name, way, chance)
                tally.nothing_left(name)
                tally.counts[f"by {way}"] += _RESETS
    tally.migration("after resets that met changes of state")


def _race(tally: Tally, name: str, way: str, chance: random.Random) -> None:
    aims = random.Random(chance.random())
    over = threading.Event()

    with (
        Device.open(SOURCE) as vf,
        mmap.mmap(vf.fileno(), mmap.PAGESIZE, prot=mmap.PROT_READ, offset=_BAR) as registers,
    ):

        def change() -> None:
            while not over.is_set():
                try:
                    vf.set_state(aims.choice(_AIMS))
                except VfioError as error:
                    tally.counts["changes that failed"] += 1
                    tally.check(error.errno in _MAY_SAY, f"{name}: {error}")
                    # Not all the while that a reset takes.
                    time.sleep(0.001)
                else:
                    tally.counts["changes"] += 1

        changer = threading.Thread(target=change, daemon=True)
        changer.start()
        for _ in range(_RESETS):
            time.sleep(chance.random() * 0.02)
            _WAYS[way](vf)
            # A reset takes the mapping away. The page fault waits for it, with locks held that
            # a reader of the stream may want: lockdep knows whether a reset wants the reader's.
            tally.counts["page faults"] += registers[0] >= 0
        over.set()
        changer.join()
        # None that goes wrong: a VF that was left suspended cannot be suspended.
        vf.set_state(State.STOP)
        vf.set_state(State.RUNNING)
        tally.at_rest(vf, name)
