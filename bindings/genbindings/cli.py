# SPDX-License-Identifier: GPL-2.0-or-later
"""The command gen-bindings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from genbindings import console
from genbindings.backends import formats
from genbindings.errors import UsageError

if TYPE_CHECKING:
    from genbindings.model import Header

_DIRECTORY = click.Path(path_type=Path)


@click.group(
    invoke_without_command=True,
    context_settings=console.CONTEXT,
    subcommand_metavar="[check|diff|lint ...]",
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
    "--format",
    "output_format",
    type=click.Choice(formats()),
    default="ctypes",
    show_default=True,
    help="A Python module, the model as JSON, a stub, or static assertions in C.",
)
@click.option(
    "--kernel", type=_DIRECTORY, metavar="DIR", help="Take the header from this kernel tree."
)
@click.option(
    "--include",
    "includes",
    type=_DIRECTORY,
    multiple=True,
    metavar="DIR",
    help="Search this directory first, for the header and what it includes.",
)
@click.option("--define", "defines", multiple=True, metavar="X[=Y]", help="Define a macro.")
@click.option(
    "--cc",
    default="cc",
    show_default=True,
    metavar="CC",
    help="The C compiler; a cross compiler gives its target's layouts and numbers.",
)
@click.option("--select", metavar="REGEX", help="Only what matches, and what that needs.")
@click.option(
    "--allow-missing",
    is_flag=True,
    help="Leave out macros that need undeclared names, and list them, instead of failing.",
)
@click.pass_context
def command(
    context: click.Context,
    header: str | None,
    output: Path | None,
    output_format: str,
    kernel: Path | None,
    includes: tuple[Path, ...],
    defines: tuple[str, ...],
    cc: str,
    select: str | None,
    allow_missing: bool,
) -> None:
    """Generate verified bindings from a C header of the kernel.

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
    from genbindings import lint
    from genbindings.generate import Options, text
    from genbindings.writer import write

    options = Options(header, kernel, includes, defines, cc, select, allow_missing)
    rendered, found, located = text(options, output_format)
    behind = "".join(f", behind <{name}>" for name in found.needed)
    print(f"gen-bindings: using {located.path}{behind}", file=sys.stderr)
    for finding in lint.unresolved(found):
        print(f"gen-bindings: warning: {finding}", file=sys.stderr)
    if allow_missing:
        for item in found.omitted:
            print(
                f"gen-bindings: {item.location}: left out {item.name}: {item.reason}",
                file=sys.stderr,
            )
    if output is None:
        sys.stdout.write(rendered)
    else:
        write(output, rendered)


@command.command()
@click.option(
    "--project",
    type=click.Path(path_type=Path),
    default="pyproject.toml",
    show_default=True,
    metavar="FILE",
    help="The file that declares the modules.",
)
@click.option("--write", is_flag=True, help="Write what differs instead of failing.")
def check(project: Path, write: bool) -> int:
    """Regenerate what pyproject.toml declares, and fail if a file differs.

    Declared in tables [[tool.gen-bindings.module]] with header, output, and optionally kernel,
    select and format.
    """
    from genbindings import writer
    from genbindings.check import declared

    different = 0
    for item in declared(project):
        text = item.text()
        if write:
            state = "written" if writer.write(item.output, text) else "up to date"
        elif not item.output.is_file():
            state, different = "missing", different + 1
        elif item.output.read_text(encoding="utf-8") != text:
            state, different = "differs", different + 1
        else:
            state = "up to date"
        print(f"{item.output}: {state}")
    return 1 if different else 0


@command.command()
@click.argument("old", type=_DIRECTORY)
@click.argument("new", type=_DIRECTORY)
@click.option("--header", required=True, metavar="HEADER", help="The header to compare.")
@click.option("--cc", default="cc", show_default=True, metavar="CC", help="The C compiler.")
def diff(old: Path, new: Path, header: str, cc: str) -> int:
    """Show what changed in a header from kernel tree OLD to NEW.

    Exit status 1 means that the ABI of something that both have changed: a field moved, a size, a
    number. What was added or removed does not count.
    """
    from genbindings import diff as differ

    changes = differ.diff(_model(header, old, cc), _model(header, new, cc))
    for change in changes:
        print(change)
    print(f"{header}: {differ.summary(changes)}")
    return 1 if any(change.abi for change in changes) else 0


@command.command("lint")
@click.option("--header", required=True, metavar="HEADER", help="The header to look at.")
@click.option("--kernel", type=_DIRECTORY, metavar="DIR", help="Take it from this kernel tree.")
@click.option("--cc", default="cc", show_default=True, metavar="CC", help="The C compiler.")
def lint_command(header: str, kernel: Path | None, cc: str) -> None:
    """Name what a header says that is not so: reserved_at_X elsewhere than at X, fields that
    straddle a dword, comments that name structs which do not exist or numbers that are others.
    """
    from genbindings import lint

    for finding in lint.lint(_model(header, kernel, cc)):
        print(finding)


def _model(header: str, kernel: Path | None, cc: str) -> Header:
    from genbindings.generate import Options, model

    found, located = model(Options(header, kernel=kernel, cc=cc))
    print(f"gen-bindings: using {located.path}", file=sys.stderr)
    return found


def main() -> NoReturn:
    """Run the command."""
    console.run(command, "gen-bindings")
