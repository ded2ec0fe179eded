# SPDX-License-Identifier: GPL-2.0-or-later
"""One run of the lab, from nothing to its verdict."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxlab import interactive, lock, monitor, runs, tree, verdict, vm
from mlxlab.errors import NotStartedError
from mlxlab.report import Expected
from mlxpatch import cache

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from mlxlab.firmware import Setting
    from mlxlab.runs import Run
    from mlxlab.table import Entry
    from mlxpatch.progress import Progress

# vfio_iommu_type1 is what group users need; the stand-in comes before what links against it.
MODULES = ("vfio_pci_core", "vfio_iommu_type1", "mlx5_lab", "mlx5_vfio_pci")
_STAGES = {
    "boot": "preparing the VFs",
    "modules": "preparing the VFs",
    "vfs": "starting the command",
}
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
        expected: firmware assertions that must or may fire.
        firmware: settings of the simulated firmware, in force before the driver takes the VFs.
    """

    command: Sequence[str]
    machine: vm.Machine
    out: Path | None = None
    timeout_s: float | None = None
    environment: Sequence[str] = ()
    firmware: Sequence[Setting] = ()
    expected: Expected = field(default_factory=Expected)


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
    return _one(entry, job, progress, lambda boot, place: _boot(boot, job, place, progress), "run")


def shell(entry: Entry, job: Job, progress: Progress) -> Result:
    """Boot ``entry`` and give its console to the terminal; the shell's exit ends the VM.

    Raises:
        NotStartedError: see :func:`run`.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise NotStartedError("a shell needs a terminal", "use: mlxlab run -- COMMAND")
    return _one(
        entry,
        job,
        progress,
        lambda boot, place: interactive.attach(boot, job.machine, place),
        "shell",
    )


def _one(
    entry: Entry,
    job: Job,
    progress: Progress,
    see_through: Callable[[tree.Boot, Run], monitor.Outcome],
    mode: str,
) -> Result:
    with _terminated_cleanly():
        with _before_the_start():
            vm.check_tools()
            boot = tree.prepare(entry, progress)
        with lock.one_vm(lambda who: progress.note(f"waiting for the VM of {who}")):
            with _before_the_start():
                place = runs.create(job.out)
                _settle(place, job, mode)
            try:
                outcome = see_through(boot, place)
            finally:
                place.close()
        return Result(verdict.tell(outcome, place, progress, job.expected), place)


@contextlib.contextmanager
def _before_the_start() -> Iterator[None]:
    """Give the errors of preparing the exit status that says so."""
    try:
        yield
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
        firmware=[setting.line for setting in job.firmware],
    )


def _boot(boot: tree.Boot, job: Job, place: Run, progress: Progress) -> monitor.Outcome:
    stages = _stages(boot, progress)

    def reached(name: str, uptime: float) -> None:
        if name == "command":
            _remember_boot(uptime)
        stages.send(name)

    with contextlib.closing(stages), contextlib.closing(monitor.Sockets()) as sockets:
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
        return monitor.Monitor(place, limits, reached).see_through(command, sockets)


def _stages(boot: tree.Boot, progress: Progress) -> Generator[None, str, None]:
    """Show the boot's progress; sent the name of each stage that the guest has reached."""
    with progress.stage(f"booting {boot.release}") as stage:
        name = yield
        while name != "command":
            stage.update(_STAGES.get(name, name))
            name = yield
    while True:
        yield


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
