# SPDX-License-Identifier: GPL-2.0-or-later
"""C34, C35, C40, C41, C43: sessions that end early, and what they leave."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
from typing import TYPE_CHECKING, Any

from mlxtrace.checks import fsm, raw
from mlxtrace.checks.child import Child
from mlxtrace.checks.core import DeviationError, Level, NoAnswerError, NotOfferedError, check
from mlxtrace.checks.leaks import Held
from mlxtrace.checks.limits import limits
from mlxtrace.checks.session import OVER, PRE_COPY
from mlxtrace.checks.transfer import read_part
from mlxtrace.checks.undo import bound_again, unbind
from mlxtrace.vfio import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlxtrace.checks.context import Context


@check(
    "C34",
    Level.MUST,
    "A reset brings the device from every state to RUNNING and ends its session: read(), write() "
    "give ENODEV, poll() lets nobody wait (mlx5: it says that the other side is gone). Nothing is "
    "leaked.",
)
def reset_everywhere(context: Context) -> None:
    subject = context.source
    held = Held(context)
    for state in fsm.states(subject.flags):
        saving = fsm.has_session(state) and state is not State.RESUMING
        for part in (0, 1000) if saving else (0,):
            fd = subject.enter(state)
            if part:
                raw.poll_events(fd, limits.answer_s)
                raw.read_errno(fd, part)
            subject.reset()
            if fd >= 0:
                _expect_over(context, fd, state, f"after a reset in {state.name}")
            subject.close_files()
    held.expect_no_more()


@check(
    "C35",
    Level.MUST,
    "Closing the device ends its session in every state; the data file can still be used, and says "
    "so.",
)
def device_closed(context: Context) -> None:
    for state in fsm.states(context.flags):
        fd = context.source.enter(state)
        context.source.forget_files()
        context.close()
        context.note(f"closed the device in {state.name}")
        if fd >= 0:
            expect_stale(context, fd, state, f"after the device was closed in {state.name}", False)


@check(
    "C35.ioctl",
    Level.MUST,
    "VFIO_MIG_GET_PRECOPY_INFO on a data file whose device was closed is refused (EINVAL, ENODEV).",
    needs=PRE_COPY,
    may_hang=True,
)
def info_after_close(context: Context) -> None:
    for state in fsm.states(context.flags):
        if not fsm.has_session(state) or state is State.RESUMING:
            continue
        fd = context.source.enter(state)
        context.source.forget_files()
        context.close()
        when = f"after the device was closed in {state.name}"
        answers = _in_child(lambda fd=fd: {"ioctl": raw.precopy_info(fd).errno}, fd, when)  # type: ignore[misc]
        context.expect_errno(answers["ioctl"], OVER, f"INFO {when}")


@check(
    "C35.unbind",
    Level.MUST,
    "A data file that outlives its device and the device's driver does no harm when it is used.",
    may_hang=True,
    rebinds=True,
)
def device_unbound(context: Context) -> None:
    info = context.source.device.info
    if ":" not in info.name or not info.driver:
        raise NotOfferedError("it is no PCI device")
    for state in fsm.states(context.flags):
        if not fsm.has_session(state):
            continue
        fd = context.source.enter(state)
        context.source.forget_files()
        context.close()
        with bound_again(info.name, info.driver):
            unbind(info.name)
            context.note(f"closed the device in {state.name} and took it from its driver")
            expect_stale(context, fd, state, f"after the driver of {state.name} was gone", True)
    context.source.enter(State.STOP_COPY)
    context.note("the device works again", context.source.state().name)


@check(
    "C40",
    Level.MUST,
    "When the process may open no more files a session cannot begin; the state is one on the way, "
    "and the device can be used again.",
)
def no_more_files(context: Context) -> None:
    subject = context.source
    for state in fsm.states(subject.flags):
        if not fsm.opens_file(State.RUNNING, state, subject.flags):
            continue
        with _no_more_files():
            answer = raw.set_state(subject.fileno(), state)
        reached = subject.state()
        context.expect_errno(answer.errno, (errno.EMFILE,), f"to {state.name} with no file left")
        none = answer.data_fd in (-1, raw.POISON)
        context.expect(none, "data_fd then", str(answer.data_fd), "-1, or not written")
        way = (State.RUNNING, *(fsm.path(State.RUNNING, state, subject.flags) or ()))
        names = ", ".join(each.name for each in way)
        context.expect(reached in way, "the state then", reached.name, f"one of {names}")
        if state is State.RESUMING:
            subject.reset()
        else:
            subject.go(State.RUNNING)
        fd = subject.go(state)
        context.expect(fd >= 0, f"to {state.name} again", f"descriptor {fd}", "a data file")
        subject.close_files()
        subject.reset()


@check(
    "C41",
    Level.MUST,
    "Entering and leaving PRE_COPY, time and again, leaves nothing behind.",
    needs=PRE_COPY,
)
def cycles_leave_nothing(context: Context) -> None:
    subject = context.source

    def cycle(number: int) -> None:
        with subject.device.save(State.PRE_COPY) as stream:
            if number % 4 == 1:
                # Some are left with a SAVE under way, some are read in part, some to their end.
                read_part(stream, 1000)
            elif number % 4 == 2:
                read_part(stream)
            elif number % 4 == 3:
                stream.precopy_info()
            subject.device.set_state(State.RUNNING)

    for number in range(4):
        cycle(number)
    held = Held(context)
    for number in range(context.cycles):
        cycle(number)
        context.goes_on()
    context.note(f"entered and left PRE_COPY {context.cycles} times")
    held.expect_no_more()


@check(
    "C43",
    Level.SHOULD,
    "After PRE_COPY was left for RUNNING the firmware does not go on noting changes.",
    needs=PRE_COPY,
)
def tracking_ends(context: Context) -> None:
    if not context.firmware:
        raise NotOfferedError("only a simulated firmware tells")
    subject = context.source
    for aim in (State.RUNNING, State.RUNNING_P2P, State.STOP):
        if aim not in fsm.states(subject.flags):
            continue
        with subject.save(State.PRE_COPY) as stream:
            read_part(stream)
            context.note("tracked in PRE_COPY", str(context.firmware.tracks(subject.name)))
            subject.go(aim)
            tracks = context.firmware.tracks(subject.name)
            context.expect(not tracks, f"tracked in {aim.name}", str(tracks), "False")
        subject.back()


def _expect_over(context: Context, fd: int, state: State, when: str) -> None:
    """Check that the session whose file is ``fd`` is over."""
    _judge_stale(context, _use(fd, state is State.RESUMING, True), state, when)


def expect_stale(context: Context, fd: int, state: State, when: str, ioctl: bool) -> None:
    """Use a data file that should be good for nothing any more, and close it."""
    answers = _in_child(lambda: _use(fd, state is State.RESUMING, ioctl), fd, when)
    _judge_stale(context, answers, state, when)


def _in_child(use: Callable[[], dict[str, Any]], fd: int, when: str) -> dict[str, Any]:
    """Use ``fd`` in a process of its own, since the kernel may come to harm, and close it."""
    child = Child(use, keep=[fd])
    os.close(fd)
    try:
        return dict(child.result(limits.answer_s))
    except TimeoutError as error:
        child.kill()
        raise NoAnswerError(f"using the data file {when}: {error}") from None
    except ChildProcessError as error:
        raise DeviationError(f"using the data file {when}: {error}") from None


def _use(fd: int, resuming: bool, ioctl: bool) -> dict[str, Any]:
    """Make every call that a data file has, INFO if ``ioctl``; return what the kernel said."""
    said: dict[str, Any] = {"ioctl": raw.precopy_info(fd).errno} if ioctl else {}
    if resuming:
        # One byte: some drivers look at the length first, and have little room.
        return said | {"write": raw.write_errno(fd, b"x")}
    got = raw.read_errno(fd)
    said["read"] = got if isinstance(got, int) else "data"
    said["poll"] = raw.poll_events(fd)
    return said


def _judge_stale(context: Context, answers: dict[str, Any], state: State, when: str) -> None:
    if "ioctl" in answers:
        # ENOTTY for a resuming file, and where the driver has no pre-copy.
        context.expect_errno(answers["ioctl"], (*OVER, errno.ENOTTY), f"INFO {when}")
    if state is State.RESUMING:
        context.expect_errno(answers["write"], (errno.ENODEV,), f"writing {when}")
        return
    read = answers["read"]
    shown = raw.answer(read) if isinstance(read, int) else read
    context.expect(read == errno.ENODEV, f"reading {when}", shown, "ENODEV")
    # The uAPI wants a reader to be woken; only mlx5-vfio-pci tells him why.
    gone = select.POLLIN | (select.POLLRDHUP if context.is_mlx5 else 0)
    names = "POLLIN and POLLRDHUP" if context.is_mlx5 else "POLLIN"
    context.expect(
        answers["poll"] & gone == gone,
        f"poll() {when}",
        hex(answers["poll"]),
        f"{gone:#x}: {names}",
    )


@contextlib.contextmanager
def _no_more_files() -> Iterator[None]:
    """Let this process open no more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first_free = os.dup(0)
    os.close(first_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
