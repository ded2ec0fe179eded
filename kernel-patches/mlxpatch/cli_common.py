# SPDX-License-Identifier: GPL-2.0-or-later
"""Options and output that several commands share."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlxpatch import drivers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mlxpatch.drivers import Target
    from mlxpatch.progress import Progress

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUTPUT = click.Path(file_okay=False, path_type=Path)
_WIDEST = 120
# In a file or a pipe, where the width is nobody's.
_PLAIN = 100


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--kernel``, ``--headers`` and ``--source`` to ``command``."""
    for option in (
        click.option("--source", metavar="DIR", type=FOLDER, help="The kernel's sources."),
        click.option("--headers", metavar="DIR", type=FOLDER, help="The kernel's headers."),
        click.option(
            "--kernel",
            metavar="RELEASE",
            help="Kernel release, as in /lib/modules. Default: the running one.",
        ),
    ):
        command = option(command)
    return command


def target(
    kernel: str | None, headers: Path | None, source: Path | None, progress: Progress
) -> Target:
    """Return the kernel that the options of :func:`target_options` name; see drivers.target."""
    release = kernel or ("" if headers else platform.release())
    return drivers.target(release, headers, source, progress)


whole_option = click.option(
    "--all", "whole", is_flag=True, help="All of drivers/vfio, whatever is touched."
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def console() -> Console:
    """Return what tables are printed on: standard output, no wider than a page."""
    out = Console(highlight=False)
    width = min(out.width, _WIDEST) if out.is_terminal else _PLAIN
    return Console(highlight=False, width=width)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table with ``title`` above it; cells are plain text."""
    made = Table(title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        made.add_row(*(escape(str(cell)) for cell in row))
    return made


def print_json(value: object) -> None:
    """Print ``value`` as indented JSON."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")
