# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress on stderr: a live line on a terminal; elsewhere a plain line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.status import Status


class Stage(Protocol):
    """A stage that runs."""

    def update(self, detail: str) -> None:
        """Show ``detail`` behind the stage's name; without a terminal, one every few seconds."""


# A log of a build of ten minutes gets sixty lines.
_PLAIN_INTERVAL_S = 10.0


class Progress:
    """Tells a person what is being waited for."""

    def __init__(self, name: str, *, quiet: bool = False) -> None:
        """``name`` begins each plain line; ``quiet`` leaves only what :meth:`note` says."""
        self._name = name
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def stage(self, text: str) -> Iterator[Stage]:
        """Show ``text`` while the block runs, and how long it took when that was a second."""
        if self._quiet:
            yield _Silent()
            return
        begin = time.monotonic()
        if self._console.is_terminal:
            with self._console.status(escape(text)) as status:
                yield _Live(text, status)
        else:
            self.note(f"{text} ...")
            yield _Plain(text, self.note)
        seconds = time.monotonic() - begin
        if seconds >= 1 and self._console.is_terminal:
            self.note(f"{text} ({seconds:.0f} s)")

    def say(self, text: str) -> None:
        """Print one line for people unless quiet."""
        if not self._quiet:
            self.note(text)

    def note(self, text: str) -> None:
        """Print one line for people, whether quiet or not."""
        sys.stdout.flush()
        self._console.print(f"{self._name}: {text}", markup=False)


class _Live:
    def __init__(self, text: str, status: Status) -> None:
        self._text = text
        self._status = status

    def update(self, detail: str) -> None:
        self._status.update(escape(f"{self._text}: {detail}"))


class _Plain:
    def __init__(self, text: str, note: Callable[[str], None]) -> None:
        self._text = text
        self._note = note
        self._last = time.monotonic()

    def update(self, detail: str) -> None:
        now = time.monotonic()
        if now - self._last >= _PLAIN_INTERVAL_S:
            self._last = now
            self._note(f"{self._text}: {detail}")


class _Silent:
    def update(self, detail: str) -> None:
        pass
