# SPDX-License-Identifier: GPL-2.0-or-later
"""How a scenario ended, against how it must end."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlxlab.vmm.scenarios import COMPLETED, ENDED, RESET, RUNNING, STOPPED, End, Scenario

if TYPE_CHECKING:
    from collections.abc import Mapping


def ended(result: Mapping[str, Any]) -> End:
    """Return how the scenario of ``result`` ended, in the words of :mod:`mlxlab.vmm.scenarios`.

    What fits none of them is told as it is.
    """
    return End(
        str(result["migration"]),
        _source(result["source"], moved=result["migration"] == COMPLETED),
        _target(result["target"]),
        bool(result["source"]["status"]["tracked"]),
    )


def _source(side: Mapping[str, Any], *, moved: bool) -> str:
    suspended = (side["status"]["initiator_suspended"], side["status"]["responder_suspended"])
    if side["exit_status"] != 0:
        return f"its QEMU exited with {side['exit_status']}"
    if moved:
        if suspended == (1, 1) and side["vm"] == "postmigrate":
            return STOPPED
    elif suspended == (0, 0) and side["vm"] == "running":
        if not side["changing"]:
            return "still: it is not suspended, and its state does not change"
        return RESET if side["counters"]["reset"] else RUNNING
    return f"VM {side['vm']}, suspended {suspended}"


def _target(side: Mapping[str, Any]) -> str:
    if side["vm"] == "ended" and side["exit_status"] == 1:
        return ENDED
    suspended = (side["status"]["initiator_suspended"], side["status"]["responder_suspended"])
    if side["exit_status"] == 0 and side["vm"] == "running" and suspended == (0, 0):
        return RESET if side["counters"]["reset"] else RUNNING
    return f"VM {side['vm']}, suspended {suspended}, its QEMU exited with {side['exit_status']}"


def must_end(scenario: Scenario, result: Mapping[str, Any]) -> End:
    """Return how the scenario must end, where QEMU called the end what ``result`` says."""
    if scenario.also_ends and result["migration"] == scenario.also_ends:
        return replace(scenario.end, migration=scenario.also_ends)
    return scenario.end


def surprises(scenario: Scenario, result: Mapping[str, Any]) -> list[str]:
    """Return in what ``result`` is not as the scenario must end, a sentence each.

    A driver that recovers where upstream's must be reset, or that switches tracking off where
    upstream's does not, is better, not wrong.
    """
    must, did = must_end(scenario, result), ended(result)
    found = []
    for what, wanted, was in (
        ("the migration", must.migration, did.migration),
        ("the source's VF", must.source_vf, did.source_vf),
        ("the target's VF", must.target_vf, did.target_vf),
    ):
        if was != wanted and (wanted, was) != (RESET, RUNNING):
            found.append(f"{what} should be {wanted}: it is {was}")
    if did.tracked and not must.tracked:
        found.append("the firmware still tracks the source's VF")
    for side in ("source", "target"):
        for line in result[side]["faults"]:
            if line.endswith("hit 0"):
                found.append(f"the fault did not strike: {line}")
    return found
