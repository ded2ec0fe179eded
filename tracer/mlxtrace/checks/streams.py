# SPDX-License-Identifier: GPL-2.0-or-later
"""C30 to C33: streams in odd pieces, and streams that came to harm on their way."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from mlxtrace import vfio_calls
from mlxtrace.checks import fsm, raw
from mlxtrace.checks.core import DeviationError, Level, NotOfferedError, check
from mlxtrace.checks.resume import (
    ODD_BYTES,
    cut,
    expect_not_accepted,
    heads_of,
    require_records,
)
from mlxtrace.checks.session import PRE_COPY
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
    from collections.abc import Sequence

    from mlxtrace.checks.context import Context

SINGLE_BYTES = 256
VECTOR = 16
"""Pieces in one writev()."""


@check(
    "C30.bytes",
    Level.MUST,
    "A stream may be written a byte at a time: the state that is loaded is the same.",
)
def single_bytes(context: Context) -> None:
    data = whole_stream(context)
    places: set[int] = set()
    for head in (*heads_of(context, data), len(data)):
        places |= set(range(head - SINGLE_BYTES, head + SINGLE_BYTES))
    expect_loads(context, cut(data, places), "single bytes around the beginning of each record")


@check(
    "C30.vector",
    Level.MUST,
    "writev() is as good as write(), and pieces of no bytes do not matter.",
)
def vectors(context: Context) -> None:
    data = whole_stream(context)
    target = context.target
    fd = target.go(State.RESUMING)
    os.set_blocking(fd, True)
    pieces = cut(data, [*range(0, min(len(data), 4096), 7), *range(4096, len(data), ODD_BYTES)])
    for start in range(0, len(pieces), VECTOR):
        part = [piece for each in pieces[start : start + VECTOR] for piece in (b"", each)]
        _write_vector(fd, part)
        number = raw.write_errno(fd, b"")
        context.expect(number == 0, "writing 0 bytes", raw.answer(number), "0")
    answer = target.ask(State.STOP)
    context.expect_errno(answer.errno, (0,), f"loading {len(pieces)} pieces of writev()")
    expect_same_state(context)
    target.reset()


def _write_vector(fd: int, pieces: Sequence[bytes]) -> None:
    size = sum(map(len, pieces))
    try:
        count = os.writev(fd, pieces)
        rest = memoryview(b"".join(pieces))[count:]
        while rest:
            rest = rest[vfio_calls.write(fd, rest) :]
    except OSError as error:
        raise DeviationError(f"writev() of {size} bytes: {error.strerror}") from None


@check(
    "C31.ways",
    Level.MUST,
    "After a part of a stream every way out of RESUMING but a reset fails, not only that to STOP.",
)
def truncated_everywhere(context: Context) -> None:
    data = whole_stream(context)
    last = heads_of(context, data)[-1]
    part = data[: (last + len(data)) // 2]
    subject = context.target
    for aim in fsm.states(context.flags):
        if aim is State.RESUMING:
            continue
        with subject.resume() as stream:
            stream.write_all(part)
            context.note(f"wrote the first {len(part)} of {len(data)} bytes")
            expect_not_accepted(context, subject, aim)


def _harmed(context: Context) -> dict[str, list[bytes]]:
    """Return streams that no firmware should take, in pieces that are records."""
    foreign = _foreign_pieces(context)
    data = whole_stream(context)
    pieces = cut(data, heads_of(context, data))
    *others, last = pieces
    middle = len(last) // 2
    flipped = last[:middle] + bytes([last[middle] ^ 0x10]) + last[middle + 1 :]
    found = {"damaged in one bit": [*others, flipped]}
    if len(others) > 1:
        found["with its last two images in reverse order"] = [*others[:-1], last, others[-1]]
        found["with its last image twice"] = [*pieces, last]
        found["without its first image"] = [*others[:-2], last]
        found["with the last image of another session"] = [*others, foreign[-1]]
    return found


def _foreign_pieces(context: Context) -> list[bytes]:
    """Return the records of another session of the source, which is RUNNING then."""
    data = whole_stream(context)
    context.source.back()
    return cut(data, heads_of(context, data))


@check(
    "C32.harmed",
    Level.DRIVER,
    "mlx5-vfio-pci and its firmware do not take a stream for whole that was damaged, reordered, "
    "repeated in part or mixed with another one.",
)
def harmed_streams_refused(context: Context) -> None:
    require_records(context)
    subject = context.target
    for what, pieces in _harmed(context).items():
        fd = subject.go(State.RESUMING)
        number = _write_pieces(fd, pieces)
        context.note(f"wrote a stream {what}", raw.answer(number))
        if not number:
            expect_not_accepted(context, subject, State.STOP)
        subject.close_files()
        subject.reset()


@check(
    "C33.harmed",
    Level.MUST,
    "Whatever a stream has suffered on its way, a reset leaves a device that works and takes a "
    "good one.",
)
def harmed_streams_survived(context: Context) -> None:
    streams = _harmed(context)
    context.source.back()
    context.source.reset()
    subject = context.target
    for what, pieces in streams.items():
        fd = subject.go(State.RESUMING)
        number = _write_pieces(fd, pieces)
        context.note(f"wrote a stream {what}", raw.answer(number))
        subject.ask(State.STOP)
        subject.close_files()
        subject.reset()
    data = whole_stream(context)
    expect_loads(context, [data], "a good stream after all that")


def _write_pieces(fd: int, pieces: Sequence[bytes]) -> int:
    """Write ``pieces``, each whole; return the errno of the first that fails, or 0."""
    os.set_blocking(fd, True)
    return next((number for piece in pieces if (number := write_whole(fd, piece))), 0)


@check(
    "C33.error",
    Level.MUST,
    "A device in ERROR refuses every state (EINVAL), and is RUNNING after a reset.",
)
def error_is_left_by_reset(context: Context) -> None:
    subject = context.target
    fd = subject.go(State.RESUMING)
    number = raw.write_errno(fd, b"\xff" * ODD_BYTES)
    context.note(f"wrote {ODD_BYTES} bytes of ff", raw.answer(number))
    subject.ask(State.STOP)
    if subject.state() is not State.ERROR:
        raise NotOfferedError("nothing that can be done here brings the device to ERROR")
    for aim in (*fsm.STATES, State.ERROR):
        answer = subject.ask(aim)
        context.expect_errno(answer.errno, (errno.EINVAL,), f"ERROR to {aim.name}")
        now = subject.state()
        context.expect(now is State.ERROR, "the state then", now.name, "ERROR")
    subject.reset()


@check(
    "C28.parts",
    Level.MUST,
    "PRE_COPY may be left at any point of the stream: what was read there and the rest make one "
    "stream that loads.",
    needs=PRE_COPY,
)
def leave_anywhere(context: Context) -> None:
    subject = context.source
    with subject.save(State.PRE_COPY) as stream:
        whole = stream.precopy_info().initial_bytes
    subject.back()
    for part in sorted({1, 24, 33, whole // 2, whole}):
        with subject.save(State.PRE_COPY) as stream:
            early, _ = read_part(stream, part)
            subject.go(State.STOP_COPY)
            late = read_all(context, subject, stream)
        expect_loads(context, [early, late], f"{len(early)} bytes of PRE_COPY and the rest")
        subject.back()
