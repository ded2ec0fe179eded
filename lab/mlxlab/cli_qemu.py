# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``mlxlab qemu``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from genbindings.console import CONTEXT
from genbindings.errors import Error

if TYPE_CHECKING:
    from mlxlab.vmm.process import Installation
    from mlxlab.vmm.verdict import Run

# Two QEMUs of 32 MiB, the tracer's compiler, and what two states and their images need.
_MEMORY_MIB = 3072


@click.command("qemu", context_settings=CONTEXT)
@click.option(
    "--kernel",
    metavar="NAME",
    default="upstream-6.12",
    show_default=True,
    help="See mlxlab kernels.",
)
@click.option(
    "--qemu-version",
    metavar="V",
    default="10",
    show_default=True,
    help="The newest QEMU of this version that the distribution has, backports included.",
)
@click.option(
    "--scenario", "names", multiple=True, metavar="NAME", help="Only this one. May be repeated."
)
@click.option("--list", "listing", is_flag=True, help="List the scenarios, and exit.")
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for what is kept of each scenario. Default: a new one in the cache.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show the figures of every scenario.")
@click.option("--offline", is_flag=True, help="Download nothing: use what is cached.")
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
def command(
    kernel: str,
    qemu_version: str,
    names: tuple[str, ...],
    listing: bool,
    out: Path | None,
    verbose: bool,
    offline: bool,
    quiet: bool,
) -> int:
    """Live-migrate a VM with a VF between two unmodified QEMUs in the lab's guest.

    QEMU's own trace, mlxtrace's recording and the firmware's counters of every scenario are put
    side by side. Exit status: 0 if each ended as it must and all three agree, 1 if not, else as
    mlxlab run.
    """
    from mlxlab import lab, table
    from mlxlab.vm import Machine
    from mlxlab.vmm import archive, scenarios
    from mlxpatch.progress import Progress

    chosen = scenarios.pick(names)
    if listing:
        for scenario in chosen:
            click.echo(f"{scenario.name:<24} {scenario.summary}")
        return 0
    archive.check(qemu_version)
    entry = table.pick(kernel)
    progress = Progress("mlxlab", quiet=quiet)
    qemu = archive.ensure(qemu_version, progress, offline=offline)
    words = _guest(qemu, names)
    job = lab.Job(words, Machine(memory_mib=_MEMORY_MIB), out, offline=offline)
    result = lab.run(entry, job, progress)
    if result.status:
        return result.status
    return _judge(result.run.out, details=verbose or len(names) == 1)


def _guest(qemu: Installation, names: tuple[str, ...]) -> list[str]:
    version = ".".join(map(str, qemu.version))
    return ["python", "-m", "mlxlab.vmm.guest", str(qemu.root), version, *names]


def _judge(out: Path, *, details: bool) -> int:
    from rich.console import Console

    from mlxlab.vmm import show, verdict

    console = Console()
    run = verdict.judge(out)
    if not run.verdicts:
        raise Error("no scenario was run", "the driver has no PRE_COPY: mlxlab qemu --list")
    _keep(run, out)
    show.show(run, console, details=details)
    return 0 if run.good else 1


def _keep(run: Run, out: Path) -> None:
    """Write the figures and the timeline of each scenario beside its logs."""
    from rich.console import Console

    from mlxlab.vmm import show

    for one in run.verdicts:
        folder = out / one.scenario.name
        (folder / "timeline.txt").write_text(one.timeline)
        with (folder / "figures.txt").open("w") as file:
            paper = Console(file=file, width=100)
            paper.print(show.detail(one))
            for note in show.notes(one):
                paper.print(note, highlight=False, markup=False)
