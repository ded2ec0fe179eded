# SPDX-License-Identifier: GPL-2.0-or-later
"""What the carried series makes of a VF that the PF takes away, and of a final image that failed.

Not of upstream's driver: nothing is known of it where the PF gives a VF back.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.lab.conftest import CARRIED

if TYPE_CHECKING:
    from tests.lab.conftest import Labs

pytestmark = pytest.mark.lab

SAID = {
    "resuming": {
        "write": "ok",
        "write, away": "ENODEV",
        "stop, away": "ENOTCONN",
        # An unpatched 6.1 dereferences the file that it has not any more.
        "stop": "ENOTCONN",
        "state": "RESUMING",
    },
    "pre_copy": {
        "read, away": "ENODEV",
        "stop, away": "ENOTCONN",
        "stop": "ENOTCONN",
        "state": "PRE_COPY_P2P",
        "running": "ok",
    },
    "stop_copy": {
        "read, away": "ENODEV",
        "running, away": "ENOTCONN",
        "state, away": "STOP",
    },
    "final_image": {
        "read": "ENODEV",
        # The image was to end it. Of a VF that is tracked none stands alone.
        "tracked": "1",
        "again": "final",
        "tracked, again": "0",
        "running": "ok",
    },
}


@pytest.fixture(scope="module")
def told(labs: Labs) -> dict[str, dict[str, str]]:
    """What each step of each case was answered."""
    lab = labs.on(CARRIED)
    result = lab.out / "ways_back.json"
    done = lab.run("ways-back", "python", "-m", "tests.lab.guest.ways_back", result)
    # Neither a splat nor a firmware assertion: those have an exit status of their own.
    assert done.returncode == 0, done.stdout + done.stderr
    answers: dict[str, dict[str, str]] = json.loads(result.read_text())
    return answers


@pytest.mark.parametrize("case", SAID)
def test_each_step_is_answered(told: dict[str, dict[str, str]], case: str) -> None:
    assert told[case] == {**SAID[case], "migrates": "final"}
