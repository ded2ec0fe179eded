# SPDX-License-Identifier: GPL-2.0-or-later
"""The command gen-bindings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import click

from genbindings import console
from genbindings.errors import UsageError


@click.group(
    invoke_without_command=True,
    context_settings=console.CONTEXT,
    subcommand_metavar="[COMMAND ...]",
)
@console.version_option
@click.option("--header", metavar="HEADER", help="The header: a name such as vfio.h, or a path.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write FILE, only if its content changes, instead of standard output.",
)
@click.option(
    "--kernel",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Take the header from this kernel source or header tree.",
)
@click.pass_context
def command(
    context: click.Context, header: str | None, output: Path | None, kernel: Path | None
) -> None:
    """Generate verified Python bindings from a C header of the kernel.

    Sizes, offsets, constants and ioctl numbers are the C compiler's own, read back from its debug
    information and checked by it once more before anything is written. Standard error names the
    header used.
    """
    if context.invoked_subcommand is not None:
        return
    if header is None:
        raise UsageError(
            "no header given", "gen-bindings --header vfio.h; --help lists the options"
        )
    # Imported late: --help and --version do not need them.
    from genbindings.backends import BACKENDS
    from genbindings.generate import Options, model
    from genbindings.writer import write

    found, located = model(Options(header, kernel=kernel))
    print(f"gen-bindings: using {located.path}", file=sys.stderr)
    text = BACKENDS["ctypes"](found)
    if output is None:
        sys.stdout.write(text)
    else:
        write(output, text)


console.planned(command, "check", "regenerate what pyproject.toml declares and compare")
console.planned(command, "diff", "show what changed in a header between two kernels")
console.planned(command, "lint", "name fields whose name does not match their offset")


def main() -> NoReturn:
    """Run the command."""
    console.run(command, "gen-bindings")
