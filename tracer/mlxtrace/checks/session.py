# SPDX-License-Identifier: GPL-2.0-or-later
"""C10, C11, C21, C22, C28, C29, C42: a saving session, from its first state to its last."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

from mlxtrace.checks import fsm, raw
from mlxtrace.checks.core import Level, check
from mlxtrace.checks.transfer import announce, expect_loads, read_all, read_part
from mlxtrace.vfio import End, MigrationFlags, State

if TYPE_CHECKING:
    from mlxtrace.checks.context import Context

PRE_COPY = MigrationFlags.STOP_COPY | MigrationFlags.PRE_COPY
PRE_COPY_P2P = PRE_COPY | MigrationFlags.P2P
OVER = (errno.EINVAL, errno.ENODEV)
"""VFIO_MIG_GET_PRECOPY_INFO outside of pre-copy, or in a session that is over."""


@check(
    "C10",
    Level.MUST,
    "PRE_COPY, PRE_COPY_P2P and STOP_COPY share one data file and one stream, however often the "
    "device goes to and fro between the first two.",
    needs=PRE_COPY_P2P,
)
def one_file_for_all(context: Context) -> None:
    subject = context.source
    data = b""
    with subject.save(State.PRE_COPY) as stream:
        for aim in (State.PRE_COPY_P2P, State.PRE_COPY, State.PRE_COPY_P2P, State.STOP_COPY):
            part, _ = read_part(stream, 100_000)
            data += part
            answer = subject.ask(aim)
            context.expect(
                answer == raw.StateAnswer(0, -1),
                f"to {aim.name}",
                str(answer),
                "success without a second data file",
            )
        data += read_all(context, subject, stream)
        expect_loads(context, [data], "what was read of it in all of these states")


@check(
    "C11",
    Level.SHOULD,
    "A data file is closed on exec; what is saved can only be read, what resumes only be written.",
)
def kind_of_file(context: Context) -> None:
    subject = context.source
    for state in fsm.states(subject.flags):
        fd = subject.enter(state)
        if fd < 0:
            continue
        closes = bool(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC)
        context.expect(closes, f"{state.name}: closed on exec", str(closes), "True")
        resuming = state is State.RESUMING
        got = raw.read_errno(fd) if resuming else raw.write_errno(fd, b"x")
        did = f"{state.name}: {'reading' if resuming else 'writing'} its data file"
        shown = raw.answer(got) if isinstance(got, int) else f"{len(got)} bytes"
        context.expect(got == errno.EBADF, did, shown, "EBADF")
        try:
            os.lseek(fd, 0, os.SEEK_SET)
            number = 0
        except OSError as error:
            number = error.errno or errno.EIO
        context.expect_errno(number, (errno.ESPIPE,), f"{state.name}: seeking in it")
        subject.back()


@check(
    "C21",
    Level.MUST,
    "VFIO_MIG_GET_PRECOPY_INFO is refused (EINVAL) outside of PRE_COPY and PRE_COPY_P2P; a session "
    "that is over may also say ENODEV.",
    needs=PRE_COPY,
)
def info_outside_precopy(context: Context) -> None:
    subject = context.source
    fd = subject.go(State.PRE_COPY)
    subject.go(State.STOP_COPY)
    context.expect_errno(raw.precopy_info(fd).errno, (errno.EINVAL,), "INFO in STOP_COPY")
    for state in (State.STOP, State.RUNNING):
        subject.go(state)
        context.expect_errno(raw.precopy_info(fd).errno, OVER, f"INFO in {state.name}")
    resuming = subject.go(State.RESUMING)
    context.expect_errno(raw.precopy_info(fd).errno, OVER, "INFO of the old file in RESUMING")
    context.expect_errno(
        raw.precopy_info(resuming).errno, (errno.ENOTTY, errno.EINVAL), "INFO of a resuming file"
    )
    subject.reset()
    fd = subject.go(State.PRE_COPY)
    subject.reset()
    context.expect_errno(raw.precopy_info(fd).errno, OVER, "INFO after a reset")
    fd = subject.go(State.STOP_COPY)
    context.expect_errno(
        raw.precopy_info(fd).errno, (errno.EINVAL,), "INFO in STOP_COPY without pre-copy"
    )


@check(
    "C22",
    Level.DRIVER,
    "In PRE_COPY_P2P VFIO_MIG_GET_PRECOPY_INFO starts no SAVE: it counts what was saved and not "
    "read.",
    needs=PRE_COPY_P2P,
)
def info_in_p2p(context: Context) -> None:
    subject = context.source
    with subject.save(State.PRE_COPY) as stream:
        read_part(stream, 1000)
        subject.go(State.PRE_COPY_P2P)
        pending = stream.precopy_info().pending_bytes
        data, end = read_part(stream)
        context.expect(
            len(data) == pending and end is not End.NOT_YET,
            f"INFO in PRE_COPY_P2P says {pending} bytes; read to the end",
            f"{len(data)} bytes",
            "as many",
        )
        for _ in range(3):
            info = stream.precopy_info()
            context.expect(info.pending_bytes == 0, "INFO after that", str(info), "0 and 0")
        data, _ = read_part(stream)
        context.expect(not data, "reading then", f"{len(data)} bytes", "nothing")


@check(
    "C28",
    Level.MUST,
    "A user that leaves PRE_COPY with initial data unread still gets a stream that loads.",
    needs=PRE_COPY,
)
def leave_early(context: Context) -> None:
    subject = context.source
    with subject.save(State.PRE_COPY) as stream:
        info = stream.precopy_info()
        context.expect(info.initial_bytes > 0, "INFO at once", str(info), "initial data")
        subject.go(State.STOP_COPY)
        data = read_all(context, subject, stream)
        expect_loads(context, [data], "a stream of which nothing was read in PRE_COPY")


@check(
    "C29",
    Level.MUST,
    "Pre-copy data that was not read stays, and is read in STOP_COPY, in order, before the rest.",
    needs=PRE_COPY,
)
def unread_data_stays(context: Context) -> None:
    subject = context.source
    for what in ("initial data", "a middle image") if context.firmware else ("initial data",):
        context.idle()
        with subject.save(State.PRE_COPY) as stream:
            if what == "initial data":
                data, _ = read_part(stream, stream.precopy_info().pending_bytes // 3)
            else:
                data, _ = read_part(stream)
                announce(context, stream)
            if MigrationFlags.P2P in subject.flags:
                subject.go(State.PRE_COPY_P2P)
            pending = stream.precopy_info().pending_bytes
            subject.go(State.STOP_COPY)
            late = read_all(context, subject, stream)
            context.expect(
                len(late) >= pending > 0,
                f"{pending} bytes of {what} were unread; read in STOP_COPY",
                f"{len(late)} bytes",
                "those and the rest",
            )
            expect_loads(context, [data, late], f"a stream with {what} read late")
        subject.back()


@check(
    "C42",
    Level.MUST,
    "A device has one session at a time: the next one ends the file of the one before.",
)
def one_session(context: Context) -> None:
    subject = context.source
    saving = [
        state
        for state in fsm.states(subject.flags)
        if fsm.has_session(state) and state is not State.RESUMING
    ]
    for state in saving:
        old, new = subject.enter(state), subject.go(State.RESUMING)
        context.expect(new >= 0, "RESUMING", f"descriptor {new}", "a data file of its own")
        _expect_over(context, old, f"the file of {state.name} in RESUMING")
        subject.back()
    if State.PRE_COPY in saving:
        old = subject.go(State.PRE_COPY)
        subject.go(State.RUNNING)
        subject.go(State.PRE_COPY)
        _expect_over(context, old, "the file of the first PRE_COPY in the second")
        context.expect_errno(raw.precopy_info(old).errno, OVER, "INFO of it")


def _expect_over(context: Context, fd: int, what: str) -> None:
    """Check that the session of a saving file is over."""
    got = raw.read_errno(fd)
    context.expect(
        got == errno.ENODEV, what, raw.answer(got) if isinstance(got, int) else "data", "ENODEV"
    )
