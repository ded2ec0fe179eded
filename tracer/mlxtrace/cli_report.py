# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``mlxtrace report``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from genbindings.console import CONTEXT


@click.command("report", context_settings=CONTEXT)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines (docs/events.md).")
@click.option("-v", "--verbose", is_flag=True, help="Show every firmware command.")
@click.option("--strict", is_flag=True, help="Exit 3 if anything was lost, missed or incomplete.")
def command(file: Path, as_json: bool, verbose: bool, strict: bool) -> int:
    """Print the recording FILE as the live trace printed it.

    Needs neither root nor the kernel that it was made on. A recording that is cut or damaged is
    printed up to there, with a warning.
    """
    from mlxtrace.output import STRICT_STATUS
    from mlxtrace.report import report

    complete = report(file, sys.stdout, as_json=as_json, verbose=verbose)
    return STRICT_STATUS if strict and not complete else 0
