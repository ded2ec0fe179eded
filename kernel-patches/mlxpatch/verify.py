# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the gates of a series, one after the other, each with its own verdict."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxpatch import base as bases
from mlxpatch import cache
from mlxpatch import series as patches
from mlxpatch.gates import checkpatch, cover, export, files, frozen, stepbuild, strict, uapi
from mlxpatch.gates.core import Context, Result, Skipped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mlxpatch.gates.core import Verdict
    from mlxpatch.progress import Progress

FILES = "files"
# In this order; what is quick comes first.
_CHECKS: Mapping[str, Callable[[Context], Result]] = {
    "apply": strict.check,
    "export": export.check,
    "cover": cover.check,
    "frozen": frozen.check,
    "uapi": uapi.check,
    "checkpatch": checkpatch.check,
    "build": stepbuild.check,
}
NAMES = (FILES, *_CHECKS)
# These need no base.
_ALONE = ("frozen",)


@dataclass(frozen=True)
class Outcome:
    """The verdict of one gate; ``seconds`` is how long it took."""

    gate: str
    result: Result
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """``ok``, ``failed`` or ``skipped``."""
        return self.result.verdict


def run(
    spec: str | Path,
    given_base: str | None,
    gates: Sequence[str],
    progress: Progress,
    tell: Callable[[Outcome], None],
    headers: Path | None = None,
) -> list[Outcome]:
    """Run ``gates`` (all of them if empty) on the series ``spec``; ``tell`` gets each verdict.

    Raises:
        UsageError: ``spec`` is no series, or nothing says which base it is for.
        Error: the series is damaged, or its base cannot be had.
    """
    wanted = [name for name in NAMES if not gates or name in gates]
    outcomes: list[Outcome] = []

    def add(name: str, check: Callable[[], Result]) -> None:
        outcomes.append(_timed(name, check))
        tell(outcomes[-1])

    folder = patches.own_folder(spec)
    if FILES in wanted:
        add(FILES, lambda: files.check(folder) if folder else _foreign())
        wanted.remove(FILES)
    if not wanted:
        return outcomes
    if folder is not None and outcomes and outcomes[0].verdict == "failed":
        # A list that names what is not there: no series to look at.
        try:
            series = patches.load(spec, progress)
        except Error:
            for name in wanted:
                add(name, lambda: _skip("the series cannot be read"))
            return outcomes
    else:
        series = patches.load(spec, progress)
    with cache.scratch("verify") as work:
        if set(wanted) <= set(_ALONE):
            nothing = bases.Base(work, "nothing", exact=False)
            context = Context(series, folder, nothing, work, progress, headers)
            for name in wanted:
                add(name, lambda name=name: _CHECKS[name](context))  # type: ignore[misc]
            return outcomes
        with bases.opened(series, given_base, folder, progress) as base:
            context = Context(series, folder, base, work, progress, headers)
            for name in wanted:
                add(name, lambda name=name: _CHECKS[name](context))  # type: ignore[misc]
    return outcomes


def _timed(name: str, check: Callable[[], Result]) -> Outcome:
    begin = time.monotonic()
    try:
        result = check()
    except Skipped as reason:
        result = Result(str(reason), skipped=True)
    except Error as error:
        result = Result("", [str(error)], hint=error.hint)
    return Outcome(name, result, time.monotonic() - begin)


def _foreign() -> Result:
    return _skip("the series is no folder with a 'series' file")


def _skip(why: str) -> Result:
    return Result(why, skipped=True)
