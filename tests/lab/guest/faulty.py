# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks that must hold under a fault of the firmware as well, and the faults."""

from __future__ import annotations

from dataclasses import dataclass

_BROKEN_OFF = "reading migration data: ENODEV"


@dataclass(frozen=True)
class Faulty:
    """A check under a fault.

    Attributes:
        check: its id.
        rule: the fault, as `mlxlab fw fault=RULE` takes it.
        seen: a regular expression for what the check's steps say, so that the fault was met.
        on_pf: the fault is the PF's.
    """

    check: str
    rule: str
    seen: str = ""
    on_pf: bool = False


FAULTS = {
    "final-save-state-grew": Faulty("C26", "save_final status=9", _BROKEN_OFF),
    "final-save-fails": Faulty("C26", "save_final status=5", _BROKEN_OFF),
    "final-query-fails": Faulty("C26", "query nth=2 status=3", "failed: "),
    "save-slow-poll": Faulty("C27.poll", "save delay_us=100000", "waited [1-9]"),
    "save-slow-kill": Faulty("C39.kill", "save delay_us=20000"),
    "save-slow": Faulty("C37", "save delay_us=1500000", "seen to sleep: 6 of"),
    "final-save-slow": Faulty("C38", "save_final delay_us=40000"),
    "initial-save-slow": Faulty("C34", "save_initial delay_us=100000"),
    "save-slow-close": Faulty("C35", "save delay_us=100000"),
    "suspend-initiator-fails": Faulty("C9", "suspend_initiator status=4", "EIO"),
    "suspend-responder-fails": Faulty("C9", "suspend_responder status=4", "then RUNNING_P2P"),
    "resume-responder-fails": Faulty("C9", "resume_responder status=4", "EIO"),
    "suspend-slow-reset": Faulty("C42.reset", "suspend_responder delay_us=30000"),
    "query-fails": Faulty("C9", "query status=3", "STOP_COPY: EINVAL"),
    "save-refused": Faulty("C9", "save submit_errno=11", "EAGAIN"),
    "no-pd": Faulty("C9", "alloc_pd errno=12", "ENOMEM", on_pf=True),
    "no-mkey": Faulty("C9", "create_mkey errno=12", "ENOMEM", on_pf=True),
}
