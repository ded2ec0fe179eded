# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``mlxtrace``: its subcommands are imported when they are asked for."""

from __future__ import annotations

import importlib
from typing import NoReturn

import click

from genbindings import console

# Importing costs seconds on the emulated machines of the lab: module and name, then the help.
_LAZY = {
    "doctor": ("mlxtrace.cli_doctor", "Check everything that tracing needs."),
    "migrate": ("mlxtrace.cli_migrate", "Migrate a VF to another through VFIO, and measure it."),
    "precopy": ("mlxtrace.cli_precopy", "Trace live migrations of mlx5 VFs."),
    "report": ("mlxtrace.cli_report", "Print a recording as the live trace printed it."),
    "stream": ("mlxtrace.cli_stream", "List and check the records of a stream file."),
    "validate": ("mlxtrace.cli_validate", "Check a driver against the migration contract."),
}


class _LazyGroup(click.Group):
    """A group that lists all subcommands and imports only the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_LAZY])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _LAZY:
            return super().get_command(ctx, cmd_name)
        command: click.Command = importlib.import_module(_LAZY[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            if name in _LAZY:
                rows.append((name, _LAZY[name][1]))
            elif (command := super().get_command(ctx, name)) is not None:
                rows.append((name, command.get_short_help_str(limit=80)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=_LazyGroup, context_settings=console.CONTEXT)
@console.version_option
def group() -> None:
    """See and exercise VFIO PRE_COPY live migration of mlx5 virtual functions."""


def main() -> NoReturn:
    """Run the command line."""
    console.run(group, "mlxtrace")
