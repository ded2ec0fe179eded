# SPDX-License-Identifier: GPL-2.0-or-later
"""The ``mlxlab`` command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genbindings import console
from genbindings.errors import UsageError
from mlxlab import accel, cli_kernel, cli_matrix, cli_qemu

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlxlab.lab import Job
    from mlxlab.table import Entry
    from mlxlab.vm import Machine
    from mlxpatch.progress import Progress

_DEFAULT_KERNEL = "upstream-6.12"


@click.group(context_settings=console.CONTEXT)
@console.version_option
def cli() -> None:
    """A test host for mlx5 VF migration in a virtual machine: real but for the firmware."""


def _machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option(
                "--kernel",
                metavar="NAME",
                default=_DEFAULT_KERNEL,
                show_default=True,
                help="See mlxlab kernels.",
            ),
            click.option(
                "--kernel-dir",
                metavar="DIR",
                type=click.Path(exists=True, file_okay=False, path_type=Path),
                help="Boot the kernel that was built in DIR instead.",
            ),
            click.option(
                "--vfs",
                type=click.IntRange(1, 64),
                default=2,
                show_default=True,
                metavar="N",
                help="Number of VFs in all.",
            ),
            click.option(
                "--device",
                type=click.Choice(("mlx5", "mtty")),
                default="mlx5",
                show_default=True,
                help="What there is to migrate. mtty: devices of the kernel's sample driver.",
            ),
            click.option(
                "--cpus",
                type=click.IntRange(1, 64),
                default=2,
                show_default=True,
                metavar="N",
                help="CPUs of the guest.",
            ),
            click.option(
                "--memory",
                type=click.IntRange(512),
                default=2048,
                show_default=True,
                metavar="MIB",
                help="Memory of the guest in MiB.",
            ),
            click.option(
                "--out",
                metavar="DIR",
                type=click.Path(file_okay=False, path_type=Path),
                help="Folder that the guest sees as $MLXLAB_OUT. Default: a new one in the cache.",
            ),
            click.option(
                "--profile",
                metavar="NAME",
                help="Settings of the firmware: see mlxlab profiles.",
            ),
            click.option(
                "--fw",
                multiple=True,
                metavar="KEY=VALUE",
                help="Set a knob of the PF or of every VF before the driver takes the VFs.",
            ),
            click.option(
                "--accel",
                "accelerator",
                type=click.Choice(accel.CHOICES),
                default="auto",
                show_default=True,
                help="What runs the guest. auto: KVM if a probe boot works, else TCG.",
            ),
            click.option("--offline", is_flag=True, help="Download nothing: use what is cached."),
            click.option("-q", "--quiet", is_flag=True, help="Print no progress."),
        )
    ):
        command = option(command)
    return command


def _command_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option(
                "--timeout",
                type=console.FiniteRange(min=1),
                metavar="SECONDS",
                help="End the run after this time in the VM (exit status 124).",
            ),
            click.option(
                "-e", "--env", multiple=True, metavar="NAME=VALUE", help="A variable for COMMAND."
            ),
            click.option(
                "--expect",
                multiple=True,
                metavar="ASSERTION",
                help="The run is about this firmware assertion: it fails if it does not fire.",
            ),
            click.option(
                "--allow",
                multiple=True,
                metavar="ASSERTION",
                help="This firmware assertion may fire.",
            ),
        )
    ):
        command = option(command)
    return command


def _new_job(
    machine: Machine,
    command: tuple[str, ...] = (),
    timeout: float | None = None,
    env: tuple[str, ...] = (),
    expect: tuple[str, ...] = (),
    allow: tuple[str, ...] = (),
    **others: Any,
) -> Job:
    from mlxlab.lab import Job
    from mlxlab.report import Expected

    for word in env:
        if not re.match(r"[A-Za-z_][A-Za-z0-9_]*=", word):
            raise UsageError(f"--env {word}: not NAME=VALUE")
    expected = Expected(frozenset(expect), frozenset(allow))
    return Job(command, machine, timeout_s=timeout, environment=env, expected=expected, **others)


def _job(
    kernel: str,
    kernel_dir: Path | None,
    vfs: int,
    cpus: int,
    memory: int,
    quiet: bool,
    profile: str | None,
    fw: tuple[str, ...],
    device: str,
    **options: Any,
) -> tuple[Entry, Job, Progress]:
    from mlxlab import firmware, mtty
    from mlxlab.table import of_folder, pick
    from mlxlab.vm import Machine
    from mlxpatch.progress import Progress

    if device == "mtty":
        mtty.check_count(vfs)
        if fw or profile is not None:
            raise UsageError(
                "--device mtty has no firmware: it goes with neither --fw nor --profile"
            )
    settings = [firmware.setting(word) for word in fw]
    if profile is not None:
        chosen = firmware.pick(profile)
        settings = [*chosen.settings, *settings]
        memory = max(memory, chosen.memory_mib)
    job = _new_job(Machine(cpus, memory, vfs), firmware=settings, device=device, **options)
    source = click.get_current_context().get_parameter_source("kernel")
    if kernel_dir and source is not click.core.ParameterSource.DEFAULT:
        raise UsageError("--kernel and --kernel-dir: only one of them can be booted")
    entry = pick(kernel) if kernel_dir is None else of_folder(kernel_dir)
    return entry, job, Progress("mlxlab", quiet=quiet)


@cli.command(context_settings={"allow_interspersed_args": False})
@_machine_options
@_command_options
@click.option(
    "--keep", is_flag=True, help="Leave the VM there: for mlxlab exec, until mlxlab stop."
)
@click.option(
    "--idle",
    type=console.FiniteRange(min=0, min_open=True, second=1 / 60),
    default=30,
    show_default=True,
    metavar="MINUTES",
    help="With --keep: end the VM after this time without a command.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(keep: bool, idle: float, **options: Any) -> int:
    """Boot the lab, run COMMAND in it, and exit with its status.

    COMMAND sees this machine's files, and what it writes stays in memory, except below
    $MLXLAB_OUT. The VFs (with --device mtty: the UUIDs of its devices) are in $MLXLAB_VF0,
    $MLXLAB_VF1, and so on.

    Exit status: COMMAND's, or 120 after a kernel splat or a firmware assertion, 124 timeout, 125
    when the lab could not start, 126 when the VM was lost.
    """
    from mlxlab import lab

    job = _job(**options)
    return (lab.keep(*job, idle * 60) if keep else lab.run(*job)).status


@cli.command("exec", context_settings={"allow_interspersed_args": False})
@_command_options
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(quiet: bool, **options: Any) -> int:
    """Run COMMAND in the lab that mlxlab run --keep has left, and exit as mlxlab run does.

    Splats and assertions count for the command in whose time they came. $MLXLAB_OUT is still the
    folder of mlxlab run.
    """
    from mlxlab import lab
    from mlxlab.vm import Machine
    from mlxpatch.progress import Progress

    job = _new_job(Machine(), **options)
    return lab.execute(job, Progress("mlxlab", quiet=quiet)).status


@cli.command()
def stop() -> int:
    """End the lab that mlxlab run --keep has left."""
    from mlxlab import lab
    from mlxpatch.progress import Progress

    return lab.stop(Progress("mlxlab"))


@cli.command()
@_machine_options
def shell(**options: Any) -> int:
    """Boot the lab and give a prompt in it; leaving the shell ends the VM."""
    from mlxlab import lab

    return lab.shell(*_job(**options)).status


@cli.command()
@_machine_options
def demo(**options: Any) -> int:
    """Migrate a VF to another one under the tracer, and put client and tracer side by side."""
    from rich.console import Console

    from mlxlab import demo as show
    from mlxlab import lab

    if options["device"] != "mlx5":
        raise UsageError("the demo traces mlx5-vfio-pci: leave out --device")
    if options["vfs"] < 2:
        raise UsageError("the demo needs two VFs")
    terminal = Console()
    terminal.print(show.INTRODUCTION, highlight=False)
    result = lab.run(*_job(**options, command=("sh", "-c", show.COMMAND)))
    if result.status:
        return result.status
    return 0 if show.show(result.run.out, terminal) else 1


@cli.command()
def kernels() -> None:
    """List the kernels that the lab can boot, and what of them is cached."""
    from rich.console import Console
    from rich.table import Table

    from mlxlab import table
    from mlxpatch import cache

    listing = Table(box=None)
    for column in ("kernel", "cached", "what it is"):
        listing.add_column(column)
    for entry in table.listed().values():
        listing.add_row(entry.name, entry.obstacle or entry.cached or "no", entry.summary)
    Console().print(listing)
    click.echo(f"the cache, {cache.root()}, holds {cache.size_bytes() / 1e9:.1f} GB")


@cli.command()
def clean() -> None:
    """Empty the cache: downloads, builds, and the logs and output of earlier runs."""
    from mlxlab import lock
    from mlxpatch import cache
    from mlxpatch.progress import Progress

    progress = Progress("mlxlab")
    with lock.one_vm(lambda who: progress.note(f"waiting for {who}")):
        freed = cache.empty()
    click.echo(f"{freed / 1e9:.1f} GB freed in {cache.root()}")


@cli.command()
def profiles() -> None:
    """List the profiles of the simulated firmware."""
    from rich.console import Console
    from rich.table import Table

    from mlxlab import firmware

    listing = Table(box=None)
    for column in ("profile", "what it is"):
        listing.add_column(column)
    for profile in firmware.profiles().values():
        listing.add_row(profile.name, profile.summary)
    Console().print(listing)


@cli.command()
@click.argument("bdf")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def fw(bdf: str, settings: tuple[str, ...]) -> None:
    """Show or set the knobs of the simulated firmware, inside the lab's guest.

    BDF is the PF ($MLXLAB_PF: capabilities, faults of PDs and mkeys) or a VF. fault=RULE adds a
    fault, fault=clear drops all; docs/lab.md has the knobs and the rules.
    """
    from mlxlab import firmware

    firmware.apply(bdf, settings)
    if settings:
        return
    for name, value in firmware.show(bdf).items():
        click.echo(f"{name:<20} {value}")
    for name, text in firmware.figures(bdf).items():
        for line in text.splitlines():
            click.echo(f"{name:<20} {line}")


cli.add_command(cli_qemu.command)
cli.add_command(cli_matrix.command)
cli.add_command(cli_kernel.kernel)


def main() -> None:
    """Run the command."""
    console.run(cli, "mlxlab")
