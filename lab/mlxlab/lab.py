# SPDX-License-Identifier: GPL-2.0-or-later
"""One boot of the lab, from the table of kernels to an exit status."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxlab import errors, report, runs, splats, table, tree, vm
from mlxlab.errors import NotStartedError
from mlxlab.monitor import Limits, Monitor, Outcome, Sockets
from mlxpatch import cache
from mlxpatch.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlxlab.runs import Run
    from mlxlab.tree import Boot

MODULES = ("vfio-pci-core", "mlx5_lab", "mlx5-vfio-pci")
PF_DRIVER = "mlx5_lab"
# With underscores: that is the driver's name, and another one leaves the VF unbound.
VF_DRIVER = "mlx5_vfio_pci"

_STAGES = {
    "boot": "the kernel is up",
    "modules": "modules are loaded",
    "vfs": "VFs are bound",
}


@dataclass(frozen=True)
class Request:
    """What to boot and what to run in it.

    Attributes:
        kernel: a name of lab/kernels.toml.
        machine: the size of the VM.
        command: what to run in the guest.
        out: the folder that the guest can write to; one in the cache by default.
        timeout_s: for the whole run of the VM, if limited.
        quiet: print no progress.
    """

    kernel: str
    machine: vm.Machine
    command: tuple[str, ...]
    out: Path | None = None
    timeout_s: float | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Result:
    """How it went: the exit status of ``mlxlab run``, and the run's folders."""

    status: int
    run: Run


def require_root() -> None:
    """Raise an error unless root runs this: QEMU serves root's files to the guest."""
    if os.geteuid() != 0:
        raise NotStartedError(
            "the lab shares this machine's root file system with its VM, which takes root",
            "run it as root, or with sudo",
        )


@contextlib.contextmanager
def one_at_a_time(progress: Progress) -> Iterator[None]:
    """Hold the lab: two VMs at once starve each other under emulation."""
    with cache.locked(
        "vm", lambda: progress.note("another VM of the lab is running; waiting for it")
    ):
        yield


def prepare(kernel: str, progress: Progress) -> Boot:
    """Download, build and assemble what ``kernel`` boots with.

    Raises:
        UsageError: the table has no such kernel.
        NotStartedError: something is missing or does not build.
    """
    entry = table.pick(kernel)
    try:
        return tree.prepare(entry, progress)
    except NotStartedError:
        raise
    except Error as error:
        raise NotStartedError(str(error), error.hint) from None


def boot(request: Request) -> Result:
    """Boot the lab, run the command, and say on stderr what went wrong, if anything did.

    Raises:
        UsageError: the table has no such kernel.
        NotStartedError: the lab could not start.
    """
    progress = Progress("mlxlab", quiet=request.quiet)
    table.pick(request.kernel)
    require_root()
    vm.check_tools()
    prepared = prepare(request.kernel, progress)
    run = runs.create(request.out)
    try:
        with one_at_a_time(progress):
            outcome = _see_through(request, prepared, run, progress)
    finally:
        run.close()
    return Result(_conclude(outcome, run, progress), run)


def _see_through(request: Request, prepared: Boot, run: Run, progress: Progress) -> Outcome:
    runs.write_settings(
        run,
        request.machine,
        modules=MODULES,
        pf_driver=PF_DRIVER,
        vf_driver=VF_DRIVER,
        mode="run",
        command=request.command,
    )
    sockets = Sockets()
    # The stage is over when the command begins: from then on the terminal is the command's.
    with contextlib.ExitStack() as stack:
        stack.callback(sockets.close)
        booting = stack.enter_context(contextlib.ExitStack())
        stage = booting.enter_context(progress.stage(f"booting {request.kernel}"))

        def reached(name: str, uptime_s: float) -> None:
            if name == "command":
                booting.close()
                if not request.quiet:
                    progress.note(f"the lab is up after {uptime_s:.1f} s")
            else:
                stage.update(_STAGES.get(name, name))

        command = vm.qemu_command(
            prepared,
            request.machine,
            run.path,
            run.out,
            sockets.descriptors,
            console=f"file,path={str(run.console).replace(',', ',,')}",
            cache="loose",
        )
        run.console.touch()
        limits = Limits(total_s=request.timeout_s)
        return Monitor(run, limits, reached).see_through(command, sockets)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _conclude(outcome: Outcome, run: Run, progress: Progress) -> int:
    """Say what went wrong; return the exit status."""
    said = outcome.report
    found = splats.merge(_read(run.dmesg), _read(run.console))
    for splat in found:
        progress.note(f"kernel splat in the guest: {splat.kind}")
        print("\n".join(f"  {line}" for line in splat.lines), file=sys.stderr)
    if not found:
        for name in report.taint_names(said.taint):
            progress.note(f"the guest's kernel is tainted by {name}")
    for name, count in said.assertions.items():
        progress.note(f"firmware assertion fired: {name}, {count} times (dmesg has each)")
    if said.failure is not None:
        progress.note(f"error: the lab could not start: {said.failure}")
    elif outcome.timed_out:
        progress.note("error: the run took longer than --timeout allows")
    elif outcome.lost:
        progress.note(f"error: the VM was lost: {outcome.lost}; the end of its console:")
        print(_tail(run.console), file=sys.stderr)
    status = report.exit_status(
        said,
        splats=len(found),
        lost=bool(outcome.lost),
        timed_out=outcome.timed_out,
    )
    if outcome.interrupted and status in (errors.LOST, 0):
        status = 130
    if status and (found or said.assertions or outcome.lost or outcome.timed_out):
        progress.note(f"the guest's kernel log is in {run.dmesg}")
    return status


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(f"  {line}" for line in _read(path).splitlines()[-lines:])


def shell(request: Request) -> int:
    """Boot the lab and give a prompt on this terminal; return the shell's exit status.

    Raises:
        NotStartedError: the lab could not start.
    """
    if not sys.stdin.isatty():
        raise NotStartedError("a shell needs a terminal", "mlxlab run -- COMMAND does not")
    progress = Progress("mlxlab", quiet=request.quiet)
    require_root()
    vm.check_tools()
    prepared = prepare(request.kernel, progress)
    run = runs.create(request.out)
    from mlxlab import interactive

    try:
        with one_at_a_time(progress):
            runs.write_settings(
                run,
                request.machine,
                modules=MODULES,
                pf_driver=PF_DRIVER,
                vf_driver=VF_DRIVER,
                mode="shell",
            )
            outcome = interactive.attach(prepared, request.machine, run)
    finally:
        run.close()
    return _conclude(outcome, run, progress)
