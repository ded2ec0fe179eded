# SPDX-License-Identifier: GPL-2.0-or-later
"""C1 to C9: what may be asked of a device, and which state it is in then."""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

from mlxtrace.checks import fsm, raw
from mlxtrace.checks.core import DeviationError, Level, NotOfferedError, check
from mlxtrace.checks.midstream import expect_spared
from mlxtrace.checks.transfer import READ_BYTES, whole_stream, write_whole
from mlxtrace.vfio import Device, MigrationFlags, State

if TYPE_CHECKING:
    from mlxtrace.checks.context import Context
    from mlxtrace.checks.subject import Subject

NONSENSE = (State.ERROR, 8, 0xFFFFFFFF)
"""No device can be asked for these."""


@check("C1", Level.MUST, "A device that was just opened is RUNNING and has no data file.")
def opened_running(context: Context) -> None:
    subject = context.source
    if not subject.device.info.is_mediated:
        # Opening a PCI device resets it. What the last user left another one in is for C1.again.
        found = subject.found
        context.expect(found is State.RUNNING, "opened; its state", found.name, "RUNNING")
    number, state, data_fd = raw.get_state(subject.fileno())
    context.expect_errno(number, (0,), "reading the state of a device that was just opened")
    context.expect(state == State.RUNNING, "its state", str(state), "RUNNING (2)")
    context.expect(data_fd == -1, "its data_fd", str(data_fd), "-1")


@check(
    "C1.again",
    Level.MUST,
    "A device that is opened again is RUNNING, whatever state it was closed in.",
)
def opened_again(context: Context) -> None:
    for state in fsm.states(context.flags):
        context.source.enter(state)
        name = context.source.name
        context.close()
        with Device.open(name) as device:
            found = device.make_running()
        context.expect(
            found is State.RUNNING, f"closed in {state.name} and opened", found.name, "RUNNING"
        )


@check(
    "C2",
    Level.MUST,
    "A driver that offers migration offers STOP_COPY.",
    needs=MigrationFlags(0),
)
def stop_copy_offered(context: Context) -> None:
    flags = context.source.device.migration_flags()
    context.expect(
        MigrationFlags.STOP_COPY in flags, "the migration flags", hex(flags), "bit 0, STOP_COPY"
    )


@check(
    "C4",
    Level.MUST,
    "PRE_COPY is refused (EINVAL) where it is not offered, and PRE_COPY_P2P where P2P or PRE_COPY "
    "is not; the state stays.",
)
def absent_states_refused(context: Context) -> None:
    subject = context.source
    absent = [state for state in fsm.STATES if not fsm.supported(state, subject.flags)]
    if not absent:
        raise NotOfferedError("the device has all states")
    for start in (State.RUNNING, State.STOP, State.STOP_COPY):
        subject.enter(start)
        for aim in absent:
            _expect_refusal(context, subject, aim)
        subject.back()


@check(
    "C5",
    Level.MUST,
    "Every state can be reached from every other one, but for STOP_COPY to PRE_COPY and "
    "PRE_COPY_P2P. A data file is returned if the last step of the way begins a session.",
)
def every_pair(context: Context) -> None:
    subject = context.source
    stream = whole_stream(context)
    subject.reset()
    wrong: list[str] = []
    pairs = [
        (start, aim)
        for start in fsm.states(subject.flags)
        for aim in fsm.states(subject.flags)
        if fsm.path(start, aim, subject.flags) is not None
    ]
    for start, aim in pairs:
        fd = subject.enter(start)
        if start is State.RESUMING and aim is not start:
            write_all(fd, stream)
        answer = subject.ask(aim)
        wanted = fsm.opens_file(start, aim, subject.flags)
        reached = subject.state()
        if answer.errno or reached is not aim or (answer.data_fd != -1) is not wanted:
            wrong.append(f"{start.name} to {aim.name}: {answer}, then {reached.name}")
        # A state that was loaded is not a base to save the next stream's from.
        if State.RESUMING in (start, aim):
            subject.close_files()
            subject.reset()
        subject.back()
    context.deny(wrong, "all pairs of states", len(pairs), "the aim, and a data file where due")


@check(
    "C6",
    Level.MUST,
    "STOP_COPY to PRE_COPY or PRE_COPY_P2P is refused at once (EINVAL); the device stays in "
    "STOP_COPY and its data file goes on.",
    may_hang=True,
)
def no_way_back_to_precopy(context: Context) -> None:
    ask = partial(_ask_for_precopy, context)
    expect_spared(context, State.STOP_COPY, ask, "requests for PRE_COPY")


def _ask_for_precopy(context: Context, subject: Subject) -> None:
    for aim in (State.PRE_COPY, State.PRE_COPY_P2P):
        answer = context.promptly(subject, aim)
        context.expect_errno(answer.errno, (errno.EINVAL,), f"STOP_COPY to {aim.name}")
        state = subject.state()
        context.expect(state is State.STOP_COPY, "the state then", state.name, "STOP_COPY")


@check(
    "C7", Level.MUST, "ERROR and numbers that are no state are refused (EINVAL); the state stays."
)
def nonsense_refused(context: Context) -> None:
    subject = context.source
    for start in fsm.states(subject.flags):
        subject.enter(start)
        for aim in NONSENSE:
            _expect_refusal(context, subject, aim)
        subject.back()


@check(
    "C8",
    Level.MUST,
    "Asking for the state that the device is in does nothing: no data file, and the session goes "
    "on.",
)
def same_state(context: Context) -> None:
    for state in fsm.states(context.flags):
        ask = partial(_ask_for_the_same, context, state)
        expect_spared(context, state, ask, f"requests for {state.name} itself")


def _ask_for_the_same(context: Context, state: State, subject: Subject) -> None:
    answer = subject.ask(state)
    context.expect(
        answer == raw.StateAnswer(0, -1),
        f"{state.name} to {state.name}",
        str(answer),
        "success without a data file",
    )
    after = subject.state()
    context.expect(after is state, "the state then", after.name, state.name)


@check(
    "C9",
    Level.MUST,
    "After a refusal or a failure there is no data file (-1), and the device is in the state where "
    "it was or one on the way.",
)
def failures_stay_on_the_way(context: Context) -> None:
    """What fails depends on the device; a faulty firmware makes more of it."""
    subject = context.source
    aims: list[State] = [aim for aim in fsm.states(subject.flags) if aim is not State.RUNNING]
    failed = _count_failures(context, [(aim,) for aim in (*aims, *NONSENSE)])
    aims[aims.index(State.STOP)] = State.RUNNING
    failed += _count_failures(context, [(State.STOP, aim) for aim in aims])
    context.note("requests that failed", str(failed))


def _count_failures(context: Context, requests: list[tuple[int, ...]]) -> int:
    """Make each series of requests from RUNNING, and judge the first one of it that fails."""
    subject = context.source
    failed = 0
    for request in requests:
        before = State.RUNNING
        for aim in request:
            answer = subject.ask(aim)
            if answer.errno:
                failed += 1
                expect_on_the_way(context, subject, before, aim, answer)
                if subject.state() is not State.RUNNING:
                    subject.reset()
                break
            before = State(aim)
        subject.back()
    return failed


def expect_on_the_way(
    context: Context, subject: Subject, start: State, aim: int, answer: raw.StateAnswer
) -> None:
    """Check what a request that failed has left: no data file, and a state on the way."""
    way: tuple[State, ...] = (start,)
    if aim in fsm.STATES:
        way += fsm.path(start, State(aim), subject.flags) or ()
    did = f"{start.name} to {aim.name if isinstance(aim, State) else hex(aim)}, which failed"
    context.expect(answer.data_fd == -1, f"{did}: data_fd", str(answer.data_fd), "-1")
    state = subject.state()
    names = ", ".join(each.name for each in way)
    context.expect(state in way, f"{did}: the state", state.name, f"one of {names}")


def _expect_refusal(context: Context, subject: Subject, aim: int) -> None:
    """Ask for a state that cannot be had, and check that nothing happens."""
    before = subject.state()
    answer = subject.ask(aim)
    name = aim.name if isinstance(aim, State) else hex(aim)
    context.expect_errno(answer.errno, (errno.EINVAL,), f"{before.name} to {name}")
    after = subject.state()
    context.expect(after is before, "the state then", after.name, before.name)


def write_all(fd: int, data: bytes) -> None:
    """Write a stream to a resuming file."""
    view = memoryview(data)
    for start in range(0, len(view), READ_BYTES):
        if number := write_whole(fd, view[start : start + READ_BYTES]):
            raise DeviationError(f"writing the source's own stream: {raw.answer(number)}")
