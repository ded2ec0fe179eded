# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of a column: validate's lines, the logs of its boot, and how it ended.

A later matrix can take it over from there, if what it would run is the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlxtrace
from genbindings import resources
from mlxlab import errors
from mlxlab.matrix import records
from mlxlab.matrix.records import Records
from mlxpatch import cache

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mlxlab.boot import Boot
    from mlxlab.lab import Result
    from mlxlab.matrix.columns import Column
    from mlxlab.matrix.wanted import Wanted

LINES = "validate.jsonl"
SAID = "validate.err"
PATCHES = "patches"
_HOW = "column.json"
_RESULT = "result.json"
_LOGS = ("console.log", "dmesg.txt", "qemu.log", _RESULT)


@dataclass(frozen=True)
class Ran:
    """A column after its run, or without one.

    Attributes:
        column: what it is.
        folder: what is kept of it.
        records: validate's lines, as far as they go.
        status: that of ``mlxlab run``, None if it was not run.
        reason: why it did not run to its end; empty if it did.
        troubles: what the kernel's log and the firmware had to complain of.
        reused: it was run by an earlier matrix.
        wall_s: how long the VM was there, in seconds.
    """

    column: Column
    folder: Path
    records: Records = field(default_factory=Records)
    status: int | None = None
    reason: str = ""
    troubles: tuple[str, ...] = ()
    reused: bool = False
    wall_s: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether it ran to its end."""
        return not self.reason

    @property
    def failed(self) -> bool:
        """Whether a must failed that is no known deviation, or the kernel complained."""
        return bool(self.troubles) or self.status == 1 or self._failed_must

    @property
    def _failed_must(self) -> bool:
        return any(
            check.status == records.FAILED and check.level == "must"
            for check in self.records.checks
        )

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "name": self.column.name,
            "options": list(self.column.words),
            "complete": self.complete,
            "reason": self.reason,
            "failed": self.failed,
            "kernel_log": list(self.troubles),
            "meta": self.records.meta,
            "summary": self.records.summary,
            "reused": self.reused,
            "wall_s": self.wall_s,
            "folder": str(self.folder),
        }


def identity(boot: Boot, words: Sequence[str]) -> str:
    """Return a hash of all that a column's result depends on: profiles make verdicts, too.

    ``boot`` has the drivers, patched or not, and the stand-in; ``words`` are what else was asked
    for.
    """
    # The name of the tree is made of what is in it.
    key = hashlib.sha256(json.dumps([boot.release, boot.modules.parts[-4], *words]).encode())
    package, profiles = Path(mlxtrace.__file__).parent, resources.find("tracer/profiles")
    for folder, pattern in ((package, "*.py"), (profiles, "*.toml")):
        for file in sorted(folder.rglob(pattern)):
            key.update(f"{file.relative_to(folder)}\0".encode())
            key.update(hashlib.sha256(file.read_bytes()).digest())
    for option, value in pairwise(words):
        if option == "--profile" and value.endswith(".toml"):
            # What it says makes known deviations of failures; its name says nothing of that.
            key.update(hashlib.sha256(text(Path(value)).encode()).digest())
    return key.hexdigest()


def clear(folder: Path) -> None:
    """Make ``folder`` ready for a run: nothing of an earlier one is mistaken for this one's."""
    with cache.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (LINES, SAID, _HOW, *_LOGS):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / PATCHES, ignore_errors=True)


def judge(column: Column, folder: Path, result: Result, allowed: Collection[str]) -> Ran:
    """Say how the run of ``column`` ended, and keep its logs in ``folder``."""
    for name in _LOGS:
        with contextlib.suppress(OSError), cache.writing(folder):
            shutil.copy2(result.run.path / name, folder / name)
    found = records.parse(text(folder / LINES))
    how = _json(folder / _RESULT)
    troubles = _troubles(how, allowed) if result.status == errors.SPLAT else ()
    wall_s = how.get("wall_s", 0.0)
    reason = _reason(result.status, found, how, folder)
    return Ran(column, folder, found, result.status, reason, troubles, wall_s=wall_s)


def given(column: Column, folder: Path, wanted: Wanted) -> Ran:
    """Return the result that ``column`` names as if it had been run; a copy is kept in ``folder``.

    Only rules that are ``wanted`` are in it, as in the columns that are run for them.
    Nothing is known of that host's kernel log but what validate saw of it.
    """
    assert column.result is not None
    lines = text(column.result)
    with cache.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LINES).write_text(lines)
    found = records.parse(lines)
    status = (found.summary or {}).get("exit_status")
    reason = found.damage
    if not reason and found.summary is None:
        reason = f"{column.result} has no summary: validate did not come to its end, or another "
        reason += "program wrote it"
    elif not reason and status not in (0, 1):
        stopped = found.summary.get("stopped") if found.summary else ""
        reason = f"mlxtrace validate ended with status {status}: {stopped or 'it does not say why'}"
    return Ran(column, folder, wanted.of_records(found), reason=reason)


def put(ran: Ran, identified: str) -> None:
    """Write how ``ran`` ended into its folder, for :func:`take`."""
    how = {
        "identity": identified,
        "status": ran.status,
        "reason": ran.reason,
        "troubles": ran.troubles,
        "wall_s": ran.wall_s,
    }
    with cache.writing(ran.folder):
        (ran.folder / _HOW).write_text(json.dumps(how, indent=1) + "\n")


def take(column: Column, folder: Path, identified: str) -> Ran | None:
    """Return the run of ``column`` in ``folder`` if it is as good as a new one and had no failure.

    A failure is run again: it may be one that comes and goes.
    """
    how = _json(folder / _HOW)
    if how.get("identity") != identified or how.get("reason") or how.get("troubles"):
        return None
    found = records.parse(text(folder / LINES))
    bad = found.damage or any(check.status == records.FAILED for check in found.checks)
    if bad or found.summary is None or how.get("status") != 0:
        return None
    return Ran(column, folder, found, 0, reused=True, wall_s=how.get("wall_s", 0.0))


def complaint(said: str) -> str:
    """Return what validate, which wrote ``said`` to stderr, gave as its reason."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    marked = [line for line in lines if "rror: " in line]
    last = (marked or lines or ["it said nothing"])[-1]
    return last.partition("rror: ")[2] or last


def _reason(status: int, found: Records, how: dict[str, Any], folder: Path) -> str:
    """Return why the run did not come to its end, or nothing."""
    if status == errors.SPLAT:
        # What else there is to say is hidden behind it.
        own = how.get("command_status")
        status = errors.LOST if own is None else int(own)
    ends = {
        errors.TIMEOUT: "the time limit was over",
        errors.NOT_STARTED: f"the lab could not start; see {folder / 'console.log'}",
        errors.LOST: f"the VM was lost: {how.get('lost') or 'validate did not end'}",
        errors.INTERRUPTED: "it was interrupted",
    }
    if status in ends:
        return ends[status]
    if status not in (0, 1):
        why = (found.summary or {}).get("stopped") or complaint(text(folder / SAID))
        return f"mlxtrace validate ended with status {status}: {why}"
    if found.damage:
        return found.damage
    return "" if found.summary is not None else "mlxtrace validate printed no summary"


def _troubles(how: dict[str, Any], allowed: Collection[str]) -> tuple[str, ...]:
    fired = how.get("assertions") or {}
    told = [
        *(how.get("splats") or []),
        *(
            f"firmware assertion {name} fired {count} times"
            for name, count in fired.items()
            if name not in allowed
        ),
    ]
    return tuple(told) or ("the kernel is tainted, though its log shows no splat",)


def text(file: Path) -> str:
    """Return what is in ``file``, nothing if it is not there."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(text(file))
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
