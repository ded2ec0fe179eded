# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``mlxtrace doctor``."""

from __future__ import annotations

import sys

import click

from genbindings.console import CONTEXT


@click.command("doctor", context_settings=CONTEXT)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines: findings, then a verdict.")
@click.option(
    "--no-open", is_flag=True, help="Open no VF: their migration flags stay unknown then."
)
@click.option(
    "--driver",
    type=click.Choice(["mlx5", "any"]),
    default="mlx5",
    show_default=True,
    help="Examine what a trace of mlx5 VFs needs, or one of any driver (precopy --driver any).",
)
def command(as_json: bool, no_open: bool, driver: str) -> int:
    """Examine everything that tracing needs; say what is missing and what to do about it.

    Each line has a verdict: ok, degraded (a trace shows less or costs more) or missing (no trace
    is possible). Nothing is attached. VFs that nobody uses are opened for a moment, which resets
    them, to ask what they offer; one that is in use is left alone.

    Exit status: 0 if a trace would work, 1 if not, 2 usage.
    """
    from mlxtrace import doctor

    works = doctor.run(sys.stdout, as_json=as_json, open_vfs=not no_open, generic=driver == "any")
    return 0 if works else 1
