# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxlab kernel``: kernels that are built rather than downloaded."""

from __future__ import annotations

from pathlib import Path

import click

from genbindings.errors import UsageError


@click.group()
def kernel() -> None:
    """Build a debug kernel."""


@kernel.command()
@click.argument("name")
@click.option(
    "--series",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Apply the patches that DIR/series lists; the kernel is called NAME+DIR then.",
)
@click.option("--offline", is_flag=True, help="Download nothing: use what is cached.")
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
def build(name: str, series: Path | None, offline: bool, quiet: bool) -> None:
    """Build the debug kernel NAME (see mlxlab kernels) from Debian's source package.

    It takes about ten minutes on two CPUs and 3 GB of the cache, of which 150 MB are kept. A build
    that was interrupted goes on where it stopped. What is built already is not built again.
    """
    from mlxlab import debugkernel, table
    from mlxpatch.progress import Progress

    known = {entry.name: entry for entry in table.load().values() if entry.config}
    if name not in known:
        raise UsageError(f"kernel {name!r} is none that is built", f"one of {', '.join(known)}")
    progress = Progress("mlxlab", quiet=quiet)
    built = debugkernel.build(known[name], series, progress, offline=offline)
    click.echo(f"{built.name} is built (Linux {built.release}, from {built.version})")
    click.echo(f"run it: mlxlab run --kernel {built.name} -- COMMAND")
