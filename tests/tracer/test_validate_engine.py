# SPDX-License-Identifier: GPL-2.0-or-later
"""Running a plan: order, what is left out, and every way in which a run ends."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from genbindings.errors import UsageError
from mlxtrace.checks import Check, Level, all_checks
from mlxtrace.checks.limits import limits
from mlxtrace.validate import engine, worker
from mlxtrace.validate.plan import plan, section, select
from mlxtrace.validate.results import Verdict, by_check, summarize, worst

from .fake_checks import (
    dies,
    fails,
    hangs,
    holds,
    is_hung,
    is_lost,
    is_wrong,
    lacks,
    make,
    profile,
    run,
    verdicts,
)
from .fake_device import ALL_FLAGS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlxtrace.checks import Context


def test_each_check_has_its_result_with_its_steps() -> None:
    done = run(make("C1", holds), make("C2", fails), make("C3", lacks))
    assert verdicts(done) == {
        "C1": Verdict.PASSED,
        "C2": Verdict.FAILED,
        "C3": Verdict.NOT_OFFERED,
    }
    failed = done.results[1]
    assert failed.reason == "reading on: ENOMSG; the rule wants 0 bytes"
    assert [str(step) for step in failed.steps] == [
        "to PRE_COPY: a data file",
        "reading on: ENOMSG",
    ]
    assert [str(step) for step in done.results[0].steps] == ["asked for RUNNING: 0, then RUNNING"]
    assert (done.stopped, done.stuck) == ("", False)


@pytest.mark.parametrize(
    ("checks", "known", "status"),
    [
        ([make("C1", holds)], "", 0),
        ([make("C1", fails)], "", 1),
        ([make("C1", fails)], '[fails]\nC1 = "r"', 0),
        ([make("C1", fails, level=Level.SHOULD), make("C2", fails, level=Level.DRIVER)], "", 0),
        ([make("C1", fails), make("C2", is_hung)], "", 3),
        ([make("C1", is_hung)], '[fails]\nC1 = "r"', 3),
        ([make("C1", lacks)], "", 0),
        ([make("C1", is_wrong)], "", 3),
        ([make("C1", dies), make("C2", holds)], '[skip]\nC1 = "r"', 0),
        ([make("C1", dies)], '[skip]\nC1 = "r"', 3),
    ],
)
def test_the_exit_status(checks: list[Check], known: str, status: int) -> None:
    done = run(*checks, known=known)
    assert summarize(done.results, done.stopped).exit_status == status


def test_a_check_that_hangs_ends_the_run_and_what_was_found_is_kept() -> None:
    done = run(make("C1", fails), make("C2", hangs), make("C3", holds), limit_s=0.5)
    assert verdicts(done) == {
        "C1": Verdict.FAILED,
        "C2": Verdict.FAILED,
        "C3": Verdict.NOT_RUN,
    }
    assert "after to STOP: no answer yet: no answer within 0.5 s" in done.results[1].reason
    assert "longer than 0.5 s" in done.stopped
    assert "the run had ended" in done.results[2].reason
    assert not done.stuck


def test_a_check_that_tells_step_after_step_for_ever_ends_the_run_too() -> None:
    def talks(context: Context) -> None:
        for _ in range(3000):
            context.note("asked how much is left", "1 byte")
            time.sleep(0.01)

    done = run(make("C1", talks), make("C2", holds), limit_s=0.5)
    assert verdicts(done) == {"C1": Verdict.FAILED, "C2": Verdict.NOT_RUN}
    assert done.results[0].reason.startswith("after asked how much is left: 1 byte: it goes on")
    assert "longer than 0.5 s" in done.stopped


@pytest.mark.parametrize(("rounds", "says"), [(True, "passed"), (False, "failed")])
def test_a_check_that_repeats_itself_has_its_time_for_each_round(
    monkeypatch: pytest.MonkeyPatch, rounds: bool, says: str
) -> None:
    """The clock goes on by 4 s with each message."""
    now = 0.0
    told: list[dict[str, Any]] = [{"did": "to PRE_COPY", "saw": ""}, {"goes_on": True}] * 5
    told = [message for message in told if rounds or "did" in message]
    end = {"status": "passed", "reason": "", "hung": False, "warned": False, "calls": {}}
    told.append(end)

    def receive(_: float) -> dict[str, Any]:
        nonlocal now
        now += 4
        return told.pop(0)

    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=lambda: now))
    watch = engine._Watch(SimpleNamespace(receive=receive), 10, lambda: "", print)  # type: ignore[arg-type]
    assert watch.until_end()["status"] == says


def test_what_a_check_waits_for_has_a_share_of_its_limit() -> None:
    def tells(context: Context) -> None:
        context.note("an answer may take", f"{limits.answer_s:g} s")

    before = limits.check_s
    done = run(make("C1", tells), limit_s=1000)
    assert [str(step) for step in done.results[0].steps] == ["an answer may take: 200 s"]
    assert limits.check_s == before == 300


def test_a_call_that_does_not_come_back_ends_the_run() -> None:
    done = run(make("C1", is_hung), make("C2", holds))
    assert verdicts(done) == {"C1": Verdict.FAILED, "C2": Verdict.NOT_RUN}
    assert done.stopped == "a call did not come back"


def test_a_process_that_the_kernel_ends_fails_the_check_and_ends_the_run() -> None:
    done = run(make("C1", dies), make("C2", holds))
    assert verdicts(done) == {"C1": Verdict.FAILED, "C2": Verdict.NOT_RUN}
    assert "after to ERROR: the process that ran it ended with signal SIGKILL" in (
        done.results[0].reason
    )
    assert "dmesg" in done.hint


def test_a_device_that_is_lost_ends_the_run() -> None:
    done = run(make("C1", holds), make("C2", is_lost), make("C3", holds))
    assert verdicts(done) == {
        "C1": Verdict.PASSED,
        "C2": Verdict.NOT_RUN,
        "C3": Verdict.NOT_RUN,
    }
    assert (done.stopped, done.hint) == ("0000:01:00.1: there is no such device", "look for it")


def test_a_mistake_in_a_check_is_told_and_the_others_run() -> None:
    done = run(make("C1", is_wrong), make("C2", holds))
    assert verdicts(done) == {"C1": Verdict.NOT_RUN, "C2": Verdict.PASSED}
    assert "a mistake in the check itself: KeyError at fake_checks.py:" in done.stopped


def test_the_user_can_have_enough() -> None:
    asked = iter(["", "", "interrupted by SIGINT"])
    done = run(
        make("C1", holds), make("C2", hangs), make("C3", holds), interrupted=lambda: next(asked)
    )
    counted = summarize(done.results, done.stopped)
    assert done.stopped == "interrupted by SIGINT"
    assert counted.exit_status == 3
    assert verdicts(done)["C3"] is Verdict.NOT_RUN
    assert len(done.results) == 3


@pytest.mark.parametrize(
    ("function", "known", "besides"),
    [
        (holds, "", "the rule wants no harm"),
        (fails, "", "besides: reading on: ENOMSG; the rule wants 0 bytes"),
        (fails, '[fails]\nC1 = "r"', "besides: reading on"),
        (lacks, "", "besides: no clock"),
        (lacks, '[lacks]\nC1 = "r"', "besides: no clock"),
        (is_wrong, "", "besides: a mistake in the check itself: KeyError"),
        (is_hung, '[may-fail]\nC1 = "r"', "besides: STOP_COPY to PRE_COPY: no answer"),
        (is_lost, "", "besides: 0000:01:00.1: there is no such device"),
    ],
)
def test_a_check_in_which_the_kernel_warned_has_failed_whatever_else_came_of_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[[Context], None],
    known: str,
    besides: str,
) -> None:
    monkeypatch.setattr(worker, "KERNEL", tmp_path)
    (tmp_path / "warn_count").write_text("0\n")

    def warns(context: Context) -> None:
        (tmp_path / "warn_count").write_text("1\n")
        function(context)

    done = run(make("C1", warns), make("C2", holds), known=known)
    first, second = done.results
    assert first.verdict is Verdict.FAILED
    assert first.reason.startswith("the kernel warned or oopsed meanwhile, dmesg says where; ")
    assert besides in first.reason
    ends = function in (is_hung, is_lost)
    assert second.verdict is (Verdict.NOT_RUN if ends else Verdict.PASSED)
    assert bool(done.stopped) is (ends or function is is_wrong)


@pytest.mark.parametrize("function", [is_hung, hangs, dies])
def test_no_profile_excuses_what_harms_the_kernel(function: Callable[[Context], None]) -> None:
    done = run(make("C1", function), known='[fails]\nC1 = "r"', limit_s=0.5)
    assert verdicts(done) == {"C1": Verdict.FAILED}


def test_repetitions_come_one_after_the_other_and_what_may_hang_after_all() -> None:
    done = run(make("C1", holds), make("C9", holds, may_hang=True), make("C2", holds), repeat=2)
    assert [(each.check.id, each.repeat) for each in done.results] == [
        ("C1", 1),
        ("C2", 1),
        ("C1", 2),
        ("C2", 2),
        ("C9", 1),
        ("C9", 2),
    ]


def test_of_repetitions_the_worst_counts(tmp_path: Path) -> None:
    seen = tmp_path / "seen"

    def sometimes(context: Context) -> None:
        first = not seen.exists()
        seen.touch()
        context.expect(first, "asked", "EIO", "0")

    done = run(make("C1", sometimes), repeat=3)
    ((_, results),) = by_check(done.results)
    assert [each.verdict for each in results] == [Verdict.PASSED, Verdict.FAILED, Verdict.FAILED]
    assert worst(results).repeat == 2
    counted = summarize(done.results)
    assert (counted.passed, counted.failed[Level.MUST]) == (0, 1)


def test_what_the_profile_skips_and_what_takes_a_device_is_left_out() -> None:
    checks = [make("C1", dies), make("C2", holds, rebinds=True), make("C3", holds)]
    known = profile('[skip]\nC1 = "it oopses"', ["C1"])
    left = {each.check.id: each.left_out for each in plan(checks, known)}
    assert "--profile generic" in left["C1"]
    assert "--destructive" in left["C2"]
    assert left["C3"] == ""
    left = {each.check.id: each.left_out for each in plan(checks, known, destructive=True)}
    assert left["C2"] == ""
    done = run(*checks, known='[skip]\nC1 = "it oopses"')
    assert verdicts(done) == {
        "C1": Verdict.NOT_RUN,
        "C2": Verdict.NOT_RUN,
        "C3": Verdict.PASSED,
    }
    assert done.stopped == ""


def test_checks_are_selected_by_level_number_and_statement() -> None:
    checks = [
        make("C1", holds),
        make("C1.more", holds, level=Level.SHOULD),
        make("C2", holds, level=Level.DRIVER),
    ]

    def named(level: Level, *only: str) -> list[str]:
        return [each.id for each in select(checks, level, only)]

    assert named(Level.MUST) == ["C1"]
    assert named(Level.SHOULD) == ["C1", "C1.more"]
    assert named(Level.DRIVER) == ["C1", "C1.more", "C2"]
    assert named(Level.DRIVER, "C1") == ["C1", "C1.more"]
    assert named(Level.DRIVER, "C1.more", "C2") == ["C1.more", "C2"]
    with pytest.raises(UsageError, match="there is no check C3"):
        named(Level.DRIVER, "C3")
    with pytest.raises(UsageError, match="--level must leaves none of C2"):
        named(Level.MUST, "C2")


def test_every_check_is_in_a_section_with_a_title() -> None:
    for check in all_checks():
        assert section(check)[0].isupper()


def test_a_run_of_nothing_starts_no_process() -> None:
    done = run(make("C1", dies), known='[skip]\nC1 = "r"')
    assert [each.verdict for each in done.results] == [Verdict.NOT_RUN]
    assert done.stopped.startswith("no check ran")


def test_checks_know_what_the_driver_offers() -> None:
    seen = run(make("C1", holds, needs=ALL_FLAGS))
    assert verdicts(seen) == {"C1": Verdict.PASSED}
