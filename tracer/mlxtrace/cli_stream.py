# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``mlxtrace stream``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from genbindings.console import CONTEXT
from genbindings.errors import Error


@click.command("stream", context_settings=CONTEXT)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line (docs/migrate.md).")
def command(file: Path, as_json: bool) -> int:
    """List the records of the stream file FILE and check them.

    `mlxtrace migrate --to FILE` makes such files. Checked are the checksum, what the file says of
    its origin, the record headers, and each image against what its maker noted of it. A file that
    is cut off or damaged is listed as far as it can be read. Needs neither root nor a device.

    Exit status: 0 all holds, 1 something is wrong with it, 2 usage.
    """
    from mlxtrace.stream_report import render, to_json
    from mlxtrace.streamcheck import examine

    found = examine(file)
    if as_json:
        click.echo(json.dumps(to_json(found)))
    else:
        for line in render(found):
            click.echo(line)
    if found.problems:
        more = len(found.problems) - 1
        others = f" (and {more} more)" if more else ""
        raise Error(f"{file}: {found.problems[0]}{others}", found.hint)
    return 0
