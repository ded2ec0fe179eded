# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of `./run bench tracecost`, from what the guest measured."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Run = dict[str, Any]


def added_ns(run: Run) -> float:
    """Return what a tracer added to a call: beyond the mean of the calls before and after it."""
    alone = statistics.median(run["before_ns"]), statistics.median(run["after_ns"])
    return statistics.median(run["traced_ns"]) - statistics.mean(alone)


def ratios(costs: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return the ratio to ``base`` round by round, since rounds differ more than tracers do."""
    return [cost / other for cost, other in zip(costs, base, strict=True) if other > 0]


def median_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the median, and half of the range from the least to the largest."""
    return statistics.median(values), (max(values) - min(values)) / 2


def _cell(values: Sequence[float], digits: int, unit: str = "") -> str:
    if not values:
        return "-"
    median, spread = median_and_spread(values)
    return f"{median:.{digits}f}{unit} ±{spread:.{digits}f}"


def by_tracer(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of each tracer, in the order of the rounds."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run["tracer"], []).append(run)
    return found


def counted(run: Run) -> str:
    """Say how many of the calls a tracer saw, and what it knows it lost."""
    seen = "not asked" if run["calls"] is None else f"{run['calls'] - run['wrote']:+d}"
    lost = "" if run["lost"] is None else f", {run['lost']} lost"
    return "all" + lost if seen == "+0" else seen + lost


def costs(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the lines on what each tracer adds to a call; ratios are to the first one."""
    found = by_tracer(runs)
    alone = [value for run in runs for value in (*run["before_ns"], *run["after_ns"])]
    first = [added_ns(run) for run in next(iter(found.values()))]
    yield f"{'':<26}{'added to a call, ns':>22}{'ratio':>16}   calls seen"
    yield f"{'alone (a call takes)':<26}{_cell(alone, 0):>22}"
    for tracer, its in found.items():
        added = [added_ns(run) for run in its]
        seen = ", ".join(dict.fromkeys(counted(run) for run in its))
        ratio = _cell(ratios(added, first), 2, "x")
        yield f"{tracer:<26}{_cell(added, 0):>22}{ratio:>16}   {seen}"


def startups(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the lines on how long each tracer takes to be attached; ratios are to the first one."""
    found = by_tracer(runs)
    first = [run["startup_s"] for run in next(iter(found.values()))]
    yield f"{'':<26}{'seconds to attached':>22}{'ratio':>16}"
    for tracer, its in found.items():
        seconds = [run["startup_s"] for run in its]
        ratio = _cell(ratios(seconds, first), 2, "x")
        yield f"{tracer:<26}{_cell(seconds, 1):>22}{ratio:>16}"
