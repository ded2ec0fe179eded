# SPDX-License-Identifier: GPL-2.0-or-later
"""Moving streams in a check: reading with a limit to the waiting, and loading."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtrace import vfio_calls
from mlxtrace.checks import fsm
from mlxtrace.checks.amounts import Watch
from mlxtrace.checks.core import DeviationError
from mlxtrace.checks.limits import limits
from mlxtrace.migrate_sink import state_hash
from mlxtrace.vfio import End, State, VfioError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlxtrace.checks.context import Context
    from mlxtrace.checks.subject import Subject
    from mlxtrace.vfio import PrecopyInfo, SavingStream

READ_BYTES = 1 << 20


def read_part(stream: SavingStream, limit: int | None = None) -> tuple[bytes, End]:
    """Read until an end, or ``limit`` bytes; NOT_YET then stands for "there may be more".

    Raises:
        DeviationError: neither data nor an end came for :attr:`Limits.answer_s`.
        VfioError: a read failed.
        DeviationError, Error: more came than any state has, or than this host can hold.
    """
    data = bytearray()
    watch = Watch()
    while limit is None or len(data) < limit:
        size = READ_BYTES if limit is None else min(READ_BYTES, limit - len(data))
        got = stream.read(size)
        if isinstance(got, bytes):
            data += got
            watch.look(len(data))
        elif got is not End.NOT_YET:
            return bytes(data), got
        elif not stream.wait(limits.answer_s):
            raise DeviationError(f"no data and no end for {limits.answer_s:g} s")
    return bytes(data), End.NOT_YET


def read_announced(stream: SavingStream) -> bytes:
    """Read what VFIO_MIG_GET_PRECOPY_INFO has announced, to the next end; empty if none came.

    Between Linux 6.3 and 7.0 mlx5 denies it (ENOMSG) while it is still being saved.
    """
    deadline = time.monotonic() + limits.answer_s
    while time.monotonic() < deadline:
        data, _ = read_part(stream)
        if data:
            return data
        stream.wait(0.05)
    return b""


def announce(context: Context, stream: SavingStream) -> PrecopyInfo:
    """Have the source change until INFO announces that in PRE_COPY, and be idle from then on.

    Raises:
        DeviationError: it does not within :attr:`Limits.answer_s`.
        NotOfferedError: nothing here makes the device change.
    """
    context.busy()
    deadline = time.monotonic() + limits.answer_s
    while time.monotonic() < deadline:
        time.sleep(0.02)
        # What is announced and what is saved are to be the same.
        context.idle()
        info = stream.precopy_info()
        if info.pending_bytes:
            context.note("INFO on a device that changed", str(info))
            return info
        context.busy()
    raise DeviationError(f"INFO announces nothing for {limits.answer_s:g} s of a busy device")


def read_all(context: Context, subject: Subject, stream: SavingStream) -> bytes:
    """Read a session in STOP_COPY to its end."""
    data, end = read_part(stream)
    context.expect(
        end is End.FINAL,
        f"read {len(data)} bytes in {subject.state().name}",
        "the final end" if end is End.FINAL else "ENOMSG",
        "the final end",
    )
    return data


def whole_stream(context: Context) -> bytes:
    """Return a complete stream of the source, with pre-copy where it has that.

    The source is left in STOP_COPY, so that its state stays the stream's.
    """
    subject = context.source
    if State.PRE_COPY in fsm.states(subject.flags):
        stream = subject.save(State.PRE_COPY)
        data, _ = read_part(stream)
        subject.go(State.STOP_COPY)
    else:
        stream = subject.save(State.STOP_COPY)
        data = b""
    data += read_all(context, subject, stream)
    stream.close()
    return data


def write_whole(fd: int, data: bytes | memoryview) -> int:
    """Write all of ``data``, however little of it a call takes.

    Returns:
        the errno of the call that failed, which ends it, or 0.

    Raises:
        DeviationError: a call took nothing and did not fail.
    """
    rest = memoryview(data)
    while rest:
        try:
            count = vfio_calls.write(fd, rest)
        except OSError as error:
            return error.errno or errno.EIO
        if not count:
            raise DeviationError(f"writing {len(rest)} bytes: 0; the rule wants some, or an error")
        rest = rest[count:]
    return 0


def load(context: Context, pieces: Sequence[bytes], what: str) -> None:
    """Load a stream on the target, which is left in STOP."""
    target = context.target
    with target.resume() as stream:
        try:
            for piece in pieces:
                stream.write_all(piece)
        except VfioError as error:
            context.expect_errno(error.errno, (0,), f"writing {what}")
        answer = target.ask(State.STOP, f", after {what} ({sum(map(len, pieces))} bytes)")
    context.expect_errno(answer.errno, (0,), f"loading {what}")


def expect_same_state(context: Context) -> None:
    """Check that what the target has loaded is what the source has saved; both are stopped still.

    Only a simulated firmware tells: elsewhere it is noted that nothing was compared.
    """
    ours, theirs = state_hash(context.source.name), state_hash(context.target.name)
    if not (ours and theirs):
        context.note("hashes of both states", "there are none here: the states are not compared")
        return
    same = "equal" if ours == theirs else f"{ours} and {theirs}"
    context.expect(ours == theirs, "hashes of both states", same, "equal ones")


def expect_loads(context: Context, pieces: Sequence[bytes], what: str) -> None:
    """Load a stream of the source, which is still stopped, on the target, and compare hashes."""
    load(context, pieces, what)
    expect_same_state(context)
    context.target.reset()


def open_files() -> int:
    """Return how many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
