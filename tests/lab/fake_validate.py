# SPDX-License-Identifier: GPL-2.0-or-later
"""A lab without a VM, for the tests of ``mlxlab matrix``: its mlxtrace says what a test wrote.

The command that a column runs is run here for real, with an ``mlxtrace`` in PATH that prints the
lines of the column's script.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genbindings.errors import Error, UsageError
from mlxlab.boot import Boot
from mlxlab.lab import Result
from mlxlab.matrix.runner import Host
from mlxlab.runs import Run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlxlab.lab import Job
    from mlxlab.table import Entry
    from mlxpatch.progress import Progress

_MLXTRACE = r"""#!/bin/sh
printf '%s\n' "$@" >"$SCRIPT/arguments"
cat "$SCRIPT/lines"
cat "$SCRIPT/said" >&2
exit "$(cat "$SCRIPT/status")"
"""


def check(
    name: str, status: str = "passed", *, level: str = "must", known: str = "", reason: str = ""
) -> dict[str, Any]:
    """Return a line of validate's about one rule."""
    return {
        "event": "check",
        "id": name,
        "level": level,
        "rule": f"the text of rule {name}",
        "status": status,
        "known": known,
        "reason": reason,
        "steps": ["open the VF", "ask it"],
        "duration_ms": 1.5,
        "repeat": 1,
    }


META = {
    "event": "meta",
    "source": "0000:01:00.1",
    "target": "0000:01:00.2",
    "driver": "mlx5_vfio_pci",
    "kernel": "6.1.0-41-amd64",
    "profile": "carried",
    "profile_reason": "the driver offers PRE_COPY on 6.1",
}


@dataclass
class Script:
    """How a column's run goes.

    Attributes:
        checks: lines in the middle.
        status: validate's exit status; found from the checks if None.
        ends: its last line is printed.
        said: its stderr.
        lab_status: what the lab makes of it; the same if None.
        result: more for the lab's result.json.
        tail: what follows the last line.
    """

    checks: Sequence[dict[str, Any]] = ()
    status: int | None = None
    ends: bool = True
    said: str = ""
    lab_status: int | None = None
    result: dict[str, Any] = field(default_factory=dict)
    tail: str = ""

    @property
    def exit_status(self) -> int:
        """Validate's."""
        if self.status is not None:
            return self.status
        return int(any(c["status"] == "failed" and c["level"] == "must" for c in self.checks))

    @property
    def lines(self) -> str:
        """Validate's stdout."""
        last = {"event": "summary", "exit_status": self.exit_status}
        events = [META, *self.checks, *([last] if self.ends else [])]
        return "".join(json.dumps(event) + "\n" for event in events) + self.tail


class FakeLab:
    """Boots nothing: runs each column's command here, by its script."""

    def __init__(self, folder: Path, scripts: dict[str, Script]) -> None:
        self.scripts = scripts
        self.booted: list[str] = []
        self.jobs: dict[str, Job] = {}
        self.unbuildable: set[str] = set()
        self.build = 1
        self._folder = folder
        programs = folder / "bin"
        programs.mkdir(parents=True)
        (programs / "mlxtrace").write_text(_MLXTRACE)
        (programs / "mlxtrace").chmod(0o755)

    @property
    def host(self) -> Host:
        """What the matrix uses in the place of the lab."""
        return Host(self.look_at, self.prepare, self.run)

    def look_at(self, options: Sequence[str]) -> None:
        if "C99" in options:
            raise UsageError("there is no rule C99")

    def prepare(self, entry: Entry, _progress: Progress, *, offline: bool = False) -> Boot:
        if entry.name in self.unbuildable:
            raise Error("cmd.c:1: error: it does not build", "mend it")
        tree = self._folder / "trees" / f"{entry.name}-{self.build}-{offline}"
        return Boot("6.1", tree / "boot/vmlinuz", tree / "lib/modules/6.1")

    def run(self, entry: Entry, job: Job, _progress: Progress) -> Result:
        self.booted.append(entry.name)
        self.jobs[entry.name] = job
        script = self.scripts[entry.name]
        place = self._folder / "scripts" / entry.name
        place.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("lines", script.lines),
            ("said", script.said),
            ("status", str(script.exit_status)),
        ):
            (place / name).write_text(text)
        assert job.out is not None
        variables = {
            "PATH": f"{self._folder / 'bin'}:{os.environ['PATH']}",
            "MLXLAB_OUT": str(job.out),
            "MLXLAB_VF0": "0000:01:00.1",
            "MLXLAB_VF1": "0000:01:00.2",
            "SCRIPT": str(place),
        }
        done = subprocess.run(job.command, env=variables)
        run = Run(self._folder / "runs" / f"{len(self.booted)}", job.out)
        run.path.mkdir(parents=True)
        run.console.write_text("booted\n")
        result = {"command_status": done.returncode, "wall_s": 1.0, **script.result}
        (run.path / "result.json").write_text(json.dumps(result))
        return Result(done.returncode if script.lab_status is None else script.lab_status, run)

    def arguments(self, name: str) -> list[str]:
        """Return what mlxtrace was called with in the column ``name``."""
        return (self._folder / "scripts" / name / "arguments").read_text().splitlines()
