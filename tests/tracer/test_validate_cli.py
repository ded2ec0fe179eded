# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxtrace validate`` from the outside: usage, output, exit status, signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from genbindings import console
from mlxtrace import checks as checks_package
from mlxtrace import vfio_calls
from mlxtrace.checks import Check, Level, all_checks
from mlxtrace.cli_validate import command
from mlxtrace.validate import guard, session, simulated, worker
from mlxtrace.validate.guard import Loan, Offer
from mlxtrace.validate.profiles import Profile
from mlxtrace.vfio import MigrationFlags

from .fake_checks import NoDevices, fails, hangs, holds, is_hung, lacks, make
from .fake_device import ALL_FLAGS
from .fake_kernel import BDF, OTHER_BDF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlxtrace.checks import Context

VFS = ("--source", BDF, "--target", OTHER_BDF)


class Host:
    """Two VFs, and a command that runs made-up checks on them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.troubles: list[str] = []
        self.loans: list[Loan] = []
        self.asked: list[dict[str, Any]] = []
        self.checks([make("C1", holds), make("C2", fails), make("C3", lacks)])
        monkeypatch.setattr(guard, "look_up", self._look_up)
        monkeypatch.setattr(guard, "borrowed", self._borrowed)
        monkeypatch.setattr(guard, "probe", lambda _: Offer("some_vfio_pci", ALL_FLAGS))
        monkeypatch.setattr(simulated, "DEBUGFS", Path("/nonexistent"))
        monkeypatch.setattr(session, "TellingContext", NoDevices)
        monkeypatch.setattr(session, "choose", self._choose)

    def checks(self, checks: list[Check]) -> None:
        """Let these be the checks that there are."""
        for place in (checks_package, session):
            self._monkeypatch.setattr(place, "all_checks", lambda: checks)

    def _choose(self, *_: object) -> tuple[Profile, str]:
        return Profile("generic", "", {}, {}, {}), "nothing is known of this driver"

    def _look_up(self, names: list[str], **more: Any) -> list[str]:
        self.asked.append(more)
        return names

    @contextlib.contextmanager
    def _borrowed(self, _: object, **more: Any) -> Iterator[Loan]:
        self.asked.append(more)
        loan = Loan()
        self.loans.append(loan)
        yield loan
        loan.troubles = self.troubles

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run the command as the console script does."""
        self._monkeypatch.setattr(sys, "argv", ["mlxtrace", *arguments])
        with pytest.raises(SystemExit) as caught:
            console.run(command, "mlxtrace")
        output = self._capsys.readouterr()
        assert "Traceback" not in output.out + output.err
        assert isinstance(caught.value.code, int)
        return caught.value.code, output.out, output.err

    def json(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """Run it with --json and return its lines."""
        status, out, _ = self.run(*VFS, "--json", *arguments)
        return status, [json.loads(line) for line in out.splitlines()]


def errors_in(path: Path) -> list[str]:
    """Return the messages of the errors in JUnit's XML."""
    return [each.get("message", "") for each in ElementTree.parse(path).getroot().iter("error")]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Host:
    return Host(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give --source BDF and --target BDF"),
        (["--source", BDF], "Give --source BDF and --target BDF"),
        (["--source", BDF, "--target", "01:00.1"], "are the same device"),
        (["--source", "eth0"], "not a device address"),
        ([*VFS, "--only", "C99"], "there is no check C99"),
        ([*VFS, "--only", ""], "it names no check"),
        ([*VFS, "--only", " , ", "--only", ""], "it names no check"),
        ([*VFS, "--only", "C2", "--level", "nice"], "'nice' is not one of"),
        ([*VFS, "--profile", "none"], "no profile 'none'"),
        ([*VFS, "--repeat", "0"], "0 is not in the range"),
        ([*VFS, "--check-timeout", "0"], "0.0 is not in the range"),
        ([*VFS, "--junit", "/"], "is a directory"),
    ],
)
def test_wrong_usage_is_told_and_nothing_is_touched(
    host: Host, arguments: list[str], message: str
) -> None:
    status, out, err = host.run(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert host.asked == []


def test_the_lines_of_json_are_meta_checks_and_summary(host: Host) -> None:
    status, lines = host.json()
    assert [line["event"] for line in lines] == ["meta", "check", "check", "check", "summary"]
    meta = lines[0]
    assert (meta["source"], meta["target"], meta["driver"]) == (BDF, OTHER_BDF, "some_vfio_pci")
    assert (meta["kernel"], meta["profile"]) == (os.uname().release, "generic")
    assert meta["profile_reason"] == "nothing is known of this driver"
    failed = lines[2]
    assert failed.pop("duration_ms") >= 0
    assert failed == {
        "event": "check",
        "id": "C2",
        "level": "must",
        "rule": "Rule C2 holds.",
        "status": "failed",
        "known": "",
        "remark": "",
        "reason": "reading on: ENOMSG; the rule wants 0 bytes",
        "steps": ["to PRE_COPY: a data file", "reading on: ENOMSG"],
        "repeat": 1,
    }
    assert lines[-1] == {
        "event": "summary",
        "passed": 1,
        "failed_must": 1,
        "failed_should": 0,
        "failed_driver": 0,
        "known_deviations": 0,
        "not_offered": 1,
        "not_run": 0,
        "stopped": "",
        "exit_status": 1,
        "calls": dict.fromkeys(vfio_calls.KINDS, 0),
    }
    assert status == 1


def test_the_calls_of_the_checks_are_in_the_summary(host: Host) -> None:
    def reads(_: Context) -> None:
        vfio_calls.made_read(7)

    host.checks([make("C1", reads), make("C2", reads)])
    _, lines = host.json("--repeat", "2")
    assert (lines[-1]["calls"]["read_calls"], lines[-1]["calls"]["read_bytes"]) == (4, 28)
    assert host.json()[1][-1]["calls"]["read_calls"] == 2


def test_the_report_ends_with_the_counts(host: Host) -> None:
    status, out, err = host.run(*VFS)
    assert status == 1
    assert out.splitlines()[-1] == (
        "1 passed, 1 failed (must), 0 known deviations, 1 not offered, 0 not run"
    )
    assert f"mlxtrace validate --source {BDF} --target {OTHER_BDF} --only C2" in out
    assert "  2/3 C2               failed" in err
    assert host.run(*VFS, "--quiet")[2] == ""


def test_a_known_deviation_is_no_failure(host: Host, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('summary = "mine"\n[fails]\nC2 = "it cannot"\n')
    status, lines = host.json("--profile", str(mine))
    assert (status, lines[-1]["known_deviations"]) == (0, 1)
    assert (lines[2]["status"], lines[2]["known"]) == ("known deviation", "it cannot")
    assert (lines[0]["profile"], lines[0]["profile_reason"]) == ("mine", "named by --profile")


@pytest.mark.parametrize(
    ("flags", "when", "status"),
    [
        (ALL_FLAGS, "pre_copy = true", 0),
        (ALL_FLAGS & ~MigrationFlags.PRE_COPY, "pre_copy = true", 3),
        (ALL_FLAGS & ~MigrationFlags.PRE_COPY, "pre_copy = false", 0),
        (ALL_FLAGS & ~MigrationFlags.PRE_COPY, "", 0),
    ],
)
def test_a_profile_of_a_driver_with_precopy_is_not_for_one_that_has_lost_it(
    host: Host,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: MigrationFlags,
    when: str,
    status: int,
) -> None:
    monkeypatch.setattr(guard, "probe", lambda _: Offer("some_vfio_pci", flags))
    host.checks([make("C1", holds)])
    mine = tmp_path / "mine.toml"
    mine.write_text(f'summary = "mine"\n[when]\n{when}\n')
    found, out, err = host.run(*VFS, "--json", "--profile", str(mine))
    assert found == status
    if status:
        assert out == ""
        assert "the profile mine is that of a driver that offers PRE_COPY; some_vfio_pci" in err
        assert "hint: " in err


def test_checks_are_chosen(host: Host) -> None:
    host.checks([make("C1", holds), make("C1.more", holds), make("C2", fails, level=Level.SHOULD)])

    def ids(*arguments: str) -> list[str]:
        return [line["id"] for line in host.json(*arguments)[1] if line["event"] == "check"]

    assert ids("--only", "c1") == ["C1", "C1.more"]
    assert ids("--only", "C1.more,C2", "--repeat", "2") == ["C1.more", "C2"] * 2
    assert ids("--level", "must") == ["C1", "C1.more"]
    assert host.json("--only", "C2")[0] == 0


def test_what_is_allowed_reaches_the_devices_and_the_checks(host: Host) -> None:
    def asks(context: Context) -> None:
        context.note("may", f"{context.may_rebind} {context.cycles}")

    host.checks([make("C1", asks, rebinds=True), make("C2", holds)])
    status, lines = host.json()
    assert (status, lines[2]["id"], lines[2]["status"]) == (0, "C1", "not run")
    _, lines = host.json("--destructive", "--bind", "--cycles", "7")
    assert lines[1]["steps"] == ["may: True 7"]
    assert host.asked[-2:] == [{"destructive": True}, {"bind": True}]


@pytest.mark.parametrize(
    ("check", "known", "why"),
    [
        (make("C1", holds, rebinds=True), "", "--destructive allows that"),
        (make("C1", holds), '[skip]\nC1 = "it oopses"', "--profile generic runs it"),
    ],
)
def test_a_run_in_which_nothing_ran_is_none(
    host: Host, tmp_path: Path, check: Check, known: str, why: str
) -> None:
    host.checks([check])
    mine = tmp_path / "mine.toml"
    mine.write_text(f'summary = "mine"\n{known}\n')
    status, out, err = host.run(*VFS, "--profile", str(mine))
    assert status == 3
    assert why in " ".join(out.split())
    assert "mlxtrace: error: not run to the end: no check ran: all that were chosen are left" in err


def test_a_hang_ends_it_with_3_and_every_report_has_what_was_found(
    host: Host, tmp_path: Path
) -> None:
    host.checks([make("C1", fails), make("C2", hangs), make("C3", holds)])
    path = tmp_path / "out.xml"
    status, out, err = host.run(*VFS, "--check-timeout", "0.3", "--junit", str(path))
    assert status == 3
    assert "C1 failed" in out
    assert "the run had ended" in out
    assert "mlxtrace: error: not run to the end: a check took longer than 0.3 s" in err
    assert "hint: " in err
    suite = ElementTree.parse(path).getroot()[0]
    assert [suite.get(name) for name in ("tests", "failures", "skipped")] == ["3", "2", "1"]
    assert errors_in(path) == ["not run to the end: a check took longer than 0.3 s"]


def test_devices_that_are_stuck_are_left_alone_and_the_report_comes_out(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "group_members", lambda _: [4711])
    monkeypatch.setattr(worker, "GONE_S", 0.1)
    monkeypatch.setattr(worker, "_PATIENCE_S", 0)
    host.checks([make("C1", fails), make("C6", is_hung)])
    status, out, err = host.run(*VFS)
    assert (status, host.loans[0].hold) == (3, True)
    assert "C1 failed" in out
    assert "C6 failed" in out
    assert "waiting up to 0.1 s for killed processes to go: " in err


def test_ctrl_c_ends_it_with_3_and_a_report(host: Host) -> None:
    parent = os.getpid()

    def interrupts(context: Context) -> None:
        os.kill(parent, signal.SIGINT)
        hangs(context)

    host.checks([make("C1", fails), make("C2", interrupts), make("C3", holds)])
    # A shell starts what runs in its background with SIGINT ignored, and it would stay so.
    outer = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status, lines = host.json()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, outer)
    assert status == 3
    assert [line["status"] for line in lines[1:-1]] == ["failed", "not run", "not run"]
    assert lines[-1]["stopped"] == "interrupted by SIGINT"
    assert lines[-1]["exit_status"] == 3


def test_a_device_that_is_not_given_back_is_told(host: Host) -> None:
    host.troubles = ["0000:01:00.1 was not given back: EBUSY"]
    status, lines = host.json("--only", "C1")
    assert (status, lines[-1]["stopped"]) == (3, host.troubles[0])


def test_a_file_that_cannot_be_written_is_told_before_any_check(host: Host, tmp_path: Path) -> None:
    status, out, err = host.run(*VFS, "--json", "--junit", str(tmp_path / "no/out.xml"))
    assert (status, out) == (2, "")
    assert "cannot write" in err


@pytest.mark.parametrize(("function", "wanted"), [(holds, 3), (fails, 1)])
def test_a_report_that_cannot_be_written_is_told_at_the_end(
    host: Host, function: Callable[[Context], None], wanted: int
) -> None:
    host.checks([make("C1", function)])
    status, out, err = host.run(*VFS, "--json", "--quiet", "--junit", "/dev/full")
    assert status == wanted
    assert err == "mlxtrace: error: cannot write /dev/full: No space left on device\n"
    assert json.loads(out.splitlines()[-1])["exit_status"] == wanted


def test_the_list_needs_no_device(host: Host) -> None:
    host.checks([make("C1", holds, rebinds=True), make("C2", fails, level=Level.SHOULD)])
    status, out, _ = host.run("--list")
    assert status == 0
    assert out.splitlines() == [
        "C1             must   Rule C1 holds.",
        "                      [takes the VF from its driver, or away: --destructive]",
        "C2             should Rule C2 holds.",
    ]
    _, out, _ = host.run("--list", "--json", "--only", "C2")
    assert json.loads(out) == {
        "event": "listed",
        "id": "C2",
        "level": "should",
        "rule": "Rule C2 holds.",
        "needs": ["STOP_COPY"],
        "notes": [],
    }
    assert host.asked == []


def test_the_list_shows_what_a_profile_knows(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(all_checks()) > 40
    with pytest.raises(SystemExit):
        command.main(["--list", "--profile", "upstream-6.12", "--only", "C35.ioctl"])
    assert "[skip: it oopses" in capsys.readouterr().out
