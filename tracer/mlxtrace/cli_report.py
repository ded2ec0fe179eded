# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``mlxtrace report``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from genbindings.console import CONTEXT


@click.command("report", context_settings=CONTEXT)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines (docs/events.md).")
@click.option("-v", "--verbose", is_flag=True, help="Show every firmware command.")
@click.option("-s", "--summary-only", is_flag=True, help="No rows: quick on large recordings.")
@click.option(
    "--strict",
    is_flag=True,
    help="Exit 3 if anything was lost, missed, incomplete or contradictory.",
)
def command(
    file: Path,
    target: Path | None,
    as_json: bool,
    verbose: bool,
    summary_only: bool,
    strict: bool,
) -> int:
    """Print the recording FILE as the live trace printed it.

    Needs neither root nor the kernel that it was made on. A recording that is cut or damaged is
    printed up to there, with a warning.

    With the recording of the target's host as TARGET, and the source's as FILE, print the downtime
    of each migration from the one to the other, from end to end, in its parts, and how sure it is.
    Where one host has both VFs, it is one recording, given twice.
    """
    from mlxtrace import join_report, report
    from mlxtrace.output import STRICT_STATUS

    if target is not None:
        if verbose or summary_only:
            raise click.UsageError("-v and -s are for one recording.")
        complete = join_report.report(file, target, sys.stdout, as_json=as_json)
    else:
        complete = report.report(
            file, sys.stdout, as_json=as_json, verbose=verbose, summary_only=summary_only
        )
    return STRICT_STATUS if strict and not complete else 0
