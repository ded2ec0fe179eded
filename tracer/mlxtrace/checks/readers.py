# SPDX-License-Identifier: GPL-2.0-or-later
"""C26, C27, C37 to C39: the end of a stream, readers that sleep when it comes, and signals.

The readers are processes of their own: one that nobody wakes can be killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtrace import vfio_calls
from mlxtrace.checks import raw
from mlxtrace.checks.child import Child
from mlxtrace.checks.core import DeviationError, Level, NotOfferedError, check
from mlxtrace.checks.limits import limits
from mlxtrace.checks.session import PRE_COPY
from mlxtrace.checks.transfer import (
    READ_BYTES,
    expect_loads,
    load,
    read_all,
    read_part,
)
from mlxtrace.stream import Framing, StreamParser
from mlxtrace.vfio import End, MigrationFlags, SavingStream, State, VfioError
from mlxuapi import vfio as uapi

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlxtrace.checks.context import Context

REPEATED = 2
RACES = 20
SLEPT_SAVE_S = 0.1
SIGNALLED = 5
SIGNAL_S = 0.001
SIGNALLED_SAVE_S = 0.02
WAITED_SAVE_S = 0.3


@check(
    "C26",
    Level.MUST,
    "In STOP_COPY the stream has no temporary end: read() never says ENOMSG.",
    needs=PRE_COPY,
)
def no_temporary_end(context: Context) -> None:
    """A SAVE that fails ends the stream with ENODEV, which this takes for an answer.

    Nothing here makes it fail: the lab's tests ask this under faults of the firmware.
    """
    subject = context.source
    with subject.save(State.PRE_COPY) as stream:
        read_part(stream)
        try:
            subject.go(State.STOP_COPY)
            _, end = read_part(stream)
        except VfioError as error:
            context.expect(error.errno != errno.ENOMSG, "failed", str(error), "no ENOMSG")
        else:
            context.expect(end is End.FINAL, "the end in STOP_COPY", end.value, "the final end")


@check(
    "C27",
    Level.MUST,
    "At the end of the stream in STOP_COPY read() returns 0, again and again, and poll() says that "
    "there is something to read.",
)
def final_end_stays(context: Context) -> None:
    subject = context.source
    with subject.save(State.STOP_COPY) as stream:
        read_all(context, subject, stream)
        for _ in range(3):
            got = stream.read(1000)
            context.expect(got is End.FINAL, "reading on", str(got), "0 bytes")
            ready = stream.wait(0)
            context.expect(ready, "poll()", "ready" if ready else "not ready", "ready")


@check(
    "C37",
    Level.MUST,
    "A reader that sleeps is woken when its session ends, with ENODEV, whether another thread "
    "leaves STOP_COPY, resets the device or closes it.",
)
def sleeper_is_woken(context: Context) -> None:
    tries = 0
    slept = dict.fromkeys(("STOP", "reset", "close"), 0)
    for ending in slept:
        # A reader that comes late finds the data there; a second look is for one that was held up.
        for _ in range(2 * REPEATED):
            with context.slow_saves(SLEPT_SAVE_S):
                slept[ending] += _slept_till(context, ending)
            tries += 1
            context.goes_on()
            if slept[ending] == REPEATED:
                break
    context.note("readers that were seen to sleep", f"{sum(slept.values())} of {tries}")
    missed = ", ".join(ending for ending, count in slept.items() if not count)
    if missed:
        raise NotOfferedError(f"no reader slept when its session ended by {missed}: data is there")


def _slept_till(context: Context, ending: str) -> bool:
    """End a session that is being read; return whether the reader was seen to sleep before."""
    subject = context.source
    fd = subject.go(State.STOP_COPY)
    os.set_blocking(fd, True)
    copy = os.memfd_create("read")
    try:
        child = Child(lambda: _drain(fd, copy=copy), keep=[fd, copy])
        slept = child.sleeps(limits.answer_s)
        if ending == "STOP":
            subject.go(State.STOP)
        elif ending == "reset":
            subject.reset()
        else:
            context.close()
        try:
            found = child.result(limits.answer_s)
        except TimeoutError:
            child.kill()
            raise DeviationError(
                f"{ending} while a reader sleeps: it sleeps on for {limits.answer_s:g} s; the rule "
                "wants ENODEV"
            ) from None
        context.expect_errno(
            found["end"], (errno.ENODEV, 0), f"{ending}: the reader, after {found['bytes']} bytes"
        )
        data = Path(f"/proc/self/fd/{copy}").read_bytes()
    finally:
        os.close(copy)
    if ending != "close":
        subject.back()
    if found["end"] == 0:
        _expect_whole(context, data, ending)
    return slept


def _expect_whole(context: Context, data: bytes, ending: str) -> None:
    """Check that a reader that was told of the stream's end, not of the session's, has all of it.

    It may have come late. Records tell how far it has come, another driver's target does.
    """
    did = f"what a reader got until {ending} told it of the stream's end"
    wanted = "a whole stream, or ENODEV instead"
    context.expect(bool(data), did, "nothing", wanted)
    if context.source.framing is Framing.RECORDS:
        parser = StreamParser(Framing.RECORDS)
        for _ in parser.feed(data):
            pass
        shown = f"{len(data)} bytes, {len(parser.images)} images"
        shown += "" if parser.at_boundary else f", the last of it a part of {parser.where()}"
        context.expect(parser.at_boundary and bool(parser.images), did, shown, wanted)
        return
    load(context, [data], did)
    context.target.reset()


@check(
    "C38",
    Level.MUST,
    "A reader that meets the way from PRE_COPY to STOP_COPY is not told that the stream has ended "
    "before it has.",
    needs=PRE_COPY,
)
def no_false_end(context: Context) -> None:
    subject = context.source
    for race in range(RACES):
        fd = subject.go(State.PRE_COPY)
        os.set_blocking(fd, True)
        with _one_cpu() if race % 2 else contextlib.nullcontext():
            child = Child(lambda fd=fd: _drain(fd, patient=True), keep=[fd])  # type: ignore[misc]
            # It reads the initial data meanwhile, and then gets one ENOMSG after the other.
            raw.precopy_info(fd)
            time.sleep(0.005 * (race % 4))
            with _first() if race % 2 else contextlib.nullcontext():
                if MigrationFlags.P2P in subject.flags:
                    subject.go(State.PRE_COPY_P2P)
                subject.go(State.STOP_COPY)
        try:
            found = child.result(limits.answer_s)
        except TimeoutError as error:
            child.kill()
            raise DeviationError(f"reading to the end in another process: {error}") from None
        context.expect_errno(found["end"], (0,), f"the end after {found['bytes']} bytes")
        with SavingStream(subject.name, os.dup(fd)) as stream:
            rest, _ = read_part(stream)
        context.expect(not rest, "reading after that", f"{len(rest)} bytes", "nothing")
        subject.back()
        context.goes_on()


@check(
    "C39",
    Level.MUST,
    "Signals may interrupt a call (EINTR), which can be made again then; the session is none the "
    "worse for it.",
    needs=PRE_COPY,
)
def signals_do_no_harm(context: Context) -> None:
    subject = context.source
    raw.interrupted.clear()
    if context.firmware:
        context.busy()
    with _signals() as count, context.slow_saves(SIGNALLED_SAVE_S):
        reads = _session_under_signals(context)
        # What leaves a session finds its SAVE under way, with nobody to read what it saves.
        for state in (State.RUNNING, State.PRE_COPY, State.RUNNING):
            subject.go(state)
    # Here the reader has nothing to read before the SAVE has ended, however late it comes.
    with _signals() as more, context.slow_saves(WAITED_SAVE_S):
        with SavingStream(subject.name, os.dup(subject.go(State.STOP_COPY))) as stream:
            reads += _read_under_signals(context, stream.fileno())[1]
        subject.go(State.RUNNING)
    context.note("signals that came", str(count[0] + more[0]))
    asked = raw.interrupted[uapi.VFIO_MIG_GET_PRECOPY_INFO]
    changes = raw.interrupted[uapi.VFIO_DEVICE_FEATURE]
    context.note(
        "signals that met a call that waited",
        f"INFO {asked}, read() {reads}, changes of state {changes}",
    )
    if not (asked or reads or changes):
        raise NotOfferedError("no signal met a call that waited: nothing is slow here")


def _session_under_signals(context: Context) -> int:
    """Save and load while signals come; return how often one ended a read."""
    subject = context.source
    with SavingStream(subject.name, os.dup(subject.go(State.PRE_COPY))) as stream:
        if MigrationFlags.P2P in subject.flags:
            # The first SAVE is under way, and the device is not stopped before it has ended.
            subject.go(State.PRE_COPY_P2P)
            subject.go(State.PRE_COPY)
        data = b""
        for _ in range(SIGNALLED):
            # The first one may begin a SAVE, the second waits for it.
            for _ in range(2):
                _expect_info(context, stream)
            data += read_part(stream)[0]
        # What this one begins is under way when the device is stopped.
        _expect_info(context, stream)
        subject.go(State.STOP_COPY)
        rest, reads = _read_under_signals(context, stream.fileno())
    expect_loads(context, [data, rest], "what was saved and loaded under signals")
    return reads


def _expect_info(context: Context, stream: SavingStream) -> None:
    answer = raw.precopy_info(stream.fileno())
    context.expect(answer.errno == 0, "INFO", str(answer), "success")


def _read_under_signals(context: Context, fd: int) -> tuple[bytes, int]:
    """Read a session in STOP_COPY to its end, blocking; also return how often a signal ended it."""
    os.set_blocking(fd, True)
    data, met = bytearray(), 0
    buffer = ctypes.create_string_buffer(READ_BYTES)
    heard = time.monotonic()
    while time.monotonic() - heard < limits.answer_s:
        got = raw.read_to(fd, ctypes.addressof(buffer), READ_BYTES)
        if got == -errno.EINTR:
            met += 1
        elif got > 0:
            data += memoryview(buffer)[:got]
            heard = time.monotonic()
        else:
            context.expect_errno(-got, (0,), f"the end after {len(data)} bytes under signals")
            return bytes(data), met
    raise DeviationError(f"reading under signals: no end for {limits.answer_s:g} s")


@contextlib.contextmanager
def _one_cpu() -> Iterator[None]:
    """Keep this process, and those that it makes meanwhile, on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _first() -> Iterator[None]:
    """Have this process go before others, where it may.

    On one CPU it interrupts a reader that is about to take a lock, between its look at the session
    and what it makes of it.
    """
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Have a signal come every millisecond; yield a list of one number, how many did."""
    count = [0]

    def handle(*_: object) -> None:
        count[0] += 1

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, SIGNAL_S, SIGNAL_S)
    try:
        yield count
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _drain(fd: int, *, patient: bool = False, copy: int | None = None) -> dict[str, Any]:
    """Read, blocking, until the end or an error; ``patient`` goes on after ENOMSG.

    What came is written to the file ``copy`` as well.
    """
    count = 0
    while True:
        try:
            data = vfio_calls.read(fd, READ_BYTES)
        except OSError as error:
            if patient and error.errno == errno.ENOMSG:
                continue
            return {"bytes": count, "end": error.errno}
        if not data:
            return {"bytes": count, "end": 0}
        count += len(data)
        if copy is not None:
            _append(copy, data)


def _append(file: int, data: bytes) -> None:
    """Write ``data`` to a file that is none of VFIO's: these calls are not counted."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
