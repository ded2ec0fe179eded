# SPDX-License-Identifier: GPL-2.0-or-later
"""Pre-copy sessions that are given up: the VF runs on, and user, tracer and firmware agree."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.conftest import CARRIED, KERNEL
from tests.lab.test_suite import VF0, events, summary

if TYPE_CHECKING:
    from tests.lab.conftest import Suite

pytestmark = pytest.mark.lab

# What a user is answered who gives up: to reading on, where a case does, and to RUNNING; whether
# that takes a reset, and whether the firmware goes on tracking the VF.
_OK = {"running": "ok", "state": "RUNNING", "tracked": 0}
SAID: dict[str, dict[str, dict[str, Any]]] = {
    KERNEL: {
        "after_images": _OK,
        "in_p2p": _OK,
        "in_flight": _OK,
        # There is no data, it says, while the SAVE is under way that was just announced.
        "announced": {**_OK, "read": "temporary"},
        # A session that failed can only be ended by a reset.
        "failed_image": {"read": "ENODEV", "running": "ENODEV", "state": "PRE_COPY", "tracked": 1},
        # poll() says nothing when announced data does not come.
        "fallback": {**_OK, "told": False, "read": "temporary"},
        "refused_suspend": {**_OK, "stop": "EIO", "at": "PRE_COPY_P2P"},
        "refused_query": {
            "stop": "EIO",
            "at": "PRE_COPY_P2P",
            "read": "ENODEV",
            "running": "ENODEV",
            "state": "PRE_COPY_P2P",
            "tracked": 1,
        },
        "failed_cleanup": {"running": "EIO", "state": "PRE_COPY", "tracked": 1},
        "again": _OK,
    },
    CARRIED: {
        "after_images": _OK,
        "in_p2p": _OK,
        "in_flight": _OK,
        "announced": {**_OK, "read": "not yet"},
        "failed_image": {**_OK, "read": "ENODEV"},
        "fallback": {**_OK, "told": True, "read": "temporary"},
        "refused_suspend": {**_OK, "stop": "EIO", "at": "PRE_COPY_P2P"},
        # The VF is suspended, as in STOP_COPY; it is the stream that failed.
        "refused_query": {**_OK, "stop": "ok", "at": "STOP_COPY", "read": "ENODEV"},
        # The VF runs, as was asked for; the next session begins by trying again.
        "failed_cleanup": {**_OK, "tracked": 1},
        "again": _OK,
    },
}


def counted(cases: dict[str, Any]) -> Counter[str]:
    """Return what the firmware counted in all cases."""
    total: Counter[str] = Counter()
    for result in cases.values():
        total.update(result["counters"])
    return total


@pytest.mark.parametrize("case", SAID[KERNEL])
def test_a_session_is_given_up(suite: Suite, case: str) -> None:
    cancels = suite["cancels"]
    assert cancels.status == 0, cancels.stdout + cancels.stderr
    result = cancels.json("cancels.json")["cases"][case]
    expected = SAID[suite.kernel][case]
    assert {key: result[key] for key in expected} == expected
    assert result["suspended"] == [0, 0]
    assert result["counters"]["reset"] == (expected["state"] != "RUNNING")
    assert result.get("dirty_bytes", 1) > 0


def test_user_tracer_and_firmware_agree(suite: Suite) -> None:
    cancels = suite["cancels"]
    told = cancels.json("cancels.json")
    total = counted(told["cases"])
    seen = summary(cancels, VF0)
    for ours, theirs in (
        ("saves", "save"),
        ("initial_images", "save_initial"),
        ("middle_images", "save_middle"),
        ("final_images", "save_final"),
        ("cleanup_saves", "save_cleanup"),
        ("failed_saves", "save_failed"),
    ):
        assert seen[ours] == total[theirs], ours
    assert sum(seen["image_bytes"]) == total["save_bytes"]
    for name, count in told["client"].items():
        assert seen[name] == count, name
    assert {save["bdf"] for save in events(cancels, "save")} == {VF0}


def test_a_cleanup_is_one_wherever_it_comes(suite: Suite) -> None:
    saves = [save for save in events(suite["cancels"], "save", VF0) if save["kind"] == "cleanup"]
    assert all(save["image"] is None for save in saves)
    refused = [save["syndrome"] for save in saves if save["status"]]
    assert refused == [0xABD002]
    # Of ten sessions; upstream's driver does not get to it where two of them failed, and the
    # carried series makes up for the one that was refused.
    assert len(saves) == (8 if suite.kernel == KERNEL else 11)


# The function on the stack that tells who ended a session.
CAUSES = {
    "reset": "mlx5vf_pci_aer_reset_done",
    "close": "mlx5vf_pci_close_device",
    "vf-disabled": "mlx5fv_vf_event",
}


def test_a_session_that_nobody_ended_is_told_with_its_cause(suite: Suite) -> None:
    aborts = events(suite["cancels"], "abort", VF0)
    cases = suite["cancels"].json("cancels.json")["cases"]
    resets = sum(cases[name]["counters"]["reset"] for name in SAID[KERNEL])
    causes = ["reset"] * resets + ["close", "vf-disabled"]
    assert [abort["cause"] for abort in aborts] == causes
    for abort in aborts:
        functions = [frame.split("+")[0] for frame in abort["stack"]]
        assert CAUSES[abort["cause"]] in functions, abort
        assert abort["direction"] in ("read", "")
        assert abort["state"] in ("PRE_COPY", "PRE_COPY_P2P")
    assert summary(suite["cancels"], VF0)["aborts"] == len(aborts)


def test_headers_that_come_in_parts_are_seen(suite: Suite) -> None:
    cancels = suite["cancels"]
    written = cancels.json("cancels.json")["cases"]["in_parts"]["headers"]
    seen = events(cancels, "header", VF0)
    assert [{key: header[key] for key in written[0]} for header in seen] == written
    announced = ["STOP_COPY_SIZE"] if suite.kernel == KERNEL else []
    assert [header["tag"] for header in seen] == [*announced, "FW_DATA", "FW_DATA"]
    assert {header["format"] for header in seen} == {"tagged" if announced else "plain"}


def test_nothing_was_lost(suite: Suite) -> None:
    (lost,) = events(suite["cancels"], "lost")
    assert (lost["lost_records"], lost["missed_returns"], lost["untracked"]) == (0, 0, 0)
