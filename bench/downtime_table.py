# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of `./run bench downtime`, from the summaries of `mlxtrace migrate`."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Summary = dict[str, Any]

PARTS = {
    "quiesce": "downtime_quiesce_ns",
    "stop": "downtime_stop_ns",
    "final images": "downtime_final_ns",
    "load end": "downtime_load_ns",
    "start": "downtime_start_ns",
}


def median_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the median, and half of the range from the least to the largest."""
    return statistics.median(values), (max(values) - min(values)) / 2


def _milliseconds(summaries: Sequence[Summary], key: str) -> tuple[float, float]:
    return median_and_spread([each[key] / 1e6 for each in summaries])


def _cell(value: tuple[float, float]) -> str:
    return f"{value[0]:.1f} ±{value[1]:.1f}"


def _final_bytes(summary: Summary) -> int:
    return sum(summary["image_bytes"][-summary["final_images"] :])


def rows(results: Mapping[str, Sequence[Summary]]) -> Iterator[str]:
    """Yield the table's lines: a title, and a line for each kernel.

    ``results`` has the summaries by kernel; the first kernel is what the others' ratios are to.
    """
    base = 0.0
    titles = "".join(f"{part:>14}" for part in PARTS)
    yield f"{'':<14}{'stop to run':>14}{'ratio':>7}{titles}{'final bytes':>13}"
    for kernel, summaries in results.items():
        total = _milliseconds(summaries, "downtime_ns")
        base = base or total[0]
        parts = "".join(f"{_cell(_milliseconds(summaries, key)):>14}" for key in PARTS.values())
        final = statistics.median([_final_bytes(each) for each in summaries])
        yield (
            f"{kernel:<14}{_cell(total):>14}{total[0] / base:6.2f}x{parts}{final / 2**20:9.2f} MiB"
        )


def most(results: Mapping[str, Sequence[Summary]]) -> Iterator[str]:
    """Yield where the most time went, a line for each kernel."""
    for kernel, summaries in results.items():
        medians = {part: _milliseconds(summaries, key)[0] for part, key in PARTS.items()}
        part = max(medians, key=lambda name: medians[name])
        total = _milliseconds(summaries, "downtime_ns")[0]
        yield f"{kernel}: {medians[part] / total:.0%} of it in {part}"
