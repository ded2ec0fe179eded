# SPDX-License-Identifier: GPL-2.0-or-later
"""One run of the lab, from nothing to its verdict."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxlab import accel, interactive, kept, lock, monitor, mtty, runs, tree, verdict, vm
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
        accelerator: ``kvm``, ``tcg``, or ``auto``: KVM if it works.
        offline: use only what is cached.
        device: what the guest has: ``mlx5``, VFs of the simulated firmware, or ``mtty``.
    """

    command: Sequence[str]
    machine: vm.Machine
    out: Path | None = None
    timeout_s: float | None = None
    environment: Sequence[str] = ()
    firmware: Sequence[Setting] = ()
    expected: Expected = field(default_factory=Expected)
    accelerator: str = "auto"
    offline: bool = False
    device: str = "mlx5"


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
    return _one(entry, job, progress, lambda start: _boot(start, job, progress), "run")


def keep(entry: Entry, job: Job, progress: Progress, idle_s: float) -> Result:
    """Run ``job`` as :func:`run` does, and leave the VM there for :func:`execute`.

    It ends when nobody has used it for ``idle_s`` seconds.

    Raises:
        NotStartedError: see :func:`run`.
    """

    def see_through(start: _Start) -> monitor.Outcome:
        with contextlib.closing(monitor.Sockets()) as sockets:
            command = _command(start, sockets)
            lock.name_holder(
                start.lock,
                f"the kept lab of process {os.getpid()}, which ends after {idle_s / 60:.3g} idle "
                f"minutes, or now by: {kept.stop_command()}",
            )
            kept.start(start.place, command, sockets, start.lock, idle_s)
        with kept.borrowed(progress.note) as guest:
            return _attend(guest, start.place, job, "", _stages(start.boot, progress))

    return _one(entry, job, progress, see_through, "keep")


def execute(job: Job, progress: Progress) -> Result:
    """Run ``job``'s command in the lab that is kept; its machine and firmware stay as they are.

    Raises:
        NotStartedError: no lab is kept.
    """
    with _terminated_cleanly(), kept.borrowed(progress.note) as guest:
        place, number = kept.found()
        runs.write_command(place, job.command, job.environment, number)
        outcome = _attend(guest, place, job, f"job {number}", _no_stages())
    return Result(verdict.tell(outcome, place, progress, job.expected), place)


def stop(progress: Progress) -> int:
    """End the lab that is kept; return 0, or what :func:`run` would for what its end brought up.

    A command that runs in it is ended as well, and that is said.

    Raises:
        NotStartedError: no lab is kept.
    """
    if kept.end_at_once():
        progress.note("a command was running in the kept lab; the VM was ended all the same")
        return 0
    with _terminated_cleanly(), kept.borrowed(progress.note) as guest:
        place, _ = kept.found()
        nothing = Job((), vm.Machine())
        outcome = _attend(guest, place, nothing, "end", _no_stages())
    return verdict.tell(outcome, place, progress)


def _attend(
    guest: kept.Guest,
    place: Run,
    job: Job,
    line: str,
    stages: Generator[None, str, None],
) -> monitor.Outcome:
    with contextlib.closing(stages):
        next(stages)
        watcher = monitor.Monitor(
            place, monitor.Limits(job.timeout_s, _scale()), lambda name, _: stages.send(name)
        )
        outcome = watcher.attend(guest.qemu_pid, guest.ends, line)
    guest.idle = outcome.report.ended
    if outcome.lost:
        kept.abandon(guest)
    return outcome


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
        lambda start: interactive.attach(start.boot, start.machine, start.place),
        "shell",
    )


def _one(
    entry: Entry,
    job: Job,
    progress: Progress,
    see_through: Callable[[_Start], monitor.Outcome],
    mode: str,
) -> Result:
    with _terminated_cleanly():
        with _before_the_start():
            vm.check_tools()
            boot = tree.prepare(entry, progress, device=job.device, offline=job.offline)
            accelerator = accel.choose(job.accelerator, boot.image, progress)
            job = dataclasses.replace(
                job, machine=dataclasses.replace(job.machine, accelerator=accelerator)
            )
        with lock.one_vm(lambda who: progress.note(f"waiting for {who}")) as held:
            with _before_the_start():
                place = runs.create(job.out)
                _settle(place, job, mode)
            try:
                outcome = see_through(_Start(boot, job.machine, place, held))
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
        modules=mtty.MODULES if job.device == "mtty" else MODULES,
        device=job.device,
        pf_driver="mlx5_lab",
        vf_driver="mlx5_vfio_pci",
        mode=mode,
        firmware=[setting.line for setting in job.firmware],
    )
    runs.write_command(place, job.command, job.environment)


@dataclass(frozen=True)
class _Start:
    """What a VM is started with, and the lock that is held for it."""

    boot: tree.Boot
    machine: vm.Machine
    place: Run
    lock: int


def _boot(start: _Start, job: Job, progress: Progress) -> monitor.Outcome:
    stages = _stages(start.boot, progress)

    def reached(name: str, uptime: float) -> None:
        if name == "command":
            _remember_boot(uptime / start.boot.slowness)
        stages.send(name)

    with contextlib.closing(stages), contextlib.closing(monitor.Sockets()) as sockets:
        next(stages)
        limits = monitor.Limits(job.timeout_s, _scale() * start.boot.slowness)
        watcher = monitor.Monitor(start.place, limits, reached)
        return watcher.see_through(_command(start, sockets), sockets)


def _command(start: _Start, sockets: monitor.Sockets) -> list[str]:
    return vm.qemu_command(
        start.boot,
        start.machine,
        start.place.path,
        start.place.out,
        sockets.descriptors,
        console=f"file,path={str(start.place.console).replace(',', ',,')}",
    )


def _stages(boot: tree.Boot, progress: Progress) -> Generator[None, str, None]:
    """Show the boot's progress; sent the name of each stage that the guest has reached."""
    with progress.stage(f"booting {boot.release}") as stage:
        name = yield
        while name != "command":
            stage.update(_STAGES.get(name, name))
            name = yield
    while True:
        yield


def _no_stages() -> Generator[None, str, None]:
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
