# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``mlxlab matrix``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genbindings.console import CONTEXT, FiniteRange
from genbindings.errors import UsageError
from mlxlab import accel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlxlab.matrix.comparison import Comparison
    from mlxlab.matrix.runner import Plan

_FILE_WIDTH = 99
_RUNNING = {
    "repeat": "--repeat",
    "destructive": "--destructive",
    "profile": "--profile",
    "again": "--continue",
    "timeout": "--timeout",
    "fw": "--fw",
    "allow": "--allow",
    "accelerator": "--accel",
}
"""The options that mean nothing to a result, by their names here."""


@click.command("matrix", context_settings=CONTEXT)
@click.option(
    "--kernel", "kernels", multiple=True, metavar="NAME", help="See mlxlab kernels. Repeatable."
)
@click.option(
    "--series",
    multiple=True,
    metavar="[NAME=]SERIES",
    help="A folder, mbox, tarball or git range, built for Debian's 6.1. Repeatable.",
)
@click.option(
    "--result",
    "results",
    multiple=True,
    metavar="[NAME=]FILE",
    help="What mlxtrace validate --json printed on a test host. Repeatable.",
)
@click.option("--level", metavar="LEVEL", help="For validate: only the rules of this level.")
@click.option(
    "--only", multiple=True, metavar="ID,...", help="For validate: only these rules, C8,C15 say."
)
@click.option(
    "--repeat", type=click.IntRange(min=1), metavar="N", help="For validate: everything N times."
)
@click.option("--destructive", is_flag=True, help="For validate: also what removes VFs.")
@click.option("--profile", metavar="NAME", help="For validate: what the driver is known to do.")
@click.option("--json", "form", flag_value="json", help="Print JSON.")
@click.option("--markdown", "form", flag_value="md", help="Print Markdown, for a mail.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write it to FILE instead.",
)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for all that is kept of every boot. Default: a new one in the cache.",
)
@click.option(
    "--continue",
    "again",
    is_flag=True,
    help="Run only what is not in --out yet, complete and without a failure.",
)
@click.option(
    "--timeout",
    type=FiniteRange(min=1),
    metavar="SECONDS",
    help="End a column after this time in its VM; the others are run all the same.",
)
@click.option("--fw", multiple=True, metavar="KEY=VALUE", help="As in mlxlab run.")
@click.option(
    "--allow", multiple=True, metavar="ASSERTION", help="This firmware assertion may fire."
)
@click.option(
    "--accel",
    "accelerator",
    type=click.Choice(accel.CHOICES),
    default="auto",
    show_default=True,
    help="As in mlxlab run.",
)
@click.option("--offline", is_flag=True, help="Download nothing: use what is cached.")
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
def command(
    kernels: tuple[str, ...],
    series: tuple[str, ...],
    results: tuple[str, ...],
    form: str | None,
    output: Path | None,
    quiet: bool,
    **options: Any,
) -> int:
    """Run mlxtrace validate on kernels and revisions of a series, and compare them rule by rule.

    Each is booted once; the columns are the kernels, then the series, then the results that were
    had elsewhere, as given. A rule that held in the column before and fails now is marked with '!',
    the other way round with '+'.

    Exit status: 0 if no must failed but for known deviations, and no kernel complained; 1 if one
    did; 2 usage; 3 if a column could not be run to its end (the others are shown); 130 Ctrl-C.
    """
    from mlxlab.matrix import columns, comparison, runner
    from mlxpatch.progress import Progress

    if not kernels and not series and not results:
        raise UsageError(
            "there is nothing to compare", "give --kernel NAME, --series SERIES or --result FILE"
        )
    if not kernels and not series:
        _require_for_results(options)
    parent = output.absolute().parent if output else Path()
    if not parent.is_dir() or (output and not os.access(parent, os.W_OK)):
        raise UsageError(f"--output {output}: {parent} is no folder that can be written")
    progress = Progress("mlxlab", quiet=quiet)
    chosen = columns.choose(kernels, series, progress, results)
    plan = _plan(quiet=quiet, **options)
    ran = runner.run(chosen, plan)
    found = comparison.compare(ran)
    _deliver(found, plan, form, output)
    progress.say(f"all of it is in {plan.folder}")
    if found.status and not plan.again and (kernels or series):
        progress.say(f"to run only what failed: the same with --out {plan.folder} --continue")
    return 130 if runner.was_interrupted(ran) else found.status


def _require_for_results(options: dict[str, Any]) -> None:
    """Raise UsageError for an option that says how to run something, where nothing is run."""
    for name, option in _RUNNING.items():
        if options[name] not in (None, False, (), "auto"):
            raise UsageError(
                f"{option} says how to run validate, and each --result was run already",
                "leave it out, or give --kernel or --series; --only and --level choose rules",
            )


def _plan(
    level: str | None,
    only: tuple[str, ...],
    repeat: int | None,
    destructive: bool,
    profile: str | None,
    out: Path | None,
    again: bool,
    timeout: float | None,
    fw: tuple[str, ...],
    allow: tuple[str, ...],
    accelerator: str,
    offline: bool,
    quiet: bool,
) -> Plan:
    from mlxlab import firmware
    from mlxlab.matrix import runner

    if again and out is None:
        raise UsageError("--continue needs --out: the folder of the matrix to go on with")
    words = [part for ids in only for part in ("--only", ids)]
    for option, value in (("--level", level), ("--repeat", repeat), ("--profile", profile)):
        words += [option, str(value)] if value is not None else []
    words += ["--destructive"] if destructive else []
    settings = [firmware.setting(word) for word in fw]
    folder = out.absolute() if out else runner.new_folder()
    return runner.Plan(words, folder, again, timeout, settings, allow, accelerator, offline, quiet)


def _deliver(found: Comparison, plan: Plan, form: str | None, output: Path | None) -> None:
    """Print the matrix, or write it to ``output``; the folder gets it in every form."""
    from rich.console import Console

    from mlxlab.matrix import show
    from mlxpatch import cache

    subject = _subject(plan.options)
    again = _without_only(plan.options)
    documents = _documents(found, subject, again)
    with cache.writing(plan.folder):
        for suffix, text in documents.items():
            (plan.folder / f"matrix.{suffix}").write_text(text)
    if output is not None:
        with cache.writing(output):
            output.write_text(documents[form or "txt"])
    elif form is not None:
        click.echo(documents[form], nl=False)
    else:
        show.show(found, subject, again, Console())


def _documents(found: Comparison, subject: str, again: Sequence[str]) -> dict[str, str]:
    import io

    from rich.console import Console

    from mlxlab.matrix import markdown, show

    paper = io.StringIO()
    show.show(found, subject, again, Console(file=paper, width=_FILE_WIDTH))
    return {
        "json": json.dumps(found.document(), indent=1) + "\n",
        "md": markdown.render(found, subject),
        "txt": "".join(f"{line.rstrip()}\n" for line in paper.getvalue().splitlines()),
    }


def _subject(options: Sequence[str]) -> str:
    return " ".join(["mlxtrace validate", *options]) + ", rule by rule"


def _without_only(options: Sequence[str]) -> list[str]:
    """Return validate's options without those that choose rules: failed ones are chosen anew."""
    from mlxlab.matrix.wanted import CHOOSING

    kept: list[str] = []
    words = iter(options)
    for word in words:
        if word in CHOOSING:
            next(words)
        else:
            kept.append(word)
    return kept
