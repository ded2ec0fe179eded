# SPDX-License-Identifier: GPL-2.0-or-later
"""The report for people: a table for each section, then every failure in detail."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlxtrace.validate.plan import section
from mlxtrace.validate.results import Result, Verdict, by_check, worst

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mlxtrace.checks import Check
    from mlxtrace.validate.results import Summary
    from mlxtrace.validate.session import Heading

WIDTH = 100
_WANTS = "; the rule wants "
_STEPS = 12
"""How many of the last steps of a failed check are shown; ``--json`` has them all."""
_COLOURS = {
    Verdict.FAILED: "bold red",
    Verdict.KNOWN_DEVIATION: "yellow",
    Verdict.PASSED: "green",
    Verdict.NOT_OFFERED: "dim",
    Verdict.NOT_RUN: "dim",
}


class _Paper(Console):
    """Leaves it to the command what a reader that went away means: rich would exit with 1."""

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError, which is being handled."""
        raise


def show(
    heading: Heading,
    results: Sequence[Result],
    summary: Summary,
    repeat_command: Callable[[Check], str],
    console: Console | None = None,
) -> None:
    """Print the report. ``repeat_command`` returns the command that runs one check again."""
    console = console or _Paper(highlight=False)
    if not console.is_terminal or console.width > WIDTH:
        console.width = WIDTH
    _head(console, heading)
    checks = by_check(results)
    sections: dict[str, list[tuple[Check, list[Result]]]] = {}
    for each in checks:
        sections.setdefault(section(each[0]), []).append(each)
    for title, members in sections.items():
        _table(console, title, members)
    _failures(console, checks, repeat_command)
    _known(console, checks)
    _left_out(console, "Not offered", Verdict.NOT_OFFERED, checks)
    _left_out(console, "Not run", Verdict.NOT_RUN, checks)
    _end(console, heading, summary)


def _head(console: Console, heading: Heading) -> None:
    _print(console, f"source   {heading.source}, target {heading.target}")
    _print(console, f"driver   {heading.driver} on Linux {heading.kernel}; offers {heading.flags}")
    _field(console, "profile", f"{heading.profile}: {heading.profile_reason}", 9, 0)


def _table(console: Console, title: str, members: list[tuple[Check, list[Result]]]) -> None:
    verdicts = [worst(results).verdict for _, results in members]
    counts = [(verdict, verdicts.count(verdict)) for verdict in Verdict]
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts if count)
    table = Table(
        title=Text(f"{title}: {told}", style="bold"),
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
        show_edge=False,
        expand=True,
    )
    table.add_column("check", no_wrap=True, width=14)
    table.add_column("level", no_wrap=True, width=6)
    table.add_column("result", no_wrap=True, width=15)
    table.add_column("rule", no_wrap=True, overflow="ellipsis", ratio=1)
    for check, results in members:
        verdict = worst(results).verdict
        told = _often(results) or verdict
        table.add_row(check.id, check.level, Text(told, style=_COLOURS[verdict]), Text(check.rule))
    console.print()
    console.print(table)


def _often(results: list[Result]) -> str:
    """Return ``failed 3 of 10`` where repetitions differ, else nothing."""
    verdict = worst(results).verdict
    count = sum(each.verdict is verdict for each in results)
    short = {Verdict.KNOWN_DEVIATION: "known"}.get(verdict, verdict)
    return f"{short} {count} of {len(results)}" if count < len(results) else ""


def _failures(
    console: Console,
    checks: list[tuple[Check, list[Result]]],
    repeat_command: Callable[[Check], str],
) -> None:
    failed = [each for each in checks if worst(each[1]).verdict is Verdict.FAILED]
    for check, results in failed:
        result = worst(results)
        often = _often(results)
        told = f" ({often}; the first of them is shown)" if often else ""
        console.print()
        console.print(Text(f"{check.id} failed: a rule of level {check.level}{told}", style="bold"))
        _field(console, "rule", check.rule)
        _deviation(console, result)
        earlier = result.steps[:-1]
        for number, step in enumerate(earlier[-_STEPS:]):
            _field(console, "before" if number == 0 else "", str(step))
        if len(earlier) > _STEPS:
            _field(console, "", f"({len(earlier) - _STEPS} steps before these: see --json)")
        _field(console, "repeat", repeat_command(check), wrap=False)


def _deviation(console: Console, result: Result) -> None:
    """Print at which step ``result`` failed, what was wanted, and what the kernel answered."""
    head, _, wanted = result.reason.rpartition(_WANTS)
    last = result.steps[-1] if result.steps else None
    if last and head.startswith(f"{last.did}: "):
        _field(console, "step", last.did)
        if wanted:
            _field(console, "wanted", wanted)
        _field(console, "answer", head.removeprefix(f"{last.did}: "))
        return
    if last:
        _field(console, "step", str(last))
    if head:
        _field(console, "wanted", wanted)
    _field(console, "answer", head or wanted)


def _known(console: Console, checks: list[tuple[Check, list[Result]]]) -> None:
    deviating = [each for each in checks if worst(each[1]).verdict is Verdict.KNOWN_DEVIATION]
    if deviating:
        _title(console, "Known deviations")
    for check, results in deviating:
        result = worst(results)
        assert result.known
        _print(console, f"  {check.id} ({check.level}) {_often(results)}".rstrip())
        _field(console, "rule", check.rule)
        _field(console, "known", result.known.reason)
        _field(console, "seen", result.reason)
    odd = [each for each in checks if (result := worst(each[1])).remark and result.known]
    if odd:
        _title(console, "Known deviations that did not show")
    for check, results in odd:
        result = worst(results)
        assert result.known
        _field(console, check.id, f"{result.remark} ({result.known.reason})", 16, 2)


def _left_out(
    console: Console, title: str, verdict: Verdict, checks: list[tuple[Check, list[Result]]]
) -> None:
    by_reason: dict[str, list[str]] = {}
    for check, results in checks:
        result = worst(results)
        if result.verdict is verdict:
            reason = result.known.reason if result.known else ""
            known = f"; known: {reason}" if reason not in ("", result.reason) else ""
            # Only of what is not offered: something that was there may be lost.
            remark = f"; {result.remark}" if result.remark else ""
            by_reason.setdefault(f"{result.reason}{known}{remark}", []).append(check.id)
    if by_reason:
        _title(console, title)
    for reason, names in by_reason.items():
        _field(console, "", reason, 2)
        _field(console, "", " ".join(names), 4)


def _end(console: Console, heading: Heading, summary: Summary) -> None:
    console.print()
    if summary.stopped:
        _field(console, "stopped", summary.stopped, 9, 0)
    _print(console, f"exit status {summary.exit_status} with the profile {heading.profile}")
    _print(console, str(summary))


def _title(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, style="bold"))


def _field(
    console: Console, name: str, text: str, indent: int = 10, before: int = 2, *, wrap: bool = True
) -> None:
    """Print ``text`` beside ``name``, in lines of the console's width."""
    start = f"{' ' * before}{name}".ljust(indent)
    if len(start) > indent or start[-1:] not in ("", " "):
        start += " "
    lines: Iterable[str] = [start + text]
    if wrap:
        lines = textwrap.wrap(
            text,
            console.width,
            initial_indent=start,
            subsequent_indent=" " * indent,
            break_on_hyphens=False,
        )
    for line in lines:
        _print(console, line)


def _print(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True)
