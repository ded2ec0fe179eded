# SPDX-License-Identifier: GPL-2.0-or-later
"""Many migrations in one boot leave nothing behind: no PD, mkey, descriptor or memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.lab.conftest import CARRIED, KERNEL, STOCK, UNLOAD

if TYPE_CHECKING:
    from tests.lab.conftest import Labs

pytestmark = pytest.mark.lab

# Seen: up to 150 KiB in 40 migrations. An image has 8 MiB, a list of its pages 16 KiB.
_NOISE_KIB = 1 << 10


def soak(labs: Labs, kernel: str, count: int) -> None:
    lab = labs.on(kernel)
    name = f"soak-{count}"
    result = lab.out / name / "soak.json"
    script = f"python -m tests.lab.guest.soak {count} {result} && {UNLOAD}"
    done = lab.run(name, "sh", "-c", script, timeout_s=60 + 12 * count)
    assert done.returncode == 0, done.stdout + done.stderr
    soaked = json.loads(result.read_text())
    before, after = soaked["before"], soaked["after"]
    assert soaked["equal"] == count
    assert after["objects"] == {"pds": 0, "mkeys": 0, "async": 0}
    assert after["fds"] == before["fds"]
    programs = after["programs_kib"] - before["programs_kib"]
    assert before["free_kib"] - after["free_kib"] - programs < _NOISE_KIB
    assert programs < 8 * _NOISE_KIB
    if count >= 100:
        # With fewer, what the rest of the system allocates is as much; and the kernel counts open
        # files on each CPU, and adds them up every 32 or so.
        assert after["files_system"] - before["files_system"] < count
        grown = {
            slab: after["slabs"][slab] - objects
            for slab, objects in before["slabs"].items()
            if after["slabs"][slab] - objects >= count
        }
        assert grown == {}


# Every run asks the series that is shipped here; --all has two hundred on each kernel as well.
@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(KERNEL, marks=pytest.mark.slow),
        pytest.param(STOCK, marks=pytest.mark.slow),
        CARRIED,
    ],
)
def test_twenty_migrations_leave_nothing(labs: Labs, kernel: str) -> None:
    soak(labs, kernel, 20)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [KERNEL, STOCK, CARRIED])
def test_two_hundred_migrations_leave_nothing(labs: Labs, kernel: str) -> None:
    soak(labs, kernel, 200)
