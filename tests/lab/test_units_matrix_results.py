# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxlab matrix --result``: what validate printed on test hosts, side by side with the lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from genbindings.errors import UsageError
from mlxlab.matrix import columns, comparison, layout, runner
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


def test_what_held_and_is_known_to_fail_or_not_offered_is_a_loss(tmp_path: Path) -> None:
    """A revision without PRE_COPY, say, must not look better than the one before."""
    lost = "the driver does not offer PRE_COPY"
    rows = {
        "v2": [check("C8"), check("C15"), check("C16"), check("C31", "known deviation")],
        "v3": [
            check("C8", "known deviation", known="a race", reason="0 bytes"),
            check("C15", "not offered", reason=lost),
            check("C16", "not offered", reason=lost),
            check("C31", "not offered", reason=lost),
        ],
        "v4": [check("C8"), check("C15"), check("C16", "not offered"), check("C31", "failed")],
    }
    words = [f"{name}={result(tmp_path, name, Script(lines))}" for name, lines in rows.items()]
    found = compared(FakeLab(tmp_path / "lab", {}), tmp_path / "kept", [], *words)
    assert [layout.word(row.cells[1]) for row in found.rows] == ["known !", "n/o !", "n/o !", "n/o"]
    assert [layout.word(row.cells[2]) for row in found.rows] == ["pass +", "pass", "n/o", "FAIL"]
    told = {section.title: section.items for section in layout.sections(found)}
    assert told["Not offered any more"] == (f"v3: {lost}: C15, C16",)
    assert "v3 (it held before)" in told["Known deviations"][0]
    assert "! = it held in the column before" in layout.legend(found)


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
