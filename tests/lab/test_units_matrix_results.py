# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxlab matrix --result``: what validate printed on test hosts, side by side with the lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from genbindings import console
from genbindings.errors import UsageError
from mlxlab import cli_matrix
from mlxlab.matrix import columns, comparison, layout, runner
from mlxlab.matrix.records import PASSED
from mlxlab.matrix.runner import Plan
from mlxpatch.progress import Progress
from tests.lab.fake_validate import FakeLab, Script, check

if TYPE_CHECKING:
    from collections.abc import Sequence
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


def compared(
    lab: FakeLab, folder: Path, kernels: list[str], *results: str, options: Sequence[str] = ()
) -> Comparison:
    chosen = columns.choose(kernels, [], QUIET, results)
    return comparison.compare(runner.run(chosen, Plan(options, folder, quiet=True), lab.host))


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command, which asks the real validate about options; return its exit status."""
    monkeypatch.setattr("sys.argv", ["mlxlab", *arguments])
    with pytest.raises(SystemExit) as ended:
        console.run(cli_matrix.command, "mlxlab matrix")
    return int(ended.value.code or 0)


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


MANY = Script(
    [
        check("C8"),
        check("C15", "failed"),
        check("C31.absent"),
        check("C31.ways", level="should"),
        check("C32.record", level="driver"),
    ]
)


@pytest.mark.parametrize(
    ("options", "rules"),
    [
        ([], ["C8", "C15", "C31.absent", "C31.ways", "C32.record"]),
        (["--only", "c8, C31"], ["C8", "C31.absent", "C31.ways"]),
        (["--only", "C8", "--only", "C31.ways"], ["C8", "C31.ways"]),
        (["--only", "C3"], []),
        (["--level", "must"], ["C8", "C15", "C31.absent"]),
        (["--level", "should", "--only", "C31,C32"], ["C31.absent", "C31.ways"]),
        (["--level", "driver", "--only", "C32"], ["C32.record"]),
    ],
)
def test_only_what_was_chosen_is_compared(
    tmp_path: Path, options: list[str], rules: list[str]
) -> None:
    word = result(tmp_path, "a.jsonl", MANY)
    found = compared(FakeLab(tmp_path / "lab", {}), tmp_path / "kept", [], word, options=options)
    assert [row.id for row in found.rows] == rules
    # What was not chosen does not count.
    assert found.status == ("C15" in rules)
    assert (tmp_path / "kept/a/validate.jsonl").read_text() == MANY.lines


def test_what_a_whole_run_does_not_have_was_not_asked_for(tmp_path: Path) -> None:
    words = [
        f"all={result(tmp_path, 'a.jsonl', MANY)}",
        f"two={result(tmp_path, 'b.jsonl', GOOD)}",
        f"cut={result(tmp_path, 'c.jsonl', Script([check('C8')], ends=False))}",
    ]
    found = compared(FakeLab(tmp_path / "lab", {}), tmp_path / "kept", [], *words)
    cells = {row.id: [layout.word(cell) for cell in row.cells] for row in found.rows}
    assert cells["C31.ways"] == ["pass", "n/a", "?"]
    assert "n/a = that run was not asked for it" in layout.legend(found)
    assert found.totals(1)[comparison.NOT_ASKED] == 3
    assert found.totals(2)[comparison.MISSING] == 4
    assert all("run elsewhere" in line for line in layout.introductions(found))


def test_two_runs_in_one_file_are_damage(tmp_path: Path) -> None:
    """As ``cat v1 v2 >both`` makes it: neither of them is what the column would show."""
    both = tmp_path / "both.jsonl"
    both.write_text(GOOD.lines + BAD.lines)
    found = compared(FakeLab(tmp_path / "lab", {}), tmp_path / "kept", [], str(both))
    assert found.status == comparison.INCOMPLETE
    assert found.columns[0].reason == (
        "a second run of validate begins in line 5: give each a file of its own"
    )
    assert found.totals(0)[PASSED] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--only", "C8,ZZZ"], "there is no check ZZZ"),
        (["--level", "bogus"], "'bogus' is not one of"),
        (["--profile", "nix"], "--profile says how to run validate"),
        (["--destructive"], "--destructive says how to run"),
        (["--repeat", "2"], "--repeat says how to run"),
        (["--fw", "pd=1"], "--fw says how to run"),
        (["--allow", "pd"], "--allow says how to run"),
        (["--timeout", "9"], "--timeout says how to run"),
        (["--accel", "tcg"], "--accel says how to run"),
        (["--continue", "--out", "x"], "--continue says how to run"),
    ],
)
def test_options_that_say_nothing_to_a_result_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    word = result(tmp_path, "a.jsonl", GOOD)
    assert command(monkeypatch, "-q", "--result", word, "--out", "kept", *options) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert said in output.err


def test_the_heading_says_what_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    word = result(tmp_path, "a.jsonl", BAD)
    words = ("--result", word, "--out", str(tmp_path / "kept"), "--only", "C15", "--markdown")
    assert command(monkeypatch, *words) == 1
    output = capsys.readouterr()
    assert output.out.startswith("mlxtrace validate --only C15, rule by rule\n")
    assert "C8" not in output.out
    assert "--continue" not in output.err
