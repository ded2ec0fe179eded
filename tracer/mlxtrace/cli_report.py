# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``mlxtrace report``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from genbindings.console import CONTEXT
from genbindings.errors import UsageError
from mlxtrace import cli_display


@click.command("report", context_settings=CONTEXT)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines (docs/events.md).")
@click.option("-v", "--verbose", is_flag=True, help="Show every firmware command.")
@click.option("-s", "--summary-only", is_flag=True, help="No rows: quick on large recordings.")
@click.option(
    "--strict",
    is_flag=True,
    help="Exit 3 if anything was lost, not seen or contradictory.",
)
@click.option("-d", "--device", "devices", multiple=True, metavar="BDF", help="Only this VF.")
@click.option(
    "--min-ms",
    type=cli_display.MILLISECONDS,
    metavar="MS",
    help="Show only what took so long; states and failures always.",
)
@cli_display.options
def command(
    file: Path,
    target: Path | None,
    as_json: bool,
    verbose: bool,
    summary_only: bool,
    strict: bool,
    devices: tuple[str, ...],
    min_ms: float | None,
    pid: int | None,
    interval_s: float | None,
    failures_only: bool,
) -> int:
    """Print the recording FILE as the live trace printed it.

    Needs neither root nor the kernel that it was made on. A recording that is cut or damaged is
    printed up to there, with a warning.

    With the recording of the target's host as TARGET, and the source's as FILE, print the downtime
    of each migration from the one to the other, from end to end, in its parts, and how sure it is.
    Where one host has both VFs, it is one recording, given twice.
    """
    from mlxtrace.devices import parse_name
    from mlxtrace.output import STRICT_STATUS
    from mlxtrace.selection import EVERYTHING

    selection = cli_display.selection(
        devices=[parse_name(name) for name in devices],
        pid=pid,
        interval_s=interval_s,
        failures_only=failures_only,
        min_ms=min_ms,
    )
    if target is not None:
        if verbose or summary_only or selection != EVERYTHING:
            raise UsageError(
                "with TARGET there are no rows",
                "of the options only --json and --strict go with it",
            )
        from mlxtrace import join_report

        complete = join_report.report(file, target, sys.stdout, as_json=as_json)
    else:
        if summary_only and selection.chooses_rows:
            raise UsageError(
                "-s prints no rows that -p, -i, -x or --min-ms could choose from",
                "leave -s out, or choose VFs by -d",
            )
        from mlxtrace import output, report

        complete = report.report(
            file,
            sys.stdout,
            as_json=as_json,
            verbose=verbose,
            summary_only=summary_only,
            selection=selection,
            tell=output.say,
        )
    return STRICT_STATUS if strict and not complete else 0
