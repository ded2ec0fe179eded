# SPDX-License-Identifier: GPL-2.0-or-later
"""C11, C19, C25, C27, C30, C35: what a data file makes of the calls that a file has."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import TYPE_CHECKING, Any

from mlxtrace.checks import fsm, raw
from mlxtrace.checks.child import Child
from mlxtrace.checks.core import DeviationError, Level, check
from mlxtrace.checks.leaks import Held
from mlxtrace.checks.limits import limits
from mlxtrace.checks.session import PRE_COPY
from mlxtrace.checks.transfer import (
    READ_BYTES,
    expect_loads,
    read_all,
    read_part,
)
from mlxtrace.vfio import SavingStream, State, VfioError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlxtrace.checks.context import Context

EMPTY = (errno.EAGAIN, errno.ENOMSG)
# Small at first, so that each header is taken apart; then primes, and more than there is.
PIECES = (1, 1, 2, 3, 5, 11, 16, 17, 251, 4093, 4096, 65521, 64 << 20)


def _errno_of(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or errno.EIO
    return 0


@check(
    "C11.position",
    Level.SHOULD,
    "A data file is a stream: pread(), pwrite() and every lseek() are refused with ESPIPE (in the "
    "wrong direction EBADF will do), and it cannot be mapped (ENODEV, EACCES).",
)
def no_position(context: Context) -> None:
    subject = context.source
    for state in fsm.states(subject.flags):
        fd = subject.enter(state)
        if fd < 0:
            continue
        resuming = state is State.RESUMING
        right, wrong = (errno.ESPIPE,), (errno.ESPIPE, errno.EBADF)
        for what, call, wanted in (
            ("pread() of", lambda fd=fd: os.pread(fd, 16, 0), wrong if resuming else right),
            ("pread() at 1000 of", lambda fd=fd: os.pread(fd, 16, 1000), wrong),
            ("pwrite() to", lambda fd=fd: os.pwrite(fd, b"x", 0), right if resuming else wrong),
            ("SEEK_SET in", lambda fd=fd: os.lseek(fd, 0, os.SEEK_SET), right),
            ("SEEK_CUR in", lambda fd=fd: os.lseek(fd, 0, os.SEEK_CUR), right),
            ("SEEK_END in", lambda fd=fd: os.lseek(fd, 0, os.SEEK_END), right),
            (
                "mmap() of",
                lambda fd=fd: mmap.mmap(fd, 4096, prot=mmap.PROT_READ),
                (errno.ENODEV, errno.EACCES),
            ),
        ):
            number = _errno_of(call)
            context.expect_errno(number, wanted, f"{what} the file of {state.name}")
        subject.back()


@check(
    "C11.empty",
    Level.SHOULD,
    "Reading no bytes takes none from the stream: it returns 0, or says that there is nothing.",
)
def empty_reads(context: Context) -> None:
    subject = context.source
    with subject.save(State.STOP_COPY) as stream:
        data = b""
        for part in (0, 1, 1000):
            data += read_part(stream, part)[0]
            for _ in range(3):
                got = raw.read_errno(stream.fileno(), 0)
                shown = raw.answer(got) if isinstance(got, int) else f"{len(got)} bytes"
                context.expect(got in (b"", *EMPTY), "reading 0 bytes", shown, "0 bytes")
        data += read_all(context, subject, stream)
        expect_loads(context, [data], "what was read between reads of 0 bytes")


@check(
    "C19.blocking",
    Level.MUST,
    "In PRE_COPY a blocking read() does not wait for its buffer to be full, nor, at the temporary "
    "end, for data that may never come.",
    needs=PRE_COPY,
)
def blocking_read_returns(context: Context) -> None:
    subject = context.source
    context.idle()
    fd = subject.go(State.PRE_COPY)
    announced = raw.precopy_info(fd).info.initial_bytes
    os.set_blocking(fd, True)

    def drain() -> dict[str, Any]:
        count = reads = 0
        while isinstance(got := raw.read_errno(fd, 64 << 20), bytes) and got:
            count, reads = count + len(got), reads + 1
        return {"bytes": count, "reads": reads, "end": got or 0}

    child = Child(drain, keep=[fd])
    try:
        found = child.result(limits.answer_s)
    except TimeoutError as error:
        child.kill()
        raise DeviationError(
            f"blocking reads of 64 MiB in PRE_COPY: {error}; the rule wants what is there, and "
            "then an end"
        ) from None
    did = f"blocking reads of 64 MiB in PRE_COPY, of {announced} initial bytes"
    context.expect(
        found["bytes"] > 0, did, f"{found['bytes']} bytes in {found['reads']} reads", "data"
    )
    context.note("the end", raw.answer(found["end"]))


@check(
    "C25.read",
    Level.MUST,
    "Reading to a bad pointer is answered with EFAULT, and takes nothing from the stream.",
)
def bad_read_pointer(context: Context) -> None:
    _expect_nothing_lost(context, (0, 10))


@check(
    "C25.partial",
    Level.SHOULD,
    "Reading to a buffer of which only the first page can be written loses no data: what read() "
    "does not count comes again.",
)
def half_a_buffer(context: Context) -> None:
    # The first reads may end with a record's header; the last meets the data.
    _expect_nothing_lost(context, (mmap.PAGESIZE,) * 4)


def _expect_nothing_lost(context: Context, rooms: tuple[int, ...]) -> None:
    """Read into buffers of which ``rooms`` bytes can be accessed, and load what came in all."""
    subject = context.source
    with subject.save(State.STOP_COPY) as stream:
        if not stream.wait(limits.answer_s):
            raise DeviationError(f"no data for {limits.answer_s:g} s")
        pieces: list[bytes] = []
        for room in rooms:
            with raw.page(bytes(room), offset=mmap.PAGESIZE - room) as address:
                got = _patient_read(stream, address if room else 0, 4 * mmap.PAGESIZE)
                if got == 0 and pieces:
                    # A short stream: it has come whole.
                    break
                right = got == -errno.EFAULT or 0 < got <= room
                shown = raw.answer(-got) if got < 0 else f"{got} bytes"
                wanted = f"EFAULT or up to {room} bytes" if room else "EFAULT"
                context.expect(right, f"reading to a buffer of {room} bytes", shown, wanted)
                if got > 0:
                    pieces.append(ctypes.string_at(address, got))
        pieces.append(read_all(context, subject, stream))
        expect_loads(context, pieces, "the stream, read on after that")


def _patient_read(stream: SavingStream, address: int, size: int) -> int:
    """Read as soon as there is data: see :func:`raw.read_to`."""
    while (got := raw.read_to(stream.fileno(), address, size)) == -errno.EAGAIN:
        if not stream.wait(limits.answer_s):
            break
    return got


@check(
    "C27.poll",
    Level.MUST,
    "A reader that got EAGAIN is told by poll() when to go on, and what poll() says is there to be "
    "read, until the end and at it, is not denied with EAGAIN.",
)
def poll_tells(context: Context) -> None:
    subject = context.source
    for state in fsm.states(subject.flags):
        if not fsm.has_session(state) or state is State.RESUMING:
            continue
        fd = subject.enter(state)
        waits = count = 0
        while True:
            ready = raw.poll_events(fd)
            got = raw.read_errno(fd, READ_BYTES)
            if isinstance(got, bytes) and got:
                count += len(got)
                continue
            if got != errno.EAGAIN:
                break
            context.expect(not ready, f"{state.name}: EAGAIN; before it poll()", hex(ready), "0")
            waits += 1
            ready = raw.poll_events(fd, limits.answer_s)
            context.expect(bool(ready), f"{state.name}: poll() after EAGAIN", hex(ready), "data")
        end = raw.answer(got) if isinstance(got, int) else "0 bytes"
        context.expect(
            count > 0, f"{state.name}: read until {end}, waited {waits} times", f"{count}", "data"
        )
        subject.back()


@check(
    "C30.reads",
    Level.MUST,
    "A stream may be read in pieces of any size: the state that is loaded is the same.",
)
def any_reads(context: Context) -> None:
    subject = context.source
    pieces: list[bytes] = []
    saving = [each for each in (State.PRE_COPY, State.STOP_COPY) if each in _saving(context)]
    with subject.save(saving[0]) as stream:
        for state in saving:
            if state is not saving[0]:
                subject.go(state)
            for size in PIECES:
                pieces.append(read_part(stream, size)[0])
        pieces.append(read_all(context, subject, stream))
        expect_loads(context, [b"".join(pieces)], "what was read a byte, two, three, ... at a time")


def _saving(context: Context) -> list[State]:
    return [
        state
        for state in fsm.states(context.flags)
        if fsm.has_session(state) and state is not State.RESUMING
    ]


@check(
    "C35.file",
    Level.MUST,
    "A data file may be closed in every state: the device can be taken to every state that needs "
    "no data, or be reset, and works as before. Nothing is leaked.",
)
def file_closed_early(context: Context) -> None:
    subject = context.source
    held = Held(context)
    for state in fsm.states(subject.flags):
        if not fsm.has_session(state):
            continue
        for aim in fsm.states(subject.flags):
            if fsm.path(state, aim, subject.flags) is None or aim is state:
                continue
            subject.enter(state)
            subject.close_files()
            answer = subject.ask(aim, f", after its file was closed in {state.name}")
            if state is not State.RESUMING and not fsm.has_session(aim):
                did = f"{state.name} to {aim.name} without the file"
                context.expect_errno(answer.errno, (0,), did)
            subject.close_files()
            if State.RESUMING in (state, aim) or answer.errno:
                subject.reset()
            subject.back()
    try:
        with subject.save(State.STOP_COPY) as stream:
            read_all(context, subject, stream)
    except VfioError as error:
        context.expect(False, "saving after all that", str(error), "success")
    subject.back()
    held.expect_no_more()
