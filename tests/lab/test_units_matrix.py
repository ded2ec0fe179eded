# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxlab matrix`` with a lab that boots nothing: what is run, kept, compared and returned."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from genbindings import console
from genbindings.errors import Error, UsageError
from mlxlab import cli_matrix, errors
from mlxlab.matrix import columns, comparison, runner
from mlxlab.matrix.runner import Plan
from mlxpatch.progress import Progress
from tests.lab.fake_validate import FakeLab, Script, check

if TYPE_CHECKING:
    from pathlib import Path

    from mlxlab.matrix.comparison import Comparison

QUIET = Progress("tests", quiet=True)
PATCH = """From 1 Mon Sep 17 00:00:00 2001
From: A <a@example.org>
Date: Mon, 1 Jan 2024 00:00:00 +0000
Subject: [PATCH {tags}] vfio/mlx5: Count

Text.
---
 drivers/vfio/pci/mlx5/cmd.h | 1 +
 1 file changed, 1 insertion(+)

diff --git a/drivers/vfio/pci/mlx5/cmd.h b/drivers/vfio/pci/mlx5/cmd.h
--- a/drivers/vfio/pci/mlx5/cmd.h
+++ b/drivers/vfio/pci/mlx5/cmd.h
@@ -1 +1,2 @@
 one
+two
"""


def patch(folder: Path, name: str, tags: str) -> str:
    """Write a series of one patch; return what names it."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(PATCH.format(tags=tags))
    return str(folder / name)


def matrix(lab: FakeLab, folder: Path, *names: str, **plan: Any) -> Comparison:
    """Run the columns that ``lab`` has scripts for, or those of ``names``."""
    options = plan.pop("options", ())
    chosen = [columns.Column(name, ("--kernel", name), entry(name)) for name in names]
    ran = runner.run(chosen, Plan(options, folder, quiet=True, **plan), lab.host)
    return comparison.compare(ran)


def entry(name: str) -> Any:
    from mlxlab.table import Entry

    return Entry(name, "", "6.1", "stock")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def test_each_column_is_booted_once_and_its_options_reach_validate(
    tmp_path: Path, out: Path
) -> None:
    lab = FakeLab(tmp_path, {"a": Script([check("C8")]), "b": Script([check("C8")])})
    options = ["--level", "must", "--only", "C8"]
    found = matrix(lab, out, "a", "b", options=options, timeout_s=60)
    assert lab.booted == ["a", "b"]
    assert lab.arguments("b") == [
        *("validate", "--source", "0000:01:00.1", "--target", "0000:01:00.2", "--json"),
        *options,
    ]
    assert lab.jobs["b"].timeout_s == 60
    assert found.status == 0
    assert (out / "a/validate.jsonl").read_text().count("\n") == 3
    assert (out / "a/console.log").read_text() == "booted\n"


def test_the_rules_are_rows_and_changes_are_found(tmp_path: Path, out: Path) -> None:
    lab = FakeLab(
        tmp_path,
        {
            "v1": Script([check("C10"), check("C2", "failed"), check("C3", "known deviation")]),
            "v2": Script([check("C2"), check("C10", "not run"), check("C3", "failed")]),
            "v3": Script([check("C2"), check("C10", "failed"), check("C4", "not offered")]),
        },
    )
    found = matrix(lab, out, "v1", "v2", "v3")
    assert [row.id for row in found.rows] == ["C2", "C3", "C4", "C10"]
    cells = {row.id: [(cell.status, cell.change) for cell in row.cells] for row in found.rows}
    assert cells["C2"] == [("failed", ""), ("passed", "mended"), ("passed", "")]
    # What has no result in between does not hide that it held.
    assert cells["C10"] == [("passed", ""), ("not run", ""), ("failed", "broken")]
    assert cells["C3"] == [("known deviation", ""), ("failed", ""), ("not asked", "")]
    assert [row.id for row in found.changes(2)[0]] == ["C10"]
    assert found.totals(2) == {
        **dict.fromkeys(comparison.TOTALS, 0),
        "passed": 1,
        "failed must": 1,
        "not offered": 1,
        "not asked": 1,
    }
    assert found.status == 1


def test_of_several_checks_of_a_rule_the_worst_counts(tmp_path: Path, out: Path) -> None:
    lab = FakeLab(tmp_path, {"a": Script([check("C1"), check("C1", "failed"), check("C1")])})
    found = matrix(lab, out, "a")
    assert found.document()["rules"][0]["results"][0] | {"steps": []} == {
        "status": "failed",
        "change": "",
        "checks": 3,
        "so": 1,
        "reason": "",
        "known": "",
        "steps": [],
    }


@pytest.mark.parametrize(
    ("checks", "status"),
    [
        ([check("C1"), check("C2", "known deviation", known="it is old")], 0),
        ([check("C1", "failed", level="should"), check("C2", "failed", level="driver")], 0),
        ([check("C1", "failed")], 1),
        ([check("C1", "not offered"), check("C2", "not run")], 0),
    ],
)
def test_only_a_must_that_fails_counts(
    tmp_path: Path, out: Path, checks: list[dict[str, Any]], status: int
) -> None:
    assert matrix(FakeLab(tmp_path, {"a": Script(checks)}), out, "a").status == status


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script([check("C1")], ends=False, lab_status=errors.LOST), "the VM was lost: "),
        (Script([check("C1")], ends=False, lab_status=errors.TIMEOUT), "the time limit was over"),
        (Script([check("C1")], ends=False), "validate printed no summary"),
        (Script(status=3, said="mlxtrace: error: no VF\n  hint: bind\n"), "status 3: no VF"),
        (Script(status=127, said="sh: mlxtrace: not found\n"), "status 127: sh: mlxtrace: not"),
        (Script([check("C1")], tail="BUG\n"), "line 4 of its output is not one of validate's: BUG"),
        (Script([check("C1", "perhaps")]), "line 2 of its output"),
        (
            Script(
                [check("C1")],
                ends=False,
                lab_status=errors.SPLAT,
                result={"command_status": None, "splats": ["Oops"], "lost": "it went away"},
            ),
            "the VM was lost: it went away",
        ),
    ],
)
def test_a_column_without_an_end_is_told_and_the_others_are_run(
    tmp_path: Path, out: Path, script: Script, reason: str
) -> None:
    lab = FakeLab(tmp_path, {"a": script, "b": Script([check("C1"), check("C2")])})
    found = matrix(lab, out, "a", "b")
    assert lab.booted == ["a", "b"]
    assert found.status == 3
    assert reason in found.columns[0].reason
    assert found.columns[1].complete
    assert found.rows[-1].cells[0].status == "missing"


def test_a_column_that_does_not_build_is_told_and_the_others_are_run(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = FakeLab(tmp_path, {"b": Script([check("C1")])})
    lab.unbuildable = {"a"}
    found = matrix(lab, out, "a", "b")
    assert lab.booted == ["b"]
    assert found.status == 3
    assert found.columns[0].reason == "cmd.c:1: error: it does not build (mend it)"
    assert "mlxlab: a: cmd.c:1: error" in capsys.readouterr().err


def test_what_the_kernel_complains_of_is_a_failure(tmp_path: Path, out: Path) -> None:
    result = {"splats": ["WARNING: at x"], "assertions": {"mkey": 1, "pd": 2}}
    lab = FakeLab(tmp_path, {"a": Script([check("C1")], lab_status=errors.SPLAT, result=result)})
    found = matrix(lab, out, "a", allowed=["pd"])
    assert found.columns[0].complete
    assert found.columns[0].troubles == ("WARNING: at x", "firmware assertion mkey fired 1 times")
    assert found.status == 1
    assert lab.jobs["a"].expected.may == {"pd"}


def test_validate_looks_at_its_options_before_anything_is_built(tmp_path: Path, out: Path) -> None:
    lab = FakeLab(tmp_path, {"a": Script()})
    lab.unbuildable = {"a"}
    with pytest.raises(UsageError, match="no rule C99"):
        matrix(lab, out, "a", options=["--only", "C99"])


def test_what_validate_says_of_its_options_is_passed_on() -> None:
    with pytest.raises(UsageError, match="does not take its options: "):
        runner.check_options(["--nonsense"])


def test_after_ctrl_c_no_other_column_is_begun(tmp_path: Path, out: Path) -> None:
    ended = Script([check("C1")], ends=False, lab_status=errors.INTERRUPTED)
    lab = FakeLab(tmp_path, {"a": ended, "b": Script([check("C1")])})
    found = matrix(lab, out, "a", "b")
    assert lab.booted == ["a"]
    assert [ran.reason for ran in found.columns] == [
        "it was interrupted",
        "it was not begun: Ctrl-C",
    ]


def test_ctrl_c_before_there_is_a_vm_leaves_what_was_run(tmp_path: Path, out: Path) -> None:
    lab = FakeLab(tmp_path, {"a": Script([check("C1")])})

    def run(entry: Any, job: Any, progress: Any) -> Any:
        if entry.name == "b":
            raise KeyboardInterrupt
        return lab.run(entry, job, progress)

    chosen = [columns.Column(name, ("--kernel", name), entry(name)) for name in ("a", "b", "c")]
    ran = runner.run(chosen, Plan([], out, quiet=True), runner.Host(lab.look_at, lab.prepare, run))
    assert [each.complete for each in ran] == [True, False, False]
    assert runner.was_interrupted(ran)


def test_only_what_failed_is_run_again(tmp_path: Path, out: Path) -> None:
    lab = FakeLab(
        tmp_path,
        {
            "good": Script([check("C1")]),
            "bad": Script([check("C1", "failed")]),
            "lost": Script([check("C1")], ends=False, lab_status=errors.LOST),
        },
    )
    names = ("good", "bad", "lost")
    assert matrix(lab, out, *names).status == 3
    lab.scripts["lost"] = Script([check("C1")])
    found = matrix(lab, out, *names, again=True)
    assert lab.booted == ["good", "bad", "lost", "bad", "lost"]
    assert found.status == 1
    assert [ran.reused for ran in found.columns] == [True, False, False]
    assert found.rows[0].cells[0].status == "passed"


def test_what_would_be_another_run_is_not_taken_over(tmp_path: Path, out: Path) -> None:
    lab = FakeLab(tmp_path, {"a": Script([check("C1")])})
    matrix(lab, out, "a")
    matrix(lab, out, "a", again=True, options=["--only", "C1"])
    lab.build = 2
    matrix(lab, out, "a", again=True, options=["--only", "C1"])
    assert lab.booted == ["a", "a", "a"]
    matrix(lab, out, "a", again=True, options=["--only", "C1"])
    assert len(lab.booted) == 3


def test_verdicts_of_a_profile_that_was_edited_are_not_taken_over(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = FakeLab(tmp_path, {"a": Script([check("C1", "known deviation")])})
    mine, shipped = tmp_path / "mine.toml", tmp_path / "profiles"
    shipped.mkdir()
    monkeypatch.setattr("mlxlab.matrix.keep.resources.find", lambda _: shipped)
    options = ["--profile", str(mine)]
    for edit, path in enumerate((mine, shipped / "carried.toml", mine)):
        path.write_text(f'summary = "edit {edit}"')
        for _ in range(2):
            matrix(lab, out, "a", again=True, options=options)
        assert len(lab.booted) == edit + 1


def test_lines_of_an_earlier_run_are_not_taken_for_this_ones(tmp_path: Path, out: Path) -> None:
    lab = FakeLab(tmp_path, {"a": Script([check("C1")])})
    matrix(lab, out, "a")
    lab.unbuildable = {"a"}
    matrix(lab, out, "a")
    assert not (out / "a/validate.jsonl").exists()


def test_a_revision_is_called_by_name_folder_version_or_file(tmp_path: Path) -> None:
    words = [
        patch(tmp_path, "second.patch", "v2 1/1"),
        f"mine={patch(tmp_path, 'third.patch', 'v3 1/1')}",
    ]
    patch(tmp_path / "topic", "0001-count.patch", "1/1")
    chosen = columns.choose([], [*words, str(tmp_path / "topic")], QUIET)
    assert [column.name for column in chosen] == ["v2", "mine", "topic"]
    entries = [column.entry for column in chosen if column.entry]
    assert entries[0].spec == words[0]
    assert [each.series for each in entries] == ["6.1"] * 3
    assert all(column.series for column in chosen)


def test_a_git_range_is_called_by_its_end(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        author = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *author, *words], check=True)

    git("init", "-q", "-b", "topic/v3")
    for number in range(3):
        (tmp_path / "file").write_text(f"{number}\n")
        git("add", "file")
        git("commit", "-q", "-m", f"change {number}")
    words = [f"{tmp_path}:HEAD~2..topic/v3", f"{tmp_path}:HEAD~1.."]
    assert [column.name for column in columns.choose([], words, QUIET)] == ["topic-v3", "HEAD"]


def test_the_same_version_twice_is_told_apart_by_the_files(tmp_path: Path) -> None:
    words = [patch(tmp_path, f"{name}.patch", "v2 1/1") for name in ("one", "two")]
    chosen = columns.choose(["stock-6.1"], words, QUIET)
    assert [column.name for column in chosen] == ["stock-6.1", "one", "two"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"two columns would be called stock-6\.1"):
        columns.choose(["stock-6.1", "stock-6.1"], [], QUIET)
    word = patch(tmp_path, "a.patch", "1/1")
    with pytest.raises(UsageError, match="two columns would be called x") as caught:
        columns.choose([], [f"x={word}", f"x={word}"], QUIET)
    assert "NAME=SERIES" in caught.value.hint
    with pytest.raises(UsageError, match=r"no column can be called matrix\.md"):
        columns.choose([], [f"matrix.md={word}"], QUIET)


def test_a_damaged_series_is_a_column_that_cannot_be_run(tmp_path: Path, out: Path) -> None:
    (tmp_path / "torn.patch").write_text("nothing\n")
    chosen = columns.choose([], [str(tmp_path / "torn.patch")], QUIET)
    found = comparison.compare(
        runner.run(chosen, Plan([], out, quiet=True), FakeLab(tmp_path, {}).host)
    )
    assert found.status == 3
    assert "torn.patch" in found.columns[0].reason


def test_the_patches_of_a_revision_are_kept(tmp_path: Path, out: Path) -> None:
    chosen = columns.choose([], [patch(tmp_path, "a.patch", "v4 1/1")], QUIET)
    lab = FakeLab(tmp_path, {"v4": Script([check("C1")])})
    runner.run(chosen, Plan([], out, quiet=True), lab.host)
    assert (out / "v4/patches/series").read_text() == "a.patch\n"
    assert (out / "v4/patches/a.patch").read_text() == PATCH.format(tags="v4 1/1")


def command(lab: FakeLab, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command with ``lab`` in the place of the lab; return its exit status."""
    monkeypatch.setattr(runner, "Host", lambda: lab.host)
    monkeypatch.setattr("sys.argv", ["mlxlab", *arguments])
    with pytest.raises(SystemExit) as ended:
        console.run(cli_matrix.command, "mlxlab matrix")
    return int(ended.value.code or 0)


SCRIPTS = {
    "stock-6.1": Script([check("C8", "not offered"), check("C15")]),
    "carried-6.1": Script([check("C8"), check("C15", "failed", reason="read returned 7")]),
}
BOTH = ("--kernel", "stock-6.1", "--kernel", "carried-6.1", "-q")


def test_the_command_prints_a_table_and_keeps_it_in_every_form(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = FakeLab(tmp_path, SCRIPTS)
    assert command(lab, monkeypatch, *BOTH, "--out", str(out), "--profile", "generic") == 1
    text = capsys.readouterr().out
    assert "FAIL !" in text
    assert "read returned 7" in text
    assert "mlxlab matrix --kernel carried-6.1 --only C15 --profile generic" in text
    assert {path.name for path in out.glob("matrix.*")} == {
        "matrix.txt",
        "matrix.md",
        "matrix.json",
    }
    assert lab.arguments("carried-6.1")[-2:] == ["--profile", "generic"]


def test_the_command_prints_json(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = command(FakeLab(tmp_path, SCRIPTS), monkeypatch, *BOTH, "--out", str(out), "--json")
    document = json.loads(capsys.readouterr().out)
    assert document["exit_status"] == status == 1
    assert [column["name"] for column in document["columns"]] == ["stock-6.1", "carried-6.1"]
    assert document["columns"][1]["totals"]["failed must"] == 1
    assert document["columns"][1]["meta"]["profile"] == "carried"
    assert document["rules"][1]["results"][1]["change"] == "broken"


def test_the_command_writes_to_a_file(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*BOTH, "--out", str(out), "--markdown", "-o", str(tmp_path / "mail.md"))
    assert command(FakeLab(tmp_path, SCRIPTS), monkeypatch, *words) == 1
    assert capsys.readouterr().out == ""
    assert (tmp_path / "mail.md").read_text() == (out / "matrix.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to compare"),
        (["--kernel", "nope"], "no kernel 'nope'"),
        (["--series", "/nowhere"], "no series /nowhere"),
        (["--series", "x" * 5000], "File name too long"),
        (["--result", "/nowhere.jsonl"], "there is no file /nowhere.jsonl"),
        (["--kernel", "stock-6.1", "--only", "C99"], "no rule C99"),
        (["--kernel", "stock-6.1", "--continue"], "--continue needs --out"),
        (["--kernel", "stock-6.1", "--fw", "latency"], "not KEY=VALUE"),
        (["--kernel", "stock-6.1", "-o", "/nowhere/x"], "/nowhere is no folder"),
    ],
)
def test_usage_errors_come_before_any_boot(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    lab = FakeLab(tmp_path, {})
    assert command(lab, monkeypatch, *arguments) == 2
    assert said in capsys.readouterr().err
    assert lab.booted == []


def test_a_lab_that_does_not_start_is_a_column_that_cannot_be_run(
    tmp_path: Path, out: Path
) -> None:
    lab = FakeLab(tmp_path, {})

    def run(*_: Any) -> Any:
        raise Error("virtme-ng is missing", "install it")

    chosen = [columns.Column("a", ("--kernel", "a"), entry("a"))]
    ran = runner.run(chosen, Plan([], out, quiet=True), runner.Host(lab.look_at, lab.prepare, run))
    assert ran[0].reason == "virtme-ng is missing (install it)"
