# SPDX-License-Identifier: GPL-2.0-or-later
"""The ``mlxpatch`` command."""

from __future__ import annotations

import signal
import sys

import click

from genbindings import console
from mlxpatch import cli_build, cli_compare, cli_dkms, cli_install, cli_revision, cli_verify


@click.group(context_settings=console.CONTEXT)
@console.version_option
def cli() -> None:
    """Carry a kernel patch series: verify it, build it as modules, install it, compare it."""


cli.add_command(cli_build.command)
cli.add_command(cli_compare.command)
cli.add_command(cli_dkms.command)
cli.add_command(cli_install.install)
cli.add_command(cli_install.uninstall)
cli.add_command(cli_install.status)
cli.add_command(cli_verify.verify)
cli.add_command(cli_revision.new_revision)


def main() -> None:
    """Run the command; whatever ends it, the folders that it works in are removed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup's choice stands
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    console.run(cli, "mlxpatch")
