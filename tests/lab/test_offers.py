# SPDX-License-Identifier: GPL-2.0-or-later
"""What the carried series adds: 6.1's driver is asked the same without and with it."""

from __future__ import annotations

import json

import pytest

from mlxtrace.vfio import MigrationFlags
from tests.lab.conftest import CARRIED, GUEST, STOCK, UNLOAD, Labs

pytestmark = pytest.mark.lab

_STOP_COPY = MigrationFlags.STOP_COPY | MigrationFlags.P2P
OFFERS = {
    STOCK: {
        "flags": _STOP_COPY,
        "data size": "ENOTTY",
        "PRE_COPY": "EINVAL",
        "precopy ioctl in STOP_COPY": "ENOTTY",
        "large image": "ENOMEM",
    },
    CARRIED: {
        "flags": _STOP_COPY | MigrationFlags.PRE_COPY,
        "data size": "ok",
        "PRE_COPY": "ok",
        # It is there, and this is no state for it.
        "precopy ioctl in STOP_COPY": "EINVAL",
        "large image": "ok",
    },
}


@pytest.mark.parametrize("kernel", [STOCK, CARRIED])
def test_what_the_driver_offers(labs: Labs, kernel: str) -> None:
    lab = labs.on(kernel)
    result = lab.out / "offers" / "offers.json"
    done = lab.run("offers", "sh", "-c", f"python {GUEST}/offers.py {result} && {UNLOAD}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(result.read_text()) == OFFERS[kernel]
