# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``mlxtrace report``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from genbindings.console import CONTEXT
from mlxtrace import cli_display


@click.command("report", context_settings=CONTEXT)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines (docs/events.md).")
@click.option("-v", "--verbose", is_flag=True, help="Show every firmware command.")
@click.option("--strict", is_flag=True, help="Exit 3 if anything was lost, missed or incomplete.")
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
    as_json: bool,
    verbose: bool,
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
    """
    from mlxtrace.devices import parse_name
    from mlxtrace.output import STRICT_STATUS
    from mlxtrace.report import report

    selection = cli_display.selection(
        devices=[parse_name(name) for name in devices],
        pid=pid,
        interval_s=interval_s,
        failures_only=failures_only,
        min_ms=min_ms,
    )
    complete = report(file, sys.stdout, as_json=as_json, verbose=verbose, selection=selection)
    return STRICT_STATUS if strict and not complete else 0
