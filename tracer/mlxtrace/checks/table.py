# SPDX-License-Identifier: GPL-2.0-or-later
"""C5, C7, C12: what becomes of a session on the way from each state to each other one."""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

from mlxtrace.checks import fsm, raw
from mlxtrace.checks.core import DeviationError, Level, check
from mlxtrace.checks.limits import limits
from mlxtrace.checks.midstream import expect_spared
from mlxtrace.checks.session import PRE_COPY, PRE_COPY_P2P
from mlxtrace.checks.states import NONSENSE, write_all
from mlxtrace.checks.transfer import whole_stream
from mlxtrace.vfio import State

if TYPE_CHECKING:
    from mlxtrace.checks.context import Context
    from mlxtrace.checks.subject import Subject
    from mlxtrace.vfio import MigrationFlags

OVER_S = 0.5
"""How long a file is waited for whose session has ended: it should say so at once."""
SAVING = (State.PRE_COPY, State.PRE_COPY_P2P, State.STOP_COPY)


@check(
    "C5.session",
    Level.MUST,
    "Between PRE_COPY, PRE_COPY_P2P and STOP_COPY the session goes on in its file; on every other "
    "way it ends, and its file gives ENODEV. A new file is one that its state can use.",
)
def every_session(context: Context) -> None:
    subject = context.source
    stream = whole_stream(context)
    subject.reset()
    wrong: list[str] = []
    count = 0
    for start in fsm.states(subject.flags):
        for aim in fsm.states(subject.flags):
            if fsm.path(start, aim, subject.flags) is None or aim is start:
                continue
            count += 1
            wrong += _pair(subject, start, aim, stream)
            subject.close_files()
            # A state that was loaded is not a base to save the next stream's from.
            if State.RESUMING in (start, aim):
                subject.reset()
            subject.back()
    context.deny(wrong, "files of all pairs of states", count, "a session that goes on or ends")


def _pair(subject: Subject, start: State, aim: State, stream: bytes) -> list[str]:
    """Go from ``start`` to ``aim``; return what is wrong with the files of both."""
    old = subject.enter(start)
    if start is State.RESUMING:
        write_all(old, stream)
    answer = subject.ask(aim)
    name = f"{start.name} to {aim.name}"
    if answer.errno:
        return [f"{name}: {answer}"]
    found = []
    if old >= 0:
        goes_on = start in SAVING and aim in SAVING
        said = _said(old, start, None if goes_on else OVER_S)
        if (said == errno.ENODEV) is goes_on:
            found.append(f"{name}: the first state's file says {raw.answer(said)}")
    if answer.data_fd >= 0 and _said(answer.data_fd, aim):
        found.append(f"{name}: the new file says {raw.answer(_said(answer.data_fd, aim))}")
    return found


def _said(fd: int, state: State, timeout_s: float | None = None) -> int:
    """Return the errno of a data file; 0 for one that gives data, an end, or takes it.

    Data that is not there yet is waited for: so long, or as long as any answer.
    """
    if state is State.RESUMING:
        return raw.write_errno(fd, b"\0")
    if not raw.poll_events(fd, 0):
        # In PRE_COPY poll() says nothing of an end; in STOP_COPY there is data on its way.
        got = raw.read_errno(fd, 1)
        if got == errno.EAGAIN:
            raw.poll_events(fd, limits.answer_s if timeout_s is None else timeout_s)
    got = raw.read_errno(fd, 16)
    return 0 if isinstance(got, bytes) or got == errno.ENOMSG else got


@check(
    "C5.walk",
    Level.MUST,
    "A long way through the states, each asked for from where the last one led, follows the same "
    "table.",
)
def long_way(context: Context) -> None:
    subject = context.source
    flags = subject.flags
    left = {
        start: [aim for aim in _walked(flags) if aim is not start and fsm.path(start, aim, flags)]
        for start in _walked(flags)
    }
    here, wrong, count = State.RUNNING, [], 0
    while any(left.values()):
        if left[here]:
            aim = left[here].pop()
        else:
            aim = next(
                (each for each in left if left[each] and fsm.path(here, each, flags)),
                State.RUNNING,
            )
        count += 1
        answer = subject.ask(aim)
        file, reached = fsm.opens_file(here, aim, flags), subject.state()
        if answer.errno or reached is not aim or (answer.data_fd != -1) is not file:
            wrong.append(f"{here.name} to {aim.name}: {answer}, then {reached.name}")
            subject.back()
            aim = State.RUNNING
        here = aim
    context.deny(wrong, "a way through all states", count, "the aim, and a data file where due")


def _walked(flags: MigrationFlags) -> list[State]:
    """Return the states that need no stream to be left."""
    return [state for state in fsm.states(flags) if state is not State.RESUMING]


@check(
    "C7.session",
    Level.MUST,
    "A refused request leaves the session alone: its file goes on where it was.",
)
def refusal_spares_session(context: Context) -> None:
    for state in fsm.states(context.flags):
        if fsm.has_session(state):
            ask = partial(_ask_for_nonsense, context, state)
            expect_spared(context, state, ask, "requests that were refused")


def _ask_for_nonsense(context: Context, state: State, subject: Subject) -> None:
    for aim in NONSENSE:
        number = subject.ask(aim).errno
        context.expect_errno(number, (errno.EINVAL,), f"{state.name} to {int(aim):#x}")


@check(
    "C12.peers",
    Level.SHOULD,
    "A session that begins in PRE_COPY_P2P has initial data as well, which can be read there.",
    needs=PRE_COPY_P2P,
)
def begin_in_p2p(context: Context) -> None:
    subject = context.source
    for start in (State.RUNNING, State.RUNNING_P2P):
        subject.enter(start)
        fd = subject.go(State.PRE_COPY_P2P)
        raw.poll_events(fd, limits.answer_s)
        answer = raw.precopy_info(fd)
        holds = answer.errno == 0 and answer.info.initial_bytes > 0
        context.expect(holds, "INFO in PRE_COPY_P2P", str(answer), "initial_bytes > 0")
        if not raw.poll_events(fd, limits.answer_s):
            raise DeviationError(f"no data for {limits.answer_s:g} s in PRE_COPY_P2P")
        got = raw.read_errno(fd, 1000)
        shown = raw.answer(got) if isinstance(got, int) else f"{len(got)} bytes"
        context.expect(isinstance(got, bytes) and bool(got), "reading 1000 bytes", shown, "data")
        subject.back()


@check(
    "C20.given",
    Level.SHOULD,
    "VFIO_MIG_GET_PRECOPY_INFO with flags that mean nothing yet is refused (EINVAL) or answered, "
    "and never changes what is left.",
    needs=PRE_COPY,
)
def flags_given(context: Context) -> None:
    context.idle()
    fd = context.source.go(State.PRE_COPY)
    before = raw.precopy_info(fd)
    for flags in (1, 1 << 31, 0xFFFFFFFF):
        answer = raw.precopy_info(fd, flags=flags)
        context.expect_errno(answer.errno, (0, errno.EINVAL), f"INFO with flags {flags:#x}")
    after = raw.precopy_info(fd)
    context.expect(str(after) == str(before), "INFO after that", str(after), str(before))
