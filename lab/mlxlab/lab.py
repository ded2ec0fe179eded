# SPDX-License-Identifier: GPL-2.0-or-later
"""One run of the lab, from nothing to its verdict."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from genbindings.errors import Error, UsageError
from mlxpatch import cache

from mlxlab import lock, monitor, runs, splats, tree, vm
from mlxlab.errors import NotStartedError
from mlxlab.report import exit_status, taint_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mlxpatch.progress import Progress

    from mlxlab.runs import Run
    from mlxlab.splats import Splat
    from mlxlab.table import Entry

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
                console=f"file,path={place.console}",
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


def _stages(boot: tree.Boot, progress: Progress) -> Iterator[None]:
    """Show the boot's progress; sent the name of each stage that the guest has reached."""
    with progress.stage(f"booting {boot.release}") as stage:
        name = yield
        while name != "command":
            stage.update(_STAGES.get(name, name))
            name = yield
    while True:
        yield


def _interact(boot: tree.Boot, job: Job, place: Run) -> monitor.Outcome:
    sockets = monitor.Sockets()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    outcome = monitor.Outcome()
    try:
        command = vm.qemu_command(
            boot,
            job.machine,
            place.path,
            place.out,
            sockets.descriptors,
            console=f"stdio,signal=off,mux=off,logfile={place.console}",
            # Files edited on the host while the shell is open are seen in it.
            cache="readahead",
        )
        with _terminated_cleanly():
            qemu = subprocess.Popen(command, pass_fds=tuple(sockets.descriptors.values()))
            try:
                sockets.release()
                said = sockets.ours["control"].makefile("r", errors="replace")
                for line in said:
                    outcome.report.feed(line)
                    if outcome.report.ended:
                        break
            finally:
                monitor.stop(qemu)
    finally:
        signal.signal(signal.SIGINT, before)
        sockets.close()
        if sys.stdin.isatty():
            subprocess.run(["stty", "sane"], check=False)
    return outcome
