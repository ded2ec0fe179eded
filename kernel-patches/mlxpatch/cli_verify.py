# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxpatch verify``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from genbindings.errors import UsageError
from mlxpatch import verify as verifier
from mlxpatch.progress import Progress

if TYPE_CHECKING:
    from mlxpatch.verify import Outcome


@click.command()
@click.argument("series", default=".", metavar="[SERIES]")
@click.option(
    "--base",
    metavar="DIR|TARBALL|PACKAGE",
    help="What to apply it to. Default: the file BASE of the series, or its base-commit.",
)
@click.option(
    "--gate",
    "gates",
    multiple=True,
    metavar="NAME",
    type=click.Choice(verifier.NAMES),
    help=f"Run only this gate; can be repeated. Gates: {', '.join(verifier.NAMES)}.",
)
@click.option(
    "--headers",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Kernel headers to build against. Default: those of the base's kernel series.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
def verify(
    series: str,
    base: str | None,
    gates: tuple[str, ...],
    headers: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Run the gates of a patch series: does it apply, does every step build, is it tidy.

    SERIES is a folder with a file 'series', an mbox (b4 am's too), a tarball of patches, a single
    patch, or a git range (REPO:RANGE). Exit status: 0 all gates passed, 1 one failed, 2 usage.

    Building runs the Makefiles of the series: for patches of strangers, look at them first, and
    leave that gate out until then.
    """
    progress = Progress("mlxpatch", quiet=quiet or as_json)

    outcomes: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if not as_json:
            click.echo(_line(outcome))

    try:
        verifier.run(series, base, gates, progress, tell, headers)
    except UsageError as error:
        if base is not None or not error.hint.startswith("give --base") or not _asked():
            raise
        base = click.prompt(f"{error}\nBase (folder, tarball or package)", err=True)
        done = {outcome.gate for outcome in outcomes}
        left = [name for name in gates or verifier.NAMES if name not in done]
        verifier.run(series, base, left, progress, tell, headers)
    failed = [outcome for outcome in outcomes if outcome.verdict == "failed"]
    if as_json:
        click.echo(
            json.dumps({"series": series, "gates": [_json(one) for one in outcomes]}, indent=1)
        )
    return 1 if failed else 0


def _asked() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _line(outcome: Outcome) -> str:
    result = outcome.result
    status = 1 if outcome.verdict == "failed" else 0
    count = len(result.problems)
    summary = result.summary if not count else f"{count} {'finding' if count == 1 else 'findings'}"
    lines = [f"{outcome.gate:<11}{outcome.verdict:<8}{status} {outcome.seconds:6.1f} s  {summary}"]
    lines += [f"  {problem}" for problem in result.problems]
    lines += [f"  note: {note}" for note in result.notes]
    if result.hint:
        lines.append("  hint: " + result.hint.replace("\n", "\n    "))
    return "\n".join(lines)


def _json(outcome: Outcome) -> dict[str, object]:
    values = asdict(outcome.result)
    del values["skipped"]
    return {
        "gate": outcome.gate,
        "verdict": outcome.verdict,
        "exit": 1 if outcome.verdict == "failed" else 0,
        "seconds": round(outcome.seconds, 3),
        **values,
    }
