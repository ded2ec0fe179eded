# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON lines of ``mlxtrace validate --json``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

PASSED = "passed"
FAILED = "failed"
NOT_OFFERED = "not offered"
KNOWN = "known deviation"
NOT_RUN = "not run"
STATUSES = (PASSED, FAILED, KNOWN, NOT_OFFERED, NOT_RUN)


@dataclass(frozen=True)
class Check:
    """What came of one check.

    Attributes:
        id: the rule's identifier.
        level: ``must``, ``should`` or ``driver``.
        rule: its text.
        status: one of :data:`STATUSES`.
        known: the profile's reason, where it is a known deviation.
        reason: what was observed.
        steps: what was done, as validate tells it.
        duration_ms: how long that took.
        repeat: which of several times this was.
    """

    id: str
    level: str
    rule: str
    status: str
    known: str = ""
    reason: str = ""
    steps: tuple[Any, ...] = ()
    duration_ms: float | None = None
    repeat: int | None = None


@dataclass
class Records:
    """What validate said.

    Attributes:
        meta: its first line.
        checks: in the order in which they ended.
        summary: its last line, None while it has not ended.
        damage: the first line that is none of validate's, where there is one, or that begins a
            second run.
    """

    meta: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    summary: dict[str, Any] | None = None
    damage: str = ""


def parse(text: str) -> Records:
    """Return what is in ``text``; a last line that is cut off is left out.

    Two runs in one file are no one's: what is in the first one is returned, with the damage.
    """
    records = Records()
    *lines, _cut = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if records.meta and _event(line) == "meta":
            second = (
                f"a second run of validate begins in line {number}: give each a file of its own"
            )
            records.damage = records.damage or second
            break
        if line.strip() and not _take(line, records) and not records.damage:
            records.damage = f"line {number} of its output is not one of validate's: {line[:60]}"
    return records


def _event(line: str) -> object:
    """Return which of validate's lines it is, None if it is none of them."""
    try:
        return json.loads(line)["event"]
    except (ValueError, KeyError, TypeError):
        return None


def _take(line: str, records: Records) -> bool:
    if (event := _event(line)) is None:
        return False
    values = json.loads(line)
    if event == "meta":
        records.meta = values
    elif event == "summary":
        records.summary = values
    elif event == "check":
        check = _check(values)
        if check is None:
            return False
        records.checks.append(check)
    # An event that this version does not know takes nothing away from the others.
    return True


def _check(values: dict[str, Any]) -> Check | None:
    texts = [values.get(name) for name in ("id", "level", "rule", "status")]
    if not all(isinstance(text, str) for text in texts) or texts[3] not in STATUSES:
        return None
    name, level, rule, status = map(str, texts)
    steps = values.get("steps")
    duration, repeat = values.get("duration_ms"), values.get("repeat")
    return Check(
        name,
        level,
        rule,
        status,
        str(values.get("known") or ""),
        str(values.get("reason") or ""),
        tuple(steps) if isinstance(steps, list) else (),
        duration if isinstance(duration, int | float) else None,
        repeat if isinstance(repeat, int) else None,
    )
