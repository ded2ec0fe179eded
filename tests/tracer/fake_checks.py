# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks without devices, for what runs and reports checks."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

from genbindings.errors import Error
from mlxtrace.checks import Check, Context, Level
from mlxtrace.checks.core import NoAnswerError, NotOfferedError
from mlxtrace.validate.engine import Engine, Run
from mlxtrace.validate.plan import plan
from mlxtrace.validate.profiles import Profile, parse
from mlxtrace.validate.worker import TellingContext

from .fake_device import ALL_FLAGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlxtrace.validate.results import Verdict
    from mlxtrace.vfio import MigrationFlags


class NoDevices(TellingContext):
    """A context whose devices are never opened."""

    def __init__(self, *names: str, flags: MigrationFlags = ALL_FLAGS, **more: Any) -> None:
        super().__init__(*(names or ("source", "target")), **more)
        self._flags = flags


def make(identifier: str, function: Callable[[Context], None], **more: Any) -> Check:
    """Return a check; ``level`` and the rest are those of :class:`Check`."""
    level = more.pop("level", Level.MUST)
    return Check(identifier, level, f"Rule {identifier} holds.", function, **more)


def holds(context: Context) -> None:
    """Pass."""
    context.expect(True, "asked for RUNNING", "0, then RUNNING", "RUNNING")


def fails(context: Context) -> None:
    """Fail at its second step."""
    context.note("to PRE_COPY", "a data file")
    context.expect(False, "reading on", "ENOMSG", "0 bytes")


def lacks(_: Context) -> None:
    """Find that the rule does not apply."""
    raise NotOfferedError("no clock")


def hangs(context: Context) -> None:
    """Take for ever."""
    context.note("to STOP", "no answer yet")
    time.sleep(60)


def is_hung(context: Context) -> None:
    """Find that the kernel hangs."""
    context.note("to STOP_COPY")
    raise NoAnswerError("STOP_COPY to PRE_COPY: no answer within 2 s; the kernel hangs in it")


def is_lost(_: Context) -> None:
    """Find that the device is gone."""
    raise Error("0000:01:00.1: there is no such device", "look for it")


def is_wrong(_: Context) -> None:
    """Have a mistake."""
    raise KeyError("of the author's")


def dies(context: Context) -> None:
    """End the process, as an oops would."""
    context.note("to ERROR")
    os.kill(os.getpid(), signal.SIGKILL)


def profile(text: str = "", checks: Iterable[str] = ()) -> Profile:
    """Return a profile in which ``text`` says what is known."""
    return parse(f'summary = "A test\'s."\n{text}', "tests", "tests.toml", checks)


def run(
    *checks: Check,
    known: str = "",
    limit_s: float = 60,
    repeat: int = 1,
    **more: Any,
) -> Run:
    """Run ``checks``, with what a profile's text says of them."""
    prof = profile(known, [check.id for check in checks])
    engine = Engine(NoDevices(), prof, limit_s=limit_s, **more)
    return engine.run(plan(checks, prof, repeat=repeat))


def verdicts(done: Run) -> dict[str, Verdict]:
    """Return what came of each check."""
    return {each.check.id: each.verdict for each in done.results}
