# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxlab matrix --result``: what validate printed on test hosts, side by side with the lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from genbindings.errors import UsageError
from mlxlab.matrix import columns, comparison, runner
from mlxlab.matrix.records import PASSED
from mlxlab.matrix.runner import Plan
from mlxpatch.progress import Progress
from tests.lab.fake_validate import FakeLab, Script, check

if TYPE_CHECKING:
    from pathlib import Path

    from mlxlab.matrix.comparison import Comparison

QUIET = Progress("tests", quiet=True)
GOOD = Script([check("C8"), check("C15")])
BAD = Script([check("C8"), check("C15", "failed", reason="read returned 7")])


def result(folder: Path, name: str, script: Script) -> str:
    """Write what a host printed; return its path."""
    path = folder / name
    path.write_text(script.lines)
    return str(path)


def compared(lab: FakeLab, folder: Path, kernels: list[str], *results: str) -> Comparison:
    chosen = columns.choose(kernels, [], QUIET, results)
    return comparison.compare(runner.run(chosen, Plan((), folder, quiet=True), lab.host))


def test_two_revisions_on_a_host_need_no_lab(tmp_path: Path) -> None:
    lab = FakeLab(tmp_path / "lab", {})
    words = (f"v2={result(tmp_path, 'a.jsonl', GOOD)}", result(tmp_path, "v3.jsonl", BAD))
    found = compared(lab, tmp_path / "kept", [], *words)
    assert [ran.column.name for ran in found.columns] == ["v2", "v3"]
    assert lab.booted == []
    broken, mended = found.changes(1)
    assert ([row.id for row in broken], mended) == (["C15"], [])
    assert found.status == comparison.FAILED
    assert (tmp_path / "kept/v3/validate.jsonl").read_text() == BAD.lines


def test_a_host_is_put_beside_the_lab(tmp_path: Path) -> None:
    lab = FakeLab(tmp_path / "lab", {"carried-6.1": GOOD})
    host = f"host={result(tmp_path, 'a.jsonl', GOOD)}"
    found = compared(lab, tmp_path / "kept", ["carried-6.1"], host)
    assert lab.booted == ["carried-6.1"]
    assert [ran.column.name for ran in found.columns] == ["carried-6.1", "host"]
    assert found.status == comparison.DONE
    assert found.totals(1)[PASSED] == 2


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script([check("C8")], ends=False), "has no summary"),
        (Script([check("C8")], status=3), "status 3"),
        (Script([check("C8")], tail="Segmentation fault\n"), "not one of validate's"),
    ],
)
def test_a_result_without_an_end_is_told(tmp_path: Path, script: Script, reason: str) -> None:
    lab = FakeLab(tmp_path / "lab", {})
    found = compared(lab, tmp_path / "kept", [], result(tmp_path, "a.jsonl", script))
    assert found.status == comparison.INCOMPLETE
    assert reason in found.columns[0].reason
    assert found.totals(0)[PASSED] == 1


def test_two_results_of_one_name_are_refused(tmp_path: Path) -> None:
    word = result(tmp_path, "a.jsonl", GOOD)
    with pytest.raises(UsageError, match="two columns would be called a"):
        columns.choose([], [], QUIET, [word, word])
