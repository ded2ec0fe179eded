# SPDX-License-Identifier: GPL-2.0-or-later
"""Gate ``checkpatch``: the kernel's own checks, with a list of what is allowed and why.

A line of ``checkpatch.allow`` in the series' folder: a patch's name, or a pattern for several,
the type of finding, and the reason. A line that no finding needs any more is an error.
"""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxpatch.gates.core import Result

if TYPE_CHECKING:
    from pathlib import Path

    from mlxpatch.gates.core import Context

ALLOW = "checkpatch.allow"


@dataclass
class Allowed:
    """A line of the list."""

    line: int
    patch: str
    kind: str
    reason: str
    used: bool = False


@dataclass(frozen=True)
class Finding:
    """One thing that checkpatch said."""

    patch: str
    level: str
    kind: str
    text: str
    where: str


def read_allowed(file: Path) -> list[Allowed]:
    """Return the entries of the list ``file``; none if it does not exist.

    Raises:
        Error: an entry has no reason.
    """
    if not file.is_file():
        return []
    entries = []
    for number, line in enumerate(file.read_text(errors="replace").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.split(maxsplit=2)
        if len(words) < 3 or not re.fullmatch(r"[A-Z][A-Z0-9_]+", words[1]):
            raise Error(f"{file}, line {number}: not 'PATCH TYPE REASON'", "give each its reason")
        entries.append(Allowed(number, words[0], words[1], words[2]))
    return entries


def check(context: Context) -> Result:
    """Run checkpatch --strict of the base on every patch.

    Raises:
        Error: it cannot be run.
    """
    script = context.base.tree / "scripts/checkpatch.pl"
    if not script.is_file():
        raise Error(f"{context.base.name} has no scripts/checkpatch.pl", "give a whole kernel tree")
    if shutil.which("perl") is None:
        raise Error("perl is missing", "run: apt-get install perl (as root)")
    allowed = read_allowed(context.folder / ALLOW) if context.folder else []
    folder = context.work / "checkpatch"
    folder.mkdir()
    problems = []
    count = 0
    for number, patch in enumerate(context.series.patches, start=1):
        file = folder / f"{number:04d}.patch"
        file.write_bytes(patch.data)
        for finding in _run(script, file, patch.name):
            entry = _match(finding, allowed)
            if entry is None:
                where = f", {finding.where}" if finding.where else ""
                text = f"{finding.level} {finding.kind}: {finding.text}"
                problems.append(f"{patch.name}{where}: {text}")
            else:
                entry.used = True
                count += 1
    stale = [entry for entry in allowed if not entry.used]
    problems += [
        f"{ALLOW}, line {entry.line}: nothing in {entry.patch} is a {entry.kind} any more"
        for entry in stale
    ]
    hint = ""
    if problems:
        hint = (
            "take the stale lines out"
            if len(stale) == len(problems)
            else (f"mend it, or allow it with a reason: PATCH TYPE REASON in {ALLOW}")
        )
    patches = len(context.series.patches)
    return Result(f"{patches} patches, {count} findings allowed", problems, hint=hint)


def _match(finding: Finding, allowed: list[Allowed]) -> Allowed | None:
    for entry in allowed:
        if entry.kind == finding.kind and fnmatch.fnmatchcase(finding.patch, entry.patch):
            return entry
    return None


def _run(script: Path, file: Path, name: str) -> list[Finding]:
    # It reads .checkpatch.conf of the current folder and of the user's.
    done = subprocess.run(
        [
            *("perl", str(script), "--no-tree", "--strict", "--show-types", "--no-summary"),
            *("--color=never", "--root=.", file.name),
        ],
        cwd=file.parent,
        env={"HOME": str(file.parent), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    findings = []
    lines = done.stdout.splitlines()
    for index, line in enumerate(lines):
        match = re.match(r"(ERROR|WARNING|CHECK):([A-Z0-9_]+): (.*)", line)
        if match:
            where = (
                re.match(r"#\d+: FILE: (.+?):?$", lines[index + 1]) if lines[index + 1 :] else None
            )
            findings.append(Finding(name, match[1], match[2], match[3], where[1] if where else ""))
    if done.returncode != 0 and not findings:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Error(f"checkpatch fails on {name}: {said[-1] if said else 'no message'}")
    return findings
