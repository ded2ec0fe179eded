# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest says becomes an exit status; nothing that it says can crash the host's side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxlab import errors
from mlxlab.report import Report, exit_status, taint_names

GOOD = ("stage boot 1.9", "stage command 4.2", "exit 0", "taint 12288", "end")


def told(*lines: str) -> Report:
    report = Report()
    for line in lines:
        report.feed(line)
    return report


def status(report: Report, *, splats: int = 0, lost: bool = False, timed_out: bool = False) -> int:
    return exit_status(report, splats=splats, lost=lost, timed_out=timed_out)


@pytest.mark.parametrize("code", [0, 1, 23, 255])
def test_the_commands_own_status(code: int) -> None:
    assert status(told("stage command 4.2", f"exit {code}", "taint 4096", "end")) == code


def test_a_guest_that_did_not_say_end_is_lost_whatever_it_had_said() -> None:
    assert status(told(*GOOD[:-1])) == errors.LOST
    assert status(told(*GOOD), lost=True) == errors.LOST
    assert status(Report()) == errors.LOST


def test_what_comes_first() -> None:
    assert status(told(*GOOD), splats=1) == errors.SPLAT
    assert status(told(*GOOD[:2]), splats=1, lost=True) == errors.SPLAT
    assert status(told("exit 5", "assertion two_saves 1", "end")) == errors.SPLAT
    assert status(told(*GOOD[:2]), timed_out=True) == errors.TIMEOUT
    assert status(told("stage boot 1.9", "failed modprobe x: no", "end")) == errors.NOT_STARTED


def test_a_warning_taints_and_an_out_of_tree_module_does_not() -> None:
    assert taint_names(1 << 12 | 1 << 13) == []
    assert taint_names(1 << 9) != []
    assert status(told("exit 0", f"taint {1 << 9}", "end")) == errors.SPLAT


def test_the_first_failure_counts() -> None:
    assert told("failed one thing", "failed another").failure == "one thing"


def test_stages_and_running() -> None:
    report = told("stage boot 1.9", "stage command 4.2")
    assert report.stages == {"boot": 1.9, "command": 4.2}
    assert report.running
    report.feed("exit 0")
    assert not report.running


@given(st.lists(st.text()))
def test_garbage_is_ignored(lines: list[str]) -> None:
    report = told(*lines)
    assert status(report) in {*range(256), errors.LOST}


@given(st.sampled_from(["exit", "stage", "assertion", "taint"]), st.text())
def test_a_line_cut_anywhere_is_ignored_or_taken(word: str, rest: str) -> None:
    told(f"{word} {rest}")
