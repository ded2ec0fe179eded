# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxpatch dkms``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from genbindings.errors import Error
from mlxpatch import dkms, drivers
from mlxpatch.cli_common import OUTPUT, quiet_option, target, target_options, whole_option
from mlxpatch.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path


@click.command("dkms")
@click.argument("series", required=False)
@whole_option
@target_options
@click.option("-o", "--output", metavar="DIR", required=True, type=OUTPUT)
@click.option(
    "--version",
    "version",
    metavar="VERSION",
    help="The package's. Default: the kernel series, and a hash of the patches.",
)
@quiet_option
def command(
    series: str | None,
    whole: bool,
    kernel: str | None,
    headers: Path | None,
    source: Path | None,
    output: Path,
    version: str | None,
    quiet: bool,
) -> None:
    """Make a DKMS source package of the VFIO drivers, with SERIES applied if one is given.

    The package holds the patched sources of drivers/vfio, the headers that the series changes,
    and dkms.conf. It is built once here before it is written: for the running kernel, or RELEASE.
    dkms builds it for every kernel of the same series that is installed later.
    """
    progress = Progress("mlxpatch", quiet=quiet)
    goal = target(kernel, headers, source, progress)
    match = re.match(r"\d+\.\d+", goal.release)
    if match is None:
        raise Error(f"cannot tell the kernel series of {goal.release}")
    with drivers.prepared(series, goal.source, progress, whole=whole) as prepared:
        built = drivers.built(prepared, goal, progress)
        names = [path.stem for path in built.modules]
        chosen = version or dkms.default_version(prepared, match[0])
        places = dkms.write(prepared, names, match[0], chosen, output)
        remarks = prepared.remarks
    click.echo(f"{output}: {dkms.NAME}/{chosen}")
    for place in places:
        click.echo(f"  {place.place}/{place.name}.ko")
    for remark in remarks:
        progress.note(remark)
    progress.say(f"as root: dkms add {output} && dkms install {dkms.NAME}/{chosen}")
