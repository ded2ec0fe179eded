# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run comes to: the splats, assertions and losses are told, and an exit status is chosen."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mlxlab import splats
from mlxlab.report import Expected, exit_status, taint_names
from mlxpatch import cache

if TYPE_CHECKING:
    from pathlib import Path

    from mlxlab.monitor import Outcome
    from mlxlab.runs import Run
    from mlxlab.splats import Splat
    from mlxpatch.progress import Progress

_SPLAT_LINES = 40
_TAIL_LINES = 15


def tell(outcome: Outcome, place: Run, progress: Progress, expected: Expected | None = None) -> int:
    """Say what went wrong, in order of weight; return mlxlab's exit status."""
    report = outcome.report
    surprises = (expected or Expected()).surprises(report)
    console = _read(place.console, place.console_from)
    found = splats.merge(_read(place.dmesg, place.dmesg_from), console)
    status = exit_status(
        report,
        splats=len(found),
        lost=bool(outcome.lost),
        timed_out=outcome.timed_out,
        interrupted=outcome.interrupted,
        expected=expected,
    )
    _tell_splats(found, report.taint, progress)
    for surprise in surprises:
        progress.note(surprise)
    if outcome.timed_out:
        progress.note("the time limit is over; what ran was ended")
    elif report.failure is not None:
        progress.note(f"the lab could not start: {report.failure}")
    elif outcome.lost:
        progress.note(f"the VM was lost: {outcome.lost}")
    if outcome.lost or report.failure is not None:
        _tell_tail(console, progress)
    if outcome.lost or found or surprises or report.failure is not None:
        progress.note(f"logs of this run: {place.path}")
    if _has_files(place.out):
        progress.say(f"output of this run: {place.out}")
    summary = {
        "status": status,
        "command_status": report.status,
        "stages_uptime_s": report.stages,
        "wall_s": round(outcome.wall_s, 2),
        "splats": [splat.headline for splat in found],
        "assertions": report.assertions,
        "taint": report.taint,
        "timed_out": outcome.timed_out,
        "lost": outcome.lost,
    }
    with cache.writing(place.path):
        (place.path / "result.json").write_text(json.dumps(summary, indent=1) + "\n")
    return status


def _tell_splats(found: list[Splat], taint: int, progress: Progress) -> None:
    for splat in found:
        progress.note(f"kernel {splat.kind} in the guest:")
        for line in splat.lines[:_SPLAT_LINES]:
            progress.note(f"  {line}")
        if len(splat.lines) > _SPLAT_LINES:
            progress.note(f"  ... {len(splat.lines) - _SPLAT_LINES} more lines")
    if not found:
        for name in taint_names(taint):
            progress.note(f"the guest's kernel is tainted by {name}, though its log shows no splat")


def _tell_tail(console: str, progress: Progress) -> None:
    tail = console.replace("\r", "").splitlines()[-_TAIL_LINES:]
    if tail:
        progress.note("the end of its console:")
    for line in tail:
        progress.note(f"  {line}")


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _read(path: Path, start: int) -> str:
    try:
        return path.read_bytes()[start:].decode(errors="replace")
    except OSError:
        return ""
