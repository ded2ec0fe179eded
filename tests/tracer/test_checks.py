# SPDX-License-Identifier: GPL-2.0-or-later
"""What the checks are made of: records, the state machine, bad arguments, child processes."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import platform
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from genbindings.errors import Error
from mlxtrace.checks import Context, Status, all_checks, compat, core, fsm, raw, run, streams
from mlxtrace.checks.child import Child
from mlxtrace.checks.core import DeviationError, Level, NoAnswerError, NotOfferedError
from mlxtrace.checks.limits import limits
from mlxtrace.vfio import MigrationFlags, State, VfioError

from .fake_device import ALL_FLAGS, TABLE, FakeSaving
from .fake_driver import SOURCE, TARGET, FakeDriver

if TYPE_CHECKING:
    from collections.abc import Callable

STOP_COPY, P2P, PRE_COPY = MigrationFlags
DESCRIPTORS = Path("/proc/self/fd")
STATEMENTS = {f"C{number}" for number in range(1, 47)}


class FakeContext(Context):
    """A context without devices."""

    def __init__(self, flags: MigrationFlags = ALL_FLAGS) -> None:
        super().__init__("source", "target")
        self._flags = flags
        self._driver = "mlx5_vfio_pci"
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def check(function: Callable[[Context], None], **more: Any) -> core.Check:
    return core.Check("C99", Level.MUST, "A rule.", function, **more)


def test_every_statement_has_a_check() -> None:
    assert {each.statement for each in all_checks()} == STATEMENTS


def test_every_check_has_a_rule_in_a_sentence_and_an_identifier() -> None:
    for each in all_checks():
        assert re.fullmatch(r"C\d+(\.[a-z]+)?", each.id)
        assert each.rule.endswith(".")
        # The one about STOP_COPY itself has to fail where that is missing.
        assert (MigrationFlags.STOP_COPY in each.needs) is (each.id != "C2")
    identifiers = [each.id for each in all_checks()]
    assert len(set(identifiers)) == len(identifiers)


def test_migration_without_stop_copy_is_a_failure_and_not_something_that_is_not_offered() -> None:
    class Lacking(FakeContext):
        source = SimpleNamespace(device=SimpleNamespace(migration_flags=lambda: P2P))  # type: ignore[assignment]

    about = next(each for each in all_checks() if each.id == "C2")
    assert run(about, Lacking(P2P)).status is Status.FAILED


def test_what_may_hang_and_what_destroys_comes_last_and_the_rest_by_number() -> None:
    order = [(each.destructive, each.may_hang, int(each.statement[1:])) for each in all_checks()]
    assert order == sorted(order)
    hanging = [each.id for each in all_checks() if each.may_hang]
    assert hanging == [
        "C6",
        "C35.held",
        "C35.ioctl",
        "C35.unbind",
        "C42.race",
        "C42.reset",
        "C35.sriov",
    ]
    assert [each.id for each in all_checks() if each.destructive] == ["C35.sriov"]


def test_a_check_that_returns_has_passed_and_its_steps_are_kept() -> None:
    context = FakeContext()
    outcome = run(check(lambda it: it.expect(True, "asked", "an answer", "it")), context)
    assert outcome.status is Status.PASSED
    assert [str(step) for step in outcome.steps] == ["asked: an answer"]
    assert context.closed == 1
    assert run(check(lambda it: it.note("another")), context).steps[0].did == "another"
    assert [str(step) for step in outcome.steps] == ["asked: an answer"]


def test_a_deviation_names_the_step_the_answer_and_what_the_rule_wants() -> None:
    context = FakeContext()
    outcome = run(check(lambda it: it.expect_errno(0, (errno.EINVAL,), "asked for 8")), context)
    assert outcome.status is Status.FAILED
    assert outcome.reason == "asked for 8: 0; the rule wants EINVAL"
    assert not outcome.hung
    assert context.closed == 1


def test_of_many_cases_the_wrong_ones_are_named() -> None:
    outcome = run(check(lambda it: it.deny(["A to B: EIO"], "all", 3, "success")), FakeContext())
    assert "2 of 3" in outcome.reason
    assert "A to B: EIO" in outcome.reason


def raising(error: Exception) -> Callable[[Context], None]:
    def function(_: Context) -> None:
        raise error

    return function


@pytest.mark.parametrize(
    "error",
    [
        VfioError("vf", "reading", errno.EIO),
        ChildProcessError("it died"),
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        TimeoutError("no answer within 5 s"),
    ],
)
def test_an_answer_that_no_check_foresaw_is_a_failure(error: Exception) -> None:
    def function(context: Context) -> None:
        context.note("to STOP_COPY", "a data file")
        raise error

    outcome = run(check(function), FakeContext())
    assert outcome.status is Status.FAILED
    assert str(error) in outcome.reason
    assert "not expected" in outcome.reason
    if not isinstance(error, VfioError):
        assert outcome.reason.startswith("after to STOP_COPY: a data file: ")


def test_an_answer_at_once_that_no_check_foresaw_is_a_failure() -> None:
    outcome = run(check(raising(OSError(errno.EIO, "no"))), FakeContext())
    assert outcome.status is Status.FAILED
    assert outcome.reason.startswith("at its first step: ")


def test_what_hangs_leaves_the_devices_alone() -> None:
    context = FakeContext()
    outcome = run(check(raising(NoAnswerError("nothing came"))), context)
    assert (outcome.status, outcome.hung, context.closed) == (Status.FAILED, True, 0)


def test_a_device_that_cannot_be_opened_is_no_deviation() -> None:
    context = FakeContext()
    with pytest.raises(Error, match="in use"):
        run(check(raising(Error("vf: in use"))), context)
    assert context.closed == 1


def test_what_the_driver_lacks_is_not_offered_and_named() -> None:
    def never(_: Context) -> None:
        raise AssertionError

    context = FakeContext(STOP_COPY)
    outcome = run(check(never, needs=STOP_COPY | P2P | PRE_COPY), context)
    assert outcome.status is Status.NOT_OFFERED
    assert "P2P, PRE_COPY" in outcome.reason
    outcome = run(check(never, rebinds=True), context)
    assert (outcome.status, outcome.hung) == (Status.NOT_OFFERED, False)
    assert "not allowed" in outcome.reason
    outcome = run(check(never, destructive=True), context)
    assert (outcome.status, outcome.hung) == (Status.NOT_OFFERED, False)
    assert "not allowed" in outcome.reason
    outcome = run(check(raising(NotOfferedError("no clock"))), context)
    assert (outcome.status, outcome.reason) == (Status.NOT_OFFERED, "no clock")


def test_an_identifier_is_taken_once() -> None:
    with pytest.raises(AssertionError):
        core.check("C1", Level.MUST, "Again.")(lambda _: None)


@pytest.mark.parametrize("aim", fsm.STATES)
@pytest.mark.parametrize("start", fsm.STATES)
def test_the_ways_are_those_of_the_other_model(start: State, aim: State) -> None:
    order = list(TABLE)
    theirs = TABLE[start][order.index(aim)]
    ours = fsm.path(start, aim, ALL_FLAGS)
    assert ours == (None if State.ERROR in theirs else theirs)


def arcs(flags: MigrationFlags) -> set[tuple[State, State]]:
    """Return the pairs that a driver is asked for directly: all ways are made of them."""
    found = set()
    for start, aim in itertools.product(fsm.states(flags), repeat=2):
        way = fsm.path(start, aim, flags)
        if way:
            found |= set(itertools.pairwise((start, *way)))
    return found


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        (STOP_COPY | P2P | PRE_COPY, 15),
        (STOP_COPY | PRE_COPY, 9),
        (STOP_COPY | P2P, 8),
        (STOP_COPY, 6),
    ],
)
def test_drivers_have_as_many_arcs_as_the_uapi_says(flags: MigrationFlags, count: int) -> None:
    assert len(arcs(flags)) == count


def test_states_that_are_not_offered_are_skipped_and_not_reached() -> None:
    assert fsm.path(State.RUNNING, State.STOP_COPY, STOP_COPY) == (State.STOP, State.STOP_COPY)
    assert fsm.path(State.RUNNING, State.PRE_COPY_P2P, STOP_COPY | PRE_COPY) is None
    assert fsm.path(State.RUNNING, State.PRE_COPY, STOP_COPY | P2P) is None
    assert State.RUNNING_P2P not in fsm.states(STOP_COPY | PRE_COPY)


def test_a_file_comes_with_the_last_arc_of_a_new_session() -> None:
    opening = {
        (start, aim)
        for start, aim in itertools.product(fsm.STATES, repeat=2)
        if fsm.opens_file(start, aim, ALL_FLAGS)
    }
    assert (State.PRE_COPY, State.STOP_COPY) not in opening
    assert (State.PRE_COPY, State.PRE_COPY_P2P) not in opening
    assert (State.STOP, State.STOP) not in opening
    assert (State.RUNNING, State.STOP_COPY) in opening
    assert (State.STOP_COPY, State.RESUMING) in opening
    assert (State.RUNNING_P2P, State.PRE_COPY) in opening
    assert {aim for _, aim in opening} == {each for each in fsm.STATES if fsm.has_session(each)}


def test_a_child_returns_what_its_function_did_and_has_only_the_files_it_was_given() -> None:
    reading, writing = os.pipe()
    try:
        child = Child(
            lambda: sorted(int(path.name) for path in DESCRIPTORS.iterdir()), keep=[reading]
        )
        found = child.result(10)
        assert reading in found
        assert writing not in found
    finally:
        os.close(reading)
        os.close(writing)


def test_a_child_that_does_not_answer_can_be_given_up() -> None:
    before = len(list(DESCRIPTORS.iterdir()))
    child = Child(lambda: time.sleep(60))
    assert child.sleeps(10)
    with pytest.raises(TimeoutError):
        child.result(0.01)
    child.kill()
    child.kill()
    assert len(list(DESCRIPTORS.iterdir())) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(child.pid, 0)


def test_a_child_that_was_killed_may_take_its_time_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that waits in the kernel, for firmware, does."""
    child = Child(lambda: time.sleep(60))
    looks = [(0, 0), (0, 0), (child.pid, 0)]
    with monkeypatch.context() as patch:
        patch.setattr(os, "waitpid", lambda *_: looks.pop(0))
        assert child.kill(10)
    assert not looks
    os.waitpid(child.pid, 0)
    child = Child(lambda: time.sleep(60))
    with monkeypatch.context() as patch:
        patch.setattr(os, "waitpid", lambda *_: (0, 0))
        assert not child.kill(0.01)
    os.waitpid(child.pid, 0)


def test_a_child_that_dies_says_how() -> None:
    with pytest.raises(ChildProcessError, match="SIGABRT"):
        Child(os.abort).result(10)
    with pytest.raises(ChildProcessError, match="status 1"):
        Child(lambda: 1 // 0).result(10)


def test_a_page_ends_where_it_is_said_to() -> None:
    reading, writing = os.pipe()
    try:
        size = os.sysconf("SC_PAGESIZE")
        with raw.page(b"abcdef", offset=size - 4) as address:
            assert ctypes.string_at(address, 4) == b"abcd"
            assert raw.write(writing, address, 4) == 0
            # A pipe takes what can be read before it says what cannot.
            assert raw.write(writing, address + 4, 1) == errno.EFAULT
        assert raw.read_errno(reading, 10) == b"abcd"
        with raw.page(b"abcd", writable=False) as address:
            assert raw.ioctl(writing, 0x541B, address) == errno.EFAULT  # FIONREAD
        with raw.page(b"abcd") as address:
            assert raw.ioctl(writing, 0x541B, address) == 0
        assert raw.write(writing, 0, 1) == errno.EFAULT
    finally:
        os.close(reading)
        os.close(writing)


def test_errors_come_back_as_numbers() -> None:
    with Path(os.devnull).open("rb") as null:
        fd = null.fileno()
        assert raw.set_state(fd, 8) == raw.StateAnswer(errno.ENOTTY, raw.POISON)
        assert raw.get_state(fd)[0] == errno.ENOTTY
        answer = raw.precopy_info(fd, 4096)
        assert (answer.errno, set(answer.rest)) == (errno.ENOTTY, {0x5A})
        assert (answer.info.argsz, str(answer)) == (4096, "ENOTTY")
        assert raw.write_errno(fd, b"x") == errno.EBADF
        assert raw.read_errno(fd) == b""
    assert str(raw.StateAnswer(0, -1)) == "0, no data file"
    assert raw.answer(0) == "0"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="32-bit calls are x86-64's")
def test_32_bit_calls_reach_the_kernel_or_the_child_dies() -> None:
    with Path(os.devnull).open("rb") as null:
        fd = null.fileno()
        child = Child(lambda: compat.ask(fd, fd), keep=[fd])
        try:
            answer = child.result(10)
        except ChildProcessError as error:
            assert "SIG" in str(error)  # noqa: PT017 - either will do
        else:
            assert (answer["feature"], answer["info"]) == (errno.ENOTTY, errno.ENOTTY)


def answers(**others: int) -> dict[str, int]:
    """Return what the 32-bit calls of a device in PRE_COPY say that keeps the rule."""
    said = {"feature": 0, "state": int(State.PRE_COPY), "again": 0, "again_fd": -1}
    said |= {"unknown": errno.ENOTTY, "null": errno.EFAULT, "info": 0, "initial": 0}
    return said | others


@pytest.mark.parametrize(
    ("ask", "status", "hung", "told"),
    [
        (answers, Status.PASSED, False, ""),
        (lambda: answers(info=errno.ENOTTY), Status.FAILED, False, "ENOTTY"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), Status.NOT_OFFERED, False, "SIGSEGV"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), Status.FAILED, False, "SIGKILL"),
        (lambda: 1 // 0, Status.FAILED, False, "status 1"),
        (lambda: time.sleep(60), Status.FAILED, True, "32-bit calls: no answer within 0.3 s"),
        (lambda: {"refused": errno.EACCES}, Status.NOT_OFFERED, False, "EACCES"),
        (
            lambda: answers(**dict.fromkeys(compat.CALLS, errno.ENOSYS)),
            Status.NOT_OFFERED,
            False,
            "ENOSYS",
        ),
        (lambda: answers(info=errno.ENOSYS), Status.FAILED, False, "ENOSYS"),
    ],
)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="32-bit calls are x86-64's")
def test_only_a_kernel_without_32_bit_calls_is_spared_their_rule(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[], object],
    status: Status,
    hung: bool,
    told: str,
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch)
    initial = FakeSaving(driver.devices[SOURCE])
    initial.announce_stop_copy_size()
    initial.start(full=True, track=True)
    wanted = initial.initial_bytes

    def ask_it(*_: int) -> object:
        said = ask()
        return said | {"initial": wanted} if isinstance(said, dict) else said

    monkeypatch.setattr(compat, "ask", ask_it)
    if hung:
        monkeypatch.setattr(limits, "check_s", 1.5)
    about = next(each for each in all_checks() if each.id == "C24.compat")
    outcome = run(about, Context(SOURCE, TARGET, firmware=driver.firmware))
    assert (outcome.status, outcome.hung) == (status, hung)
    assert told in outcome.reason


def test_a_deviation_is_an_exception_of_its_own() -> None:
    assert issubclass(NoAnswerError, DeviationError)
    assert not issubclass(DeviationError, Error)


def test_a_writev_whose_rest_is_refused_is_a_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(os, "writev", lambda *_: 1)
    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(DeviationError, match=r"writev\(\) of 2 bytes: No such device"):
        streams._write_vector(3, [b"ab"])
