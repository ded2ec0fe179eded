# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking for something in the middle of a session, which has to go on where it was.

That data comes afterwards proves little: whether it is the data that was next is seen when all of
it is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxtrace.checks import fsm
from mlxtrace.checks.transfer import (
    expect_loads,
    expect_same_state,
    read_all,
    read_part,
    whole_stream,
    write_whole,
)
from mlxtrace.vfio import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlxtrace.checks.context import Context
    from mlxtrace.checks.subject import Subject
    from mlxtrace.vfio import ResumingStream, SavingStream

    Ask = Callable[[Subject], None]

PARTS = (0, 10, 1000)
"""How many bytes are read before each time that something is asked: none, while the first SAVE may
run; then a part of a record's header, and one of an image. Some drivers have less."""


def expect_spared(context: Context, state: State, ask: Ask, what: str) -> None:
    """Call ``ask`` in the middle of a session in ``state``, and check that the session goes on.

    ``ask`` gets the device that is in ``state``, and leaves it there. Where ``state`` has no
    session it is called all the same, once.

    Args:
        context: the devices; both are RUNNING before and afterwards.
        state: one that the driver offers.
        ask: asks for what is refused, or does nothing.
        what: the same in words: ``a request that was refused``.
    """
    subject = context.source
    if state is State.RESUMING:
        _resuming(context, ask, what)
    elif fsm.has_session(state):
        with subject.save(state) as stream:
            data = _disturbed(subject, stream, ask)
            if state is not State.STOP_COPY:
                # What is left unread there is the affair of other rules.
                data += read_part(stream)[0]
                subject.go(State.STOP_COPY)
            data += read_all(context, subject, stream)
            expect_loads(context, [data], f"a stream from {state.name} on, with {what} amid it")
    else:
        subject.enter(state)
        ask(subject)
    subject.back()


def _disturbed(subject: Subject, stream: SavingStream, ask: Ask) -> bytes:
    """Call ``ask`` after each of :data:`PARTS`; return what was read."""
    data = b""
    for part in PARTS:
        data += read_part(stream, part)[0]
        ask(subject)
    return data


def _resuming(context: Context, ask: Ask, what: str) -> None:
    """Call ``ask`` in the middle of an image that is being loaded."""
    data = whole_stream(context)
    target = context.target
    with target.resume() as stream:
        middle = len(data) // 2
        _write(context, stream, data[:middle], "the first half of a stream")
        ask(target)
        _write(context, stream, data[middle:], f"the second half, after {what}")
        answer = target.ask(State.STOP, f", after {what} amid {len(data)} bytes")
    context.expect_errno(answer.errno, (0,), f"loading a stream, with {what} in the middle of it")
    expect_same_state(context)
    target.reset()


def _write(context: Context, stream: ResumingStream, data: bytes, what: str) -> None:
    number = write_whole(stream.fileno(), data)
    context.expect_errno(number, (0,), f"writing {what}")
