# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of `./run bench tracecost`, from canned measurements."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

TABLE = Path(__file__).resolve().parents[2] / "bench/tracecost_table.py"


@pytest.fixture(scope="module")
def table() -> Any:
    """The module: bench/ is no package."""
    spec = importlib.util.spec_from_file_location("tracecost_table", TABLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(tracer: str, before: float, traced: float, after: float, **more: Any) -> dict[str, Any]:
    """Return what the guest says of a tracer in a round; of repeats one is an outlier."""
    return {
        "tracer": tracer,
        "startup_s": 2.0,
        "before_ns": [before, before, 9e9],
        "traced_ns": [traced, 1.0, 9e9],
        "after_ns": [after, 1.0, 9e9],
        "wrote": 1000,
        "calls": 1000,
        "lost": 0,
        **more,
    }


def test_what_is_added_is_beyond_the_calls_on_both_sides(table: Any) -> None:
    assert table.added_ns(run("a", 100, 450, 200)) == 300


def test_ratios_are_taken_round_by_round(table: Any) -> None:
    # The second round was slower as a whole; its ratio is the same.
    assert table.ratios([300, 900], [200, 600]) == [1.5, 1.5]
    assert table.ratios([300, 900], [0, 600]) == [1.5]


def test_median_and_half_of_the_range(table: Any) -> None:
    assert table.median_and_spread([1.0, 5.0, 2.0]) == (2.0, 2.0)


def test_costs_say_what_was_seen(table: Any) -> None:
    rounds = [
        run("ours", 100, 500, 100),
        run("sums", 100, 900, 100, calls=999, lost=None),
        run("records", 100, 300, 100, calls=None, lost=7),
        run("ours", 200, 1000, 200),
        run("sums", 200, 1800, 200, calls=999, lost=None),
        run("records", 200, 600, 200, calls=None, lost=0),
    ]
    title, alone, ours, sums, records = table.costs(rounds)
    assert "ratio" in title
    assert alone.startswith("alone")
    assert "600 ±200" in ours
    assert "1.00x ±0.00" in ours
    assert ours.endswith("all, 0 lost")
    assert "2.00x ±0.00" in sums
    assert sums.endswith("-1")
    assert "0.50x ±0.00" in records
    assert records.endswith("not asked, 7 lost, not asked, 0 lost")


def test_startups(table: Any) -> None:
    rounds = [
        {"tracer": "ours", "startup_s": 10.0},
        {"tracer": "other", "startup_s": 5.0},
        {"tracer": "ours", "startup_s": 20.0},
        {"tracer": "other", "startup_s": 20.0},
    ]
    _, ours, other = table.startups(rounds)
    assert "15.0 ±5.0" in ours
    assert "0.75x ±0.25" in other
