# SPDX-License-Identifier: GPL-2.0-or-later
"""A migration without trouble, as QEMU, the tracer and the firmware would tell it."""

from __future__ import annotations

from typing import Any

from mlxlab.vmm import scenarios
from mlxlab.vmm.compare import Firmware, Side
from mlxlab.vmm.qemulog import Asked, Told
from mlxlab.vmm.traced import Seen

VF0, VF1 = "0000:01:00.1", "0000:01:00.2"
COUNTERS = [
    "query",
    "suspend",
    "resume",
    "save",
    "save_initial",
    "save_middle",
    "save_chunk",
    "save_final",
    "save_cleanup",
    "save_failed",
    "save_bytes",
    "load",
    "load_failed",
    "load_bytes",
    "reset",
]
SENT = ("PRE_COPY", "PRE_COPY_P2P", "STOP_COPY", "STOP")
RECEIVED = ("RESUMING", "RUNNING_P2P", "RUNNING")
IMAGES = [8405056, 1050672, 849672]
STREAM = sum(IMAGES) + 3 * 16 + 24
BLOCKS = [1048576] * 8 + [16488, 1048576, 2112, 849688]


def asked(*states: str) -> list[Asked]:
    return [Asked(state, False) for state in states]


def counters(**grown: int) -> dict[str, int]:
    return {**dict.fromkeys(COUNTERS, 0), **grown}


def witnesses() -> dict[str, Any]:
    """Return all that is known of a pre-copy migration without trouble."""
    answers = [(8405096, 0), (16488, 0), (0, 1050688)]
    return {
        "scenario": scenarios.by_name()["precopy"],
        "source": Side(
            Told(asked(*SENT), 0, list(answers), list(BLOCKS), 2, migration=["completed"]),
            Seen(
                asked(*SENT),
                list(answers),
                reads=len(BLOCKS),
                read_bytes=STREAM,
                final_reads=1,
                final_read_bytes=849688,
                empty=2,
                kinds={"initial": 1, "middle": 1, "final": 1},
                save_bytes=list(IMAGES),
                commands={"QUERY": 8, "SUSPEND": 2, "RESUME": 0},
            ),
            Firmware(
                counters(
                    query=8,
                    suspend=2,
                    save=3,
                    save_initial=1,
                    save_middle=1,
                    save_final=1,
                    save_bytes=sum(IMAGES),
                ),
                {},
            ),
        ),
        "target": Side(
            Told(asked(*RECEIVED), loaded=list(BLOCKS)),
            Seen(
                asked(*RECEIVED),
                written_bytes=STREAM,
                loads=3,
                load_bytes=sum(IMAGES),
                commands={"QUERY": 0, "SUSPEND": 2, "RESUME": 2},
            ),
            Firmware(counters(suspend=2, resume=2, load=3, load_bytes=sum(IMAGES)), {}),
        ),
        "result": {
            "migration": "completed",
            "precopy": True,
            "transferred_bytes": STREAM,
            "objects": ["pds 0", "mkeys 0", "async 0"],
            "source": {
                "vf": VF0,
                "vm": "postmigrate",
                "exit_status": 0,
                "state_hash": "c10f26fa03de6283",
                "status": {"initiator_suspended": 1, "responder_suspended": 1, "tracked": 0},
                "counters": counters(),
                "faults": [],
            },
            "target": {
                "vf": VF1,
                "vm": "running",
                "exit_status": 0,
                "state_hash": "00ace95cdfe8f7a6",
                "state_hash_at_end": "c10f26fa03de6283",
                "status": {"initiator_suspended": 0, "responder_suspended": 0, "tracked": 0},
                "counters": counters(),
                "faults": [],
            },
        },
    }
