# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxpatch new-revision``."""

from __future__ import annotations

from pathlib import Path

import click

from mlxpatch import revision
from mlxpatch.progress import Progress


@click.command("new-revision")
@click.argument("series", default=".", metavar="[SERIES]", type=click.Path(path_type=Path))
@click.option(
    "--base",
    metavar="DIR|TARBALL|PACKAGE",
    help="The sources that both revisions apply to. Default: the file BASE of the series.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
def new_revision(series: Path, base: str | None, quiet: bool) -> None:
    """Freeze the present state of a series, and draft what changed since the last revision.

    The patches, the cover letter, BASE and the allow list go to revisions/vN/ with SHA256SUMS,
    git range-diff's text beside it. The draft of "Changes since" is printed, for the cover letter.
    """
    revision.require_folder(series)
    progress = Progress("mlxpatch", quiet=quiet)
    frozen = revision.freeze(series, base, progress)
    progress.say(f"frozen: {frozen.folder}")
    if frozen.range_diff is not None:
        progress.say(f"range-diff: {frozen.range_diff}")
    click.echo(frozen.changes, nl=False)
