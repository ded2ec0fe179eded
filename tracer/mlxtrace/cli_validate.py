# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``mlxtrace validate``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genbindings.console import CONTEXT, FiniteRange, drop_output
from genbindings.errors import Error, UsageError
from mlxtrace.cli_device import device_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlxtrace.checks import Check
    from mlxtrace.validate.results import Result, Summary
    from mlxtrace.validate.session import Options, Session


def _names(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> list[str]:
    """Return the words of ``C6,C15``; a usage error if there is none where some should be."""
    words = [word.strip() for value in values for word in value.split(",")]
    names = [word[:1].upper() + word[1:] for word in words if word]
    if values and not names:
        raise click.BadParameter("it names no check", context, parameter)
    return names


@click.command("validate", context_settings=CONTEXT)
@click.option("--source", callback=device_name, metavar="BDF", help="VF whose state is saved.")
@click.option(
    "--target", callback=device_name, metavar="BDF", help="VF that streams are loaded on."
)
@click.option(
    "--profile",
    metavar="NAME",
    help="What the driver is known not to do: carried, upstream-6.12, stock-6.1, mtty, generic, or "
    "a .toml file. Default: as driver and kernel say.",
)
@click.option(
    "--level",
    type=click.Choice(["must", "should", "driver"]),
    default="driver",
    show_default=True,
    help="Only rules that bind at least so much; driver has all.",
)
@click.option(
    "--only",
    multiple=True,
    callback=_names,
    metavar="ID,...",
    help="Only these checks; a statement (C31) stands for all its checks.",
)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Run everything N times; the worst result of a check counts.",
)
@click.option(
    "--cycles",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="How often a check that looks for leaks goes round.",
)
@click.option(
    "--check-timeout",
    type=FiniteRange(min=0, min_open=True),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="A check, or one round of it, that takes longer hangs: the run ends.",
)
@click.option(
    "--destructive",
    is_flag=True,
    help="Also take VFs from their driver, or away, for a moment: VFs that are made anew lose what "
    "their PF had set (MAC, VLAN, trust, devlink's migratable).",
)
@click.option(
    "--bind", is_flag=True, help="Bind the VFs to mlx5_vfio_pci for the run, and give them back."
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON lines to stdout instead of text.")
@click.option(
    "--junit",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write the results to FILE as JUnit XML.",
)
@click.option("--list", "listing", is_flag=True, help="List the checks; needs no device.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def command(
    source: str | None,
    target: str | None,
    profile: str | None,
    level: str,
    only: list[str],
    repeat: int,
    cycles: int,
    check_timeout: float,
    destructive: bool,
    bind: bool,
    as_json: bool,
    junit: Path | None,
    listing: bool,
    quiet: bool,
) -> int:
    """Check a VFIO migration driver against the rules of the migration uAPI.

    Both VFs are reset again and again: they must be bound to a VFIO driver and be used by nobody.
    They are given back as they were found. A rule that the driver is known not to keep is reported
    as a known deviation with its reason, never as a pass.

    Exit status: 0 no rule of level must failed, known deviations aside; 1 one did; 2 usage;
    3 it could not run to the end (a device was refused or lost, a check hung, Ctrl-C), nothing ran,
    or a report could not be written.
    """
    from mlxtrace.checks import Level, all_checks
    from mlxtrace.validate.plan import select

    checks = select(all_checks(), Level(level), only)
    if listing:
        _list(checks, profile, as_json)
        return 0
    if source is None or target is None:
        raise click.UsageError("Give --source BDF and --target BDF (or --list).")
    if source == target:
        raise click.UsageError(f"--source and --target are the same device, {source}.")

    from mlxtrace.validate.session import Options, Session

    options = Options(
        source=source,
        target=target,
        profile=profile,
        repeat=repeat,
        cycles=cycles,
        limit_s=check_timeout,
        destructive=destructive,
        bind=bind,
        quiet=quiet,
    )
    session = Session(options, checks, tell=_tell_written if as_json else lambda _: None)
    _begin_junit(junit)
    try:
        session.run()
    except Error as error:
        _write_junit(junit, [], {}, str(error))
        raise
    return _end(session, options, as_json, junit)


class UnwrittenError(Error):
    """Nobody can have what the run says: it is ended as if it could not go on."""

    status = 3


@contextlib.contextmanager
def _written() -> Iterator[None]:
    """Turn a failure to write to stdout (a full disk, a closed pipe) into UnwrittenError.

    Other commands exit with 1 then, which here says that a rule was broken.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        drop_output()
        raise UnwrittenError(f"cannot write the output: {error.strerror}") from None


def _tell(line: dict[str, Any]) -> None:
    click.echo(json.dumps(line))


def _tell_written(line: dict[str, Any]) -> None:
    with _written():
        _tell(line)


def _begin_junit(path: Path | None) -> None:
    """Raise UsageError now rather than after the run, if it cannot be written."""
    if path is None:
        return
    from mlxtrace.validate.junit import begin

    try:
        begin(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _write_junit(
    path: Path | None, results: list[Result], properties: dict[str, str], stopped: str
) -> str:
    """Write the XML, if it is wanted, and return why that failed, or nothing."""
    if path is None:
        return ""
    from mlxtrace.validate.junit import write

    try:
        write(path, results, {**properties, "stopped": stopped}, stopped)
    except OSError as error:
        return f"cannot write {path}: {error.strerror}"
    return ""


def _end(session: Session, options: Options, as_json: bool, junit: Path | None) -> int:
    """Write the reports and return the exit status."""
    summary = session.summary
    unwritten = _write_junit(junit, session.results, vars(session.heading), summary.stopped)
    summary = dataclasses.replace(summary, unwritten=unwritten)
    try:
        _print(session, summary, options, as_json)
    except UnwrittenError as error:
        told = "; ".join(filter(None, [summary.unwritten, str(error)]))
        summary = dataclasses.replace(summary, unwritten=told)
    if summary.stopped:
        click.echo(f"mlxtrace: error: not run to the end: {summary.stopped}", err=True)
        if session.hint:
            click.echo(f"  hint: {session.hint}", err=True)
    if summary.unwritten:
        click.echo(f"mlxtrace: error: {summary.unwritten}", err=True)
    return summary.exit_status


def _print(session: Session, summary: Summary, options: Options, as_json: bool) -> None:
    if as_json:
        _tell_written(summary.as_dict())
        return
    # Only here: in an emulated guest rich takes seconds to import.
    from mlxtrace.validate.report import show

    with _written():
        show(session.heading, session.results, summary, options.again)


def _list(checks: list[Check], profile_name: str | None, as_json: bool) -> None:
    """Print ``checks``, with what a profile says of them if one is named."""
    from mlxtrace.checks import all_checks
    from mlxtrace.validate.plan import takes_away
    from mlxtrace.validate.profiles import load

    every = [check.id for check in all_checks()]
    profile = load(profile_name, every) if profile_name else None
    for check in checks:
        known = profile.of(check) if profile else None
        notes = [
            *(
                ["takes the VF from its driver, or away: --destructive"]
                if takes_away(check)
                else []
            ),
            *(["may hang the kernel: runs last"] if check.may_hang else []),
            *([f"{known.kind}: {known.reason}"] if known else []),
        ]
        if as_json:
            line = {"event": "listed", "id": check.id, "level": check.level, "rule": check.rule}
            _tell({**line, "needs": _flags(check), "notes": notes})
            continue
        click.echo(f"{check.id:<14} {check.level:<6} {check.rule}")
        for note in notes:
            click.echo(f"{'':<21} [{note}]")


def _flags(check: Check) -> list[str]:
    from mlxtrace.vfio import MigrationFlags

    return [flag.name or "" for flag in MigrationFlags if flag in check.needs]
