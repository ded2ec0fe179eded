# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress of a run on stderr: a bar on a terminal, else a line for each check."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Protocol

import click

from mlxtrace.validate.results import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from mlxtrace.validate.plan import Planned
    from mlxtrace.validate.results import Result

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Progress(Protocol):
    """Is told how a run goes."""

    def waiting(self, what: str) -> None:
        """Show what is waited for."""

    def began(self, planned: Planned) -> None:
        """Show that a check runs."""

    def came(self, result: Result) -> None:
        """Show what came of one."""


class _Silent:
    def waiting(self, what: str) -> None:
        """Show nothing."""

    def began(self, planned: Planned) -> None:
        """Show nothing."""

    def came(self, result: Result) -> None:
        """Show nothing."""


class _Lines(_Silent):
    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def waiting(self, what: str) -> None:
        click.echo(what, err=True)

    def came(self, result: Result) -> None:
        if result.verdict is Verdict.NOT_RUN:
            return
        self._done += 1
        click.echo(
            f"{self._done:3}/{self._total} {result.check.id:<16} {result.verdict:<15} "
            f"{result.duration_ms / 1000:.1f} s",
            err=True,
        )


@contextlib.contextmanager
def shown(total: int, quiet: bool) -> Iterator[Progress]:
    """Yield what shows the progress of ``total`` checks on stderr, nothing if ``quiet``."""
    if quiet:
        yield _Silent()
        return
    if not sys.stderr.isatty():
        yield _Lines(total)
        return
    # Only here: in an emulated guest rich takes seconds to import.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        BarColumn(30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    # Without a thread that refreshes it: the process forks.
    with Bars(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bars:
        task = bars.add_task("", total=total)

        class _Bar:
            def waiting(self, what: str) -> None:
                bars.print(what)

            def began(self, planned: Planned) -> None:
                bars.update(task, description=planned.check.id, refresh=True)

            def came(self, result: Result) -> None:
                if result.verdict is not Verdict.NOT_RUN:
                    bars.update(task, advance=1, refresh=True)
                if result.verdict is Verdict.FAILED:
                    bars.print(f"{result.check.id} failed ({result.check.level})")

        yield _Bar()


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], str]]:
    """Yield a function that says whether Ctrl-C, SIGTERM or SIGHUP came since, and which."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's interface
        received.append(number)

    def interrupted() -> str:
        return f"interrupted by {signal.Signals(received[0]).name}" if received else ""

    # nohup, for one, starts a command with a signal ignored: it stays so.
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = [(number, signal.signal(number, note)) for number in heeded]
    try:
        yield interrupted
    finally:
        for number, handler in previous:
            signal.signal(number, handler)
