# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress of a migration on a terminal, and cancelling it with a signal."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING

from mlxtrace.migrate_model import MigrationError
from mlxtrace.migrate_report import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def cancelled_by_signals() -> Iterator[Callable[[], None]]:
    """Yield a function that raises when Ctrl-C, SIGTERM or SIGHUP came since.

    The handler itself only takes note: raised anywhere else, an exception could lose a data file
    or leave a device half way between two states.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's interface
        received.append(number)

    def check() -> None:
        if received:
            raise MigrationError(f"cancelled by {signal.Signals(received[0]).name}")

    # nohup, for one, starts a command with a signal ignored: it stays so.
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = [(number, signal.signal(number, note)) for number in heeded]
    try:
        yield check
    finally:
        for number, handler in previous:
            signal.signal(number, handler)


@contextlib.contextmanager
def shown_on_terminal() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows a bar for the current round on stderr, if that is a terminal.

    It takes what is read, the bytes read in this round and the bytes announced for it
    (0 if not known: the bar then only shows that something moves).
    """
    if not sys.stderr.isatty():
        yield lambda _kind, _done, _announced: None
        return
    # Only here: in an emulated guest rich takes seconds to import.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        TextColumn("{task.fields[bytes]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("waiting", total=None, bytes="")

        def tell(what: str, done_bytes: int, announced_bytes: int) -> None:
            of = f" of {format_bytes(announced_bytes)}" if announced_bytes else ""
            progress.update(
                task,
                description=what,
                completed=done_bytes,
                # More may come than was announced: the device changes meanwhile.
                total=max(announced_bytes, done_bytes) if announced_bytes else None,
                bytes=f"{format_bytes(done_bytes)}{of}",
            )

        yield tell
