# SPDX-License-Identifier: GPL-2.0-or-later
"""The ``mlxpatch`` command."""

from __future__ import annotations

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
    """Run the command."""
    console.run(cli, "mlxpatch")
