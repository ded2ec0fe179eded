# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of `./run bench downtime`, from canned summaries."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

TABLE = Path(__file__).resolve().parents[2] / "bench/downtime_table.py"


def downtime_table() -> Any:
    """Return the module: bench/ is no package."""
    spec = importlib.util.spec_from_file_location("downtime_table", TABLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def summary(final_ms: float, image_bytes: list[int], finals: int = 1) -> dict[str, Any]:
    """Return what of a client's summary the table is made of."""
    parts = {"quiesce": 1.0, "stop": 2.0, "final": final_ms, "load": 3.0, "start": 4.0}
    keys = {f"downtime_{part}_ns": int(ms * 1e6) for part, ms in parts.items()}
    total = sum(keys.values())
    return {"downtime_ns": total, "image_bytes": image_bytes, "final_images": finals, **keys}


CANNED = {
    "stock-6.1": [summary(ms, [8 << 20]) for ms in (80, 90, 130)],
    "carried-6.1": [summary(ms, [8 << 20, 1 << 20, 1 << 19]) for ms in (10, 12, 9)],
    "upstream-6.12": [summary(90, [8 << 20, 1 << 19, 1 << 19], finals=2)],
}


def test_a_row_has_medians_spreads_and_the_ratio_to_the_first_kernel() -> None:
    title, stock, carried, upstream = downtime_table().rows(CANNED)
    assert stock.split() == [
        *("stock-6.1", "100.0", "±25.0", "1.00x", "1.0", "±0.0", "2.0", "±0.0"),
        *("90.0", "±25.0", "3.0", "±0.0", "4.0", "±0.0", "8.00", "MiB"),
    ]
    assert carried.split()[:4] == ["carried-6.1", "20.0", "±1.5", "0.20x"]
    # Several final images count as one.
    assert upstream.split()[-2:] == ["1.00", "MiB"]
    assert len({len(line) for line in (title, stock, carried, upstream)}) == 1


def test_where_the_most_time_went_is_said() -> None:
    said = list(downtime_table().most(CANNED))
    assert said[0] == "stock-6.1: 90% of it in final images"
    assert said[1] == "carried-6.1: 50% of it in final images"


def test_one_migration_has_no_spread() -> None:
    assert downtime_table().median_and_spread([7.0]) == (7.0, 0.0)
