# SPDX-License-Identifier: GPL-2.0-or-later
"""Series on the real sources of 6.1, from verification to every single build."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlxpatch import series, verify
from mlxpatch.gitrepo import Repository
from tests.patches import carried

if TYPE_CHECKING:
    from pathlib import Path

CORE = "drivers/vfio/pci/vfio_pci_core.c"


def steps(count: int) -> tuple[carried.Step, ...]:
    """Return the three patches and as many more as make ``count``, in three files by turns."""
    files = (carried.CMD, carried.MAIN, CORE)
    more = (
        carried.Step(
            f"vfio: Say sample {number} as well",
            ((files[number % 3], "", f'MODULE_INFO(sample_{number}, "1");\n'),),
        )
        for number in range(count - len(carried.STEPS))
    )
    return (*carried.STEPS, *more)


def verdicts(spec: Path, base: str | None, *gates: str) -> dict[str, str]:
    outcomes = verify.run(spec, base, gates, carried.PROGRESS, lambda _: None)
    bad = [problem for outcome in outcomes for problem in outcome.result.problems]
    assert bad == []
    return {outcome.gate: outcome.verdict for outcome in outcomes}


def test_a_series_on_its_pinned_package_passes_what_is_quick(tmp_path: Path) -> None:
    folder = carried.make(tmp_path)
    quick = [name for name in verify.NAMES if name != "build"]
    found = verdicts(folder, None, *quick)
    assert found == {**dict.fromkeys(quick, "ok"), "frozen": "skipped"}


@pytest.mark.slow
def test_sixteen_patches_pass_every_gate(tmp_path: Path) -> None:
    folder = carried.make(tmp_path, steps(16))
    assert verdicts(folder, None) == {**dict.fromkeys(verify.NAMES, "ok"), "frozen": "skipped"}


@pytest.mark.slow
def test_an_mbox_of_fourteen_patches_passes(tmp_path: Path) -> None:
    base = carried.repository(tmp_path / "linux", steps(14))
    mbox = tmp_path / "series.mbox"
    mbox.write_bytes(
        Repository(tmp_path / "linux").git("format-patch", "--stdout", "-v3", f"{base}..HEAD")
    )
    assert len(series.load(mbox).patches) == 14
    found = verdicts(mbox, "linux-source-6.1")
    left_out = dict.fromkeys(("files", "export", "cover", "frozen"), "skipped")
    assert {**dict.fromkeys(verify.NAMES, "ok"), **left_out, "cover": "ok"} == found
