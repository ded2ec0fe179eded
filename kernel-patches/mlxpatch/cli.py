# SPDX-License-Identifier: GPL-2.0-or-later
"""The ``mlxpatch`` command."""

from __future__ import annotations

import platform
import re
import shutil
from pathlib import Path

import click

from genbindings import console
from genbindings.errors import Error, UsageError
from mlxpatch import build as builder
from mlxpatch import cache, debian, headers, kernels
from mlxpatch.progress import Progress

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(context_settings=console.CONTEXT)
@console.version_option
def cli() -> None:
    """Carry a kernel patch series: verify it, build it as modules, install it, compare it."""


@cli.command()
@click.argument("series", required=False, type=click.Path(path_type=Path))
@click.option("--stock", is_flag=True, help="Build the kernel's own mlx5-vfio-pci, unpatched.")
@click.option(
    "--kernel",
    "release",
    metavar="RELEASE",
    help="Kernel release to build for, as in /lib/modules. Default: the running one.",
)
@click.option(
    "-o", "--output", metavar="DIR", required=True, type=click.Path(file_okay=False, path_type=Path)
)
@click.option(
    "--symvers",
    multiple=True,
    metavar="FILE",
    type=_FILE,
    help="Module.symvers of other modules that the driver is to be linked with.",
)
@click.option("--headers", "headers_", metavar="DIR", type=_FOLDER, help="The kernel's headers.")
@click.option("--source", metavar="DIR", type=_FOLDER, help="The kernel's sources.")
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
def build(
    series: Path | None,
    stock: bool,
    release: str | None,
    output: Path,
    symvers: tuple[Path, ...],
    headers_: Path | None,
    source: Path | None,
    quiet: bool,
) -> None:
    """Build the mlx5-vfio-pci driver out of tree, against a distribution kernel's headers.

    Headers are looked for in /lib/modules/RELEASE/build and in the cache; sources in the cache,
    and with apt in the distribution's archive. The modules, their Module.symvers and the build's
    log are put into the output folder.
    """
    if series is not None:
        raise UsageError("building a patch series is not built yet: use --stock")
    if not stock:
        raise UsageError("nothing to build: give --stock")
    progress = Progress("mlxpatch", quiet=quiet)
    found = headers_ or headers.find(release or platform.release())
    actual = headers.inspect(found).release
    if release and release != actual:
        raise Error(f"{found} is for kernel {actual}, not {release}")
    tree = source or _source(actual, progress)
    built = builder.build(builder.stock_driver(tree), found, progress, symvers=symvers)
    with cache.writing(output):
        output.mkdir(parents=True, exist_ok=True)
        for path in (*built.modules, built.symvers, built.log):
            shutil.copy2(path, output / path.name)
    for module in built.modules:
        click.echo(output / module.name)


def _source(release: str, progress: Progress) -> Path:
    match = re.match(r"\d+\.\d+", release)
    if match is None:
        raise Error(f"cannot tell the kernel series of {release}", "give --source DIR")
    series = match[0]
    cached = kernels.cached_source(series)
    if cached:
        return cached.root
    if not debian.available():
        raise Error(f"no sources of Linux {series}", "give --source DIR")
    return kernels.ensure_source(series, progress).root


for _name, _summary in (
    ("verify", "run the gates of a patch series"),
    ("dkms", "make a DKMS source package"),
    ("install", "install the modules on this host"),
    ("uninstall", "go back to the distribution's modules"),
    ("status", "say which modules this host uses"),
    ("compare", "compare two revisions of a series"),
    ("new-revision", "freeze the present revision"),
):
    console.planned(cli, _name, _summary)


def main() -> None:
    """Run the command."""
    console.run(cli, "mlxpatch")
