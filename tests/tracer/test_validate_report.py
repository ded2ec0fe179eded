# SPDX-License-Identifier: GPL-2.0-or-later
"""The report for people, and JUnit's XML."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from rich.console import Console

from mlxtrace.checks import Level, Status, Step
from mlxtrace.validate import junit
from mlxtrace.validate.report import WIDTH, show
from mlxtrace.validate.results import Result, Verdict, judge, summarize
from mlxtrace.validate.session import Heading, Options

from .fake_checks import holds, make, profile

if TYPE_CHECKING:
    from pathlib import Path

HEADING = Heading("a", "b", "some_vfio_pci", "6.1.0", "STOP_COPY", "tests", "named by --profile")
KNOWN = profile(
    '[fails]\nC2 = "it cannot"\nC3 = "it could not"\n[skip]\nC6 = "it oopses"', ["C2", "C3", "C6"]
)
STEPS = (Step("to PRE_COPY", "a data file"), Step("reading on", "ENOMSG"))
REASON = "reading on: ENOMSG; the rule wants 0 bytes"


def results() -> list[Result]:
    def judged(name: str, status: Status, reason: str = "", level: Level = Level.MUST) -> Result:
        steps = STEPS if status is Status.FAILED else ()
        return judge(make(name, holds, level=level), 1, status, reason, KNOWN, steps, 1500)

    return [
        judged("C1", Status.FAILED, REASON, Level.SHOULD),
        judged("C2", Status.FAILED, REASON),
        judged("C3", Status.PASSED),
        judged("C4", Status.NOT_OFFERED, "the driver does not offer P2P"),
        judged("C5", Status.PASSED),
        Result(make("C6", holds), 1, Verdict.NOT_RUN, "spared", KNOWN.of(make("C6", holds))),
    ]


def report(found: list[Result], stopped: str = "", width: int = WIDTH) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    show(
        HEADING,
        found,
        summarize(found, stopped),
        Options("a", "b", cycles=50).again,
        console,
    )
    return out.getvalue()


def test_a_failure_names_rule_step_answer_what_was_wanted_and_the_command() -> None:
    text = report(results())
    detail = text[text.index("C1 failed") : text.index("Known deviations")]
    assert detail.splitlines() == [
        "C1 failed: a rule of level should",
        "  rule    Rule C1 holds.",
        "  step    reading on",
        "  wanted  0 bytes",
        "  answer  ENOMSG",
        "  before  to PRE_COPY: a data file",
        "  repeat  mlxtrace validate --source a --target b --only C1 --cycles 50",
        "",
    ]


def test_a_table_has_its_counts_and_the_last_line_has_all() -> None:
    text = report(results())
    assert "1 failed, 1 known deviation, 2 passed, 1 not offered, 1 not run" in text
    assert text.splitlines()[-1] == (
        "2 passed, 1 failed (should), 1 known deviation, 1 not offered, 1 not run"
    )
    assert max(map(len, text.splitlines())) <= WIDTH


def test_what_is_known_is_told_with_its_reason_and_so_is_what_did_not_show() -> None:
    text = report(results())
    known = text[text.index("Known deviations") :]
    assert "C2 (must)" in known
    assert "known   it cannot" in known
    assert f"seen    {REASON}" in known
    assert "C3            known to fail, but holds (it could not)" in known
    assert "spared; known: it oopses\n    C6" in known
    assert "the driver does not offer P2P; the profile does not say so\n    C4" in known


def test_what_is_not_offered_is_told_apart_from_what_the_profile_says_is_absent() -> None:
    known = profile('[lacks]\nC1 = "no clock"', ["C1"])
    found = [
        judge(make(name, holds), 1, Status.NOT_OFFERED, "no clock", known) for name in ("C1", "C2")
    ]
    text = report(found)
    assert "  no clock\n    C1\n" in text
    assert "  no clock; the profile does not say so\n    C2\n" in text


def test_a_run_that_was_stopped_says_why() -> None:
    lines = report(results(), "interrupted by SIGINT").splitlines()
    assert lines[-3] == "stopped  interrupted by SIGINT"


def test_long_texts_are_folded_and_commands_are_not() -> None:
    reason = f"reading on: ENOMSG; the rule wants {'word ' * 60}"
    found = [judge(make("C1", holds), 1, Status.FAILED, reason, KNOWN, STEPS)]
    lines = report(found).splitlines()
    assert all(len(line) <= WIDTH for line in lines)
    assert sum(line.lstrip().startswith("word") for line in lines) >= 3


def test_repetitions_that_differ_are_counted() -> None:
    check = make("C1", holds)
    found = [
        judge(check, 1, Status.PASSED, "", KNOWN),
        judge(check, 2, Status.FAILED, REASON, KNOWN, STEPS),
    ]
    assert "failed 1 of 2" in report(found)


def test_the_command_to_repeat_a_check_has_what_it_takes() -> None:
    options = Options("a", "b", profile="x y.toml", bind=True)
    check = make("C1", holds, rebinds=True)
    assert options.again(check) == (
        "mlxtrace validate --source a --target b --only C1 --profile 'x y.toml' --destructive "
        "--bind"
    )


def test_junit_has_failures_and_reasons_for_what_was_skipped(tmp_path: Path) -> None:
    path = tmp_path / "out.xml"
    odd = judge(make("C7", holds), 2, Status.FAILED, "byte \x00 came", KNOWN)
    junit.write(path, [*results(), odd], {"driver": "some_vfio_pci"})
    suite = ElementTree.parse(path).getroot()[0]
    counts = [suite.get(name) for name in ("tests", "failures", "skipped")]
    assert counts == ["7", "2", "3"]
    assert suite.find("properties/property[@value='some_vfio_pci']") is not None
    failure = suite.find("testcase[@name='C1']/failure")
    assert failure is not None
    assert (failure.get("type"), failure.get("message")) == ("should", REASON)
    assert "to PRE_COPY: a data file" in (failure.text or "")
    skipped = suite.find("testcase[@name='C2']/skipped")
    assert skipped is not None
    assert skipped.get("message") == "known deviation: it cannot"
    assert suite.find("testcase[@name='C7[2]']/failure[@message='byte ? came']") is not None
    holding = suite.find("testcase[@name='C3']/system-out")
    assert holding is not None
    assert holding.text == "known to fail, but holds"
