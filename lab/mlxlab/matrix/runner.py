# SPDX-License-Identifier: GPL-2.0-or-later
"""Run validate on each column, one boot after the other."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error, UsageError
from mlxlab import errors, lab, tree
from mlxlab.matrix import columns, keep, records
from mlxlab.matrix.wanted import Wanted
from mlxlab.report import Expected
from mlxlab.vm import Machine
from mlxpatch import cache
from mlxpatch import series as patches
from mlxpatch.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mlxlab.boot import Boot
    from mlxlab.firmware import Setting
    from mlxlab.lab import Job, Result
    from mlxlab.matrix.columns import Column
    from mlxlab.matrix.keep import Ran
    from mlxlab.table import Entry

# Lines go to the shared folder as they come, so that a guest that dies takes none along.
_SCRIPT = (
    'exec mlxtrace validate --source "$MLXLAB_VF0" --target "$MLXLAB_VF1" --json "$@" '
    f'>"$MLXLAB_OUT/{keep.LINES}" 2>"$MLXLAB_OUT/{keep.SAID}"'
)
_KEEP_MATRICES = 10
_TICK_S = 0.5


@dataclass(frozen=True)
class Plan:
    """What is to be run on every column.

    Attributes:
        options: for validate.
        folder: where everything is kept, a folder for each column.
        again: take over from there what is complete and has no failure.
        timeout_s: how long one VM may take.
        firmware: settings of the simulated firmware.
        allowed: firmware assertions that may fire.
        accelerator: see :class:`mlxlab.lab.Job`.
        offline: use only what is cached.
        quiet: print no progress.
    """

    options: Sequence[str]
    folder: Path
    again: bool = False
    timeout_s: float | None = None
    firmware: Sequence[Setting] = ()
    allowed: Sequence[str] = ()
    accelerator: str = "auto"
    offline: bool = False
    quiet: bool = False

    def words(self) -> list[str]:
        """Return what decides on a result besides the column."""
        return [*self.options, *[setting.line for setting in self.firmware], *sorted(self.allowed)]

    def job(self, out: Path) -> Job:
        """Return the job of a column whose folder is ``out``."""
        return lab.Job(
            ["sh", "-c", _SCRIPT, "validate", *self.options],
            Machine(),
            out,
            self.timeout_s,
            ["PYTHONUNBUFFERED=1"],
            self.firmware,
            Expected(may=frozenset(self.allowed)),
            self.accelerator,
            self.offline,
        )


def check_options(options: Sequence[str]) -> None:
    """Have validate look at ``options``, before anything is built or booted for them.

    Raises:
        UsageError: it does not take them.
    """
    program = Path(sys.executable).parent / "mlxtrace"
    done = subprocess.run(
        [program, "validate", "--list", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = keep.complaint(done.stderr)
        raise UsageError(f"mlxtrace validate does not take its options: {said}")


@dataclass(frozen=True)
class Host:
    """What looks at the options, prepares a kernel, and boots it; tests have one without a VM."""

    check: Callable[[Sequence[str]], None] = check_options
    prepare: Callable[..., Boot] = tree.prepare
    run: Callable[[Entry, Job, Progress], Result] = lab.run


def new_folder() -> Path:
    """Return a folder in the cache for a matrix; older ones beyond the last few are removed."""
    parent = cache.root() / "matrix"
    cache.prune(parent, "[0-9]*", _KEEP_MATRICES)
    folder = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    with cache.writing(folder):
        folder.mkdir(parents=True)
    return folder


def run(chosen: Sequence[Column], plan: Plan, host: Host | None = None) -> list[Ran]:
    """Build all of the columns, then run validate on each; return how each ended, in order.

    A column that cannot be built or run is one of them, with the reason. After Ctrl-C, which the
    status of one of them tells, no other is begun.

    Raises:
        UsageError: validate does not take its options.
    """
    host = host or Host()
    if plan.options or any(column.entry for column in chosen):
        host.check(plan.options)
    ready = [_prepared(column, plan, host) for column in chosen]
    ran: list[Ran] = []
    for column, boot in zip(chosen, ready, strict=True):
        ran.append(_run(column, boot, plan, host, stop=was_interrupted(ran)))
    return ran


def was_interrupted(ran: Sequence[Ran]) -> bool:
    """Return whether Ctrl-C ended one of the columns."""
    return any(each.status == errors.INTERRUPTED for each in ran)


def _prepared(column: Column, plan: Plan, host: Host) -> Boot | str:
    """Return what ``column`` boots, or why it cannot be booted."""
    if column.problem or column.entry is None:
        return column.problem
    try:
        return host.prepare(column.entry, _progress(column, plan), offline=plan.offline)
    except Error as error:
        return columns.told(error)


def _progress(column: Column, plan: Plan) -> Progress:
    return Progress(f"mlxlab: {column.name}", quiet=plan.quiet)


def _run(column: Column, boot: Boot | str, plan: Plan, host: Host, *, stop: bool) -> Ran:
    progress = _progress(column, plan)
    folder = plan.folder / column.name
    if column.result:
        return keep.given(column, folder, Wanted.of(plan.options))
    if isinstance(boot, str) or column.entry is None:
        boot = str(boot)
        progress.note(boot)
        keep.clear(folder)
        return keep.Ran(column, folder, reason=boot)
    identity = keep.identity(boot, plan.words())
    if plan.again:
        before = keep.take(column, folder, identity)
        if before:
            progress.say(f"taken over from {folder}")
            return before
    if stop:
        return keep.Ran(column, folder, reason="it was not begun: Ctrl-C")
    keep.clear(folder)
    if column.series:
        patches.write(column.series, folder / keep.PATCHES)
    try:
        with _followed(folder / keep.LINES, progress):
            result = host.run(column.entry, plan.job(folder), progress)
    except KeyboardInterrupt:
        # Before there was a VM: while another one's end was waited for.
        return keep.Ran(column, folder, status=errors.INTERRUPTED, reason="it was interrupted")
    except Error as error:
        progress.note(str(error))
        return keep.Ran(column, folder, reason=columns.told(error))
    ran = keep.judge(column, folder, result, plan.allowed)
    keep.put(ran, identity)
    return ran


@contextlib.contextmanager
def _followed(lines: Path, progress: Progress) -> Iterator[None]:
    """Show how far validate has come, while the block runs the VM."""
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=(lines, progress, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _follow(lines: Path, progress: Progress, over: threading.Event) -> None:
    while not keep.text(lines):
        if over.wait(_TICK_S):
            return
    # The boot's own stage has ended.
    with progress.stage("validating") as stage:
        found = records.parse(keep.text(lines))
        while found.summary is None:
            failed = sum(check.status == records.FAILED for check in found.checks)
            last = f", last {found.checks[-1].id}" if found.checks else ""
            stage.update(f"{len(found.checks)} checks, {failed} failed{last}")
            if over.wait(_TICK_S):
                return
            found = records.parse(keep.text(lines))
