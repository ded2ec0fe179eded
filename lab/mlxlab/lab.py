# SPDX-License-Identifier: GPL-2.0-or-later
"""One run of the lab, from nothing to its verdict."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import termios
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.errors import Error, UsageError
from mlxlab import lock, monitor, runs, splats, tree, vm
from mlxlab.errors import NotStartedError
from mlxlab.report import exit_status, taint_names
from mlxpatch import cache

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from mlxlab.runs import Run
    from mlxlab.splats import Splat
    from mlxlab.table import Entry
    from mlxpatch.progress import Progress

# vfio_iommu_type1 is what group users need; the stand-in comes before what links against it.
MODULES = ("vfio_pci_core", "vfio_iommu_type1", "mlx5_lab", "mlx5_vfio_pci")
_STAGES = {
    "boot": "preparing the VFs",
    "modules": "preparing the VFs",
    "vfs": "starting the command",
}
_SPLAT_LINES = 40
_TAIL_LINES = 15
# A boot on the machine where the watchdogs were chosen, in seconds of uptime.
_USUAL_BOOT_S = 4.0


@dataclass(frozen=True)
class Job:
    """What to do in the guest, and on which machine.

    Attributes:
        command: the words of the command.
        machine: the VM's size.
        out: the folder that the guest may write to, if not one of the run's own.
        timeout_s: how long the VM may take in all.
        environment: NAME=VALUE words for the command.
    """

    command: Sequence[str]
    machine: vm.Machine
    out: Path | None = None
    timeout_s: float | None = None
    environment: Sequence[str] = ()


@dataclass(frozen=True)
class Result:
    """How a run ended: mlxlab's exit status, and where things are."""

    status: int
    run: Run


def run(entry: Entry, job: Job, progress: Progress) -> Result:
    """Run ``job`` on the kernel ``entry``; the command's output streams to stdout and stderr.

    Raises:
        NotStartedError: something that the lab needs is missing or does not build.
    """
    boot = _prepare(entry, progress)
    with lock.one_vm(lambda who: progress.note(f"waiting for the VM of {who}")):
        place = runs.create(job.out)
        try:
            _settle(place, job, "run")
            outcome = _boot(boot, job, place, progress)
        finally:
            place.close()
    return Result(_verdict(outcome, place, progress), place)


def shell(entry: Entry, job: Job, progress: Progress) -> Result:
    """Boot ``entry`` and give its console to the terminal; the shell's exit ends the VM.

    Raises:
        NotStartedError: see :func:`run`.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise NotStartedError("a shell needs a terminal", "use: mlxlab run -- COMMAND")
    boot = _prepare(entry, progress)
    with lock.one_vm(lambda who: progress.note(f"waiting for the VM of {who}")):
        place = runs.create(job.out)
        try:
            _settle(place, job, "shell")
            outcome = _interact(boot, job, place)
        finally:
            place.close()
    return Result(_verdict(outcome, place, progress), place)


def _prepare(entry: Entry, progress: Progress) -> tree.Boot:
    vm.check_tools()
    try:
        return tree.prepare(entry, progress)
    except UsageError:
        raise
    except Error as error:
        raise NotStartedError(str(error), error.hint) from None


def _settle(place: Run, job: Job, mode: str) -> None:
    runs.write_settings(
        place,
        job.machine,
        modules=MODULES,
        pf_driver="mlx5_lab",
        vf_driver="mlx5_vfio_pci",
        mode=mode,
        command=job.command,
        environment=job.environment,
    )


def _boot(boot: tree.Boot, job: Job, place: Run, progress: Progress) -> monitor.Outcome:
    sockets = monitor.Sockets()
    stages = _stages(boot, progress)
    try:
        with _terminated_cleanly():
            next(stages)
            command = vm.qemu_command(
                boot,
                job.machine,
                place.path,
                place.out,
                sockets.descriptors,
                console=f"file,path={str(place.console).replace(',', ',,')}",
                cache="loose",
            )
            limits = monitor.Limits(job.timeout_s, _scale())

            def reached(name: str, uptime: float) -> None:
                if name == "command":
                    _remember_boot(uptime)
                stages.send(name)

            return monitor.Monitor(place, limits, reached).see_through(command, sockets)
    finally:
        stages.close()
        sockets.close()


def _stages(boot: tree.Boot, progress: Progress) -> Generator[None, str, None]:
    """Show the boot's progress; sent the name of each stage that the guest has reached."""
    with progress.stage(f"booting {boot.release}") as stage:
        name = yield
        while name != "command":
            stage.update(_STAGES.get(name, name))
            name = yield
    while True:
        yield


def _interact(boot: tree.Boot, job: Job, place: Run) -> monitor.Outcome:
    outcome = monitor.Outcome()
    with contextlib.closing(monitor.Sockets()) as sockets, _keys_for_the_guest():
        command = vm.qemu_command(
            boot,
            job.machine,
            place.path,
            place.out,
            sockets.descriptors,
            console=f"stdio,signal=off,mux=off,logfile={str(place.console).replace(',', ',,')}",
            # Files edited on the host while the shell is open are seen in it.
            cache="readahead",
            # The terminal is for the shell; the whole log is in dmesg.
            extra=("quiet",),
        )
        with _terminated_cleanly(), place.qemu_log.open("wb") as log:
            qemu = subprocess.Popen(
                command, pass_fds=tuple(sockets.descriptors.values()), stderr=log
            )
            try:
                sockets.release()
                with sockets.ours["control"].makefile("r", errors="replace") as said:
                    for line in said:
                        outcome.report.feed(line)
                        if outcome.report.ended:
                            break
            finally:
                monitor.stop(qemu)
    if not outcome.report.ended:
        outcome.lost = "it ended before it had reported"
    return outcome


@contextlib.contextmanager
def _keys_for_the_guest() -> Iterator[None]:
    """Let Ctrl-C through to the guest; put the terminal back however QEMU leaves it."""
    before = termios.tcgetattr(sys.stdin)
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        signal.signal(signal.SIGINT, interrupt)


class _TerminatedError(SystemExit):
    """SIGTERM or SIGHUP arrived: unwinds the stack, so that the VM is killed on the way."""


@contextlib.contextmanager
def _terminated_cleanly() -> Iterator[None]:
    def leave(number: int, _frame: object) -> None:
        raise _TerminatedError(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _boot_file() -> Path:
    return cache.root() / "boot.json"


def _remember_boot(uptime_s: float) -> None:
    with contextlib.suppress(OSError):
        _boot_file().write_text(json.dumps({"uptime_s": uptime_s}) + "\n")


def _scale() -> float:
    """Return how much slower than usual the last boot here was, at least 1."""
    try:
        uptime = float(json.loads(_boot_file().read_text())["uptime_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return 1.0
    return min(max(uptime / _USUAL_BOOT_S, 1.0), 10.0)


def _verdict(outcome: monitor.Outcome, place: Run, progress: Progress) -> int:
    """Say what went wrong, in order of weight; return mlxlab's exit status."""
    report = outcome.report
    console = _read(place.console)
    found = splats.merge(_read(place.dmesg), console)
    status = exit_status(
        report,
        splats=len(found),
        lost=bool(outcome.lost),
        timed_out=outcome.timed_out,
        interrupted=outcome.interrupted,
    )
    _tell_splats(found, report.taint, progress)
    for name, count in report.assertions.items():
        progress.note(f"firmware assertion {name} fired {count} times")
    if outcome.timed_out:
        progress.note("the time limit is over; the VM was ended")
    elif report.failure is not None:
        progress.note(f"the lab could not start: {report.failure}")
    elif outcome.lost:
        progress.note(f"the VM was lost: {outcome.lost}")
    if outcome.lost or report.failure is not None:
        _tell_tail(console, progress)
    if outcome.lost or found or report.assertions or report.failure is not None:
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


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
