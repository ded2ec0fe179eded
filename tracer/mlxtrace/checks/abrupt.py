# SPDX-License-Identifier: GPL-2.0-or-later
"""C39, C41, C42: calls that race, processes that are killed in them, and what long use leaves."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtrace.checks import fsm, raw
from mlxtrace.checks.child import Child
from mlxtrace.checks.core import Level, NoAnswerError, NotOfferedError, check
from mlxtrace.checks.leaks import Held
from mlxtrace.checks.limits import limits
from mlxtrace.checks.session import PRE_COPY
from mlxtrace.checks.transfer import expect_loads, read_part, whole_stream
from mlxtrace.vfio import State, VfioError
from mlxtrace.vfio_ioctl import ioctl
from mlxuapi import vfio as uapi

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlxtrace.checks.context import Context
    from mlxtrace.checks.subject import Subject

KILLED = 6
KILLED_SAVE_S = 0.02
RACE_S = 0.5
MEETINGS = 24
ROUNDS = 3
"""As often a leak has to show."""
MIB = 1 << 20
NOISE_BYTES = 32 * MIB
"""What others may take of the memory while it is looked at."""
MOST_SESSIONS = 500
"""So many are had for a small state, also where fewer were asked for."""
# What a call may say that meets a reset or a change of state by another thread.
MET = {0, *(getattr(errno, name) for name in ("EINVAL", "ENODEV", "EAGAIN", "EINTR", "EIO"))}
OF_A_FILE = MET | {errno.ENOMSG, errno.EBADF, errno.ENOTTY}


@check(
    "C39.kill",
    Level.MUST,
    "A process that is killed in the middle of a session, whatever call it is in, leaves a device "
    "that another process can bring to RUNNING and use; nothing is leaked.",
)
def killed_processes(context: Context) -> None:
    subject = context.source
    fd = subject.fileno()
    # It is opened now, so that its files are counted.
    assert context.target
    held = Held(context)
    aims = [
        each
        for each in fsm.states(subject.flags)
        if fsm.opens_file(State.RUNNING, each, subject.flags)
    ]

    def sessions() -> None:
        while True:
            for aim in aims:
                answer = raw.set_state(fd, aim)
                if answer.errno == 0 and answer.data_fd >= 0:
                    raw.read_errno(answer.data_fd, MIB)
                    os.close(answer.data_fd)
                ioctl(fd, uapi.VFIO_DEVICE_RESET)

    for number in range(KILLED):
        with context.slow_saves(KILLED_SAVE_S):
            child = Child(sessions, keep=[fd])
            time.sleep(0.003 + 0.011 * number)
            is_gone = child.kill(limits.answer_s)
        if not is_gone:
            raise NoAnswerError(
                f"a process that was killed is there still after {limits.answer_s:g} s: it hangs "
                "in the kernel"
            )
        state = subject.state()
        context.note("killed a process that opens and ends sessions", f"the state is {state.name}")
        if state in (State.RESUMING, State.ERROR):
            # These cannot be left otherwise: nothing was loaded.
            subject.reset()
        else:
            subject.run_again("after a process was killed")
        context.goes_on()
    _expect_works(context, "after all that")
    held.expect_no_more()


def _expect_works(context: Context, when: str) -> None:
    """Check that the source can be saved, and that the stream can be loaded."""
    try:
        data = whole_stream(context)
    except VfioError as error:
        context.expect(False, f"saving {when}", str(error), "success")
    else:
        expect_loads(context, [data], f"a stream that was saved {when}")
        context.source.run_again(when)


@check(
    "C42.race",
    Level.MUST,
    "Threads that read, and ask for states and for what is left, all at once, get answers, and "
    "leave a device that works.",
    may_hang=True,
)
def racing_threads(context: Context) -> None:
    _let_race(context, resets=False)


@check(
    "C42.reset",
    Level.MUST,
    "The same beside a thread that resets the device all the time; and after resets that met "
    "changes of state, STOP and RUNNING succeed.",
    may_hang=True,
)
def racing_resets(context: Context) -> None:
    _let_race(context, resets=True)
    subject = context.source
    fd, flags = subject.fileno(), subject.flags
    said: list[int] = []
    for number in range(MEETINGS):
        # Each has its own limit: firmware that is slow, and answers, may take long for all of them.
        child = Child(lambda number=number: _meet(fd, fsm.states(flags), number), keep=[fd])  # type: ignore[misc]
        try:
            said += child.result(limits.answer_s)
        except TimeoutError as error:
            child.kill()
            raise NoAnswerError(f"a reset that meets a change of state: {error}") from None
        context.goes_on()
    names = ", ".join(f"{raw.answer(n)} {said.count(n)} times" for n in sorted(set(said)))
    what = f"STOP and RUNNING, after each of {MEETINGS} resets that met a change of state, said"
    context.expect(not any(said), what, names, "0: what was reset runs")
    subject.back()


def _meet(fd: int, states: Sequence[State], number: int) -> list[int]:
    """Have a reset meet changes of state; return what STOP and RUNNING said after it.

    The higher ``number``, the later it comes.
    """
    aims = [each for each in (State.PRE_COPY, State.STOP_COPY, State.RUNNING) if each in states]
    begun, over = threading.Event(), threading.Event()

    def ask(state: State) -> int:
        answer = raw.set_state(fd, state)
        if answer.errno == 0 and answer.data_fd >= 0:
            os.close(answer.data_fd)
        return answer.errno

    def change() -> None:
        begun.set()
        while not over.is_set():
            for aim in aims:
                # Firmware may take seconds for each; the one that the reset met ends in any case.
                if not over.is_set():
                    ask(aim)

    thread = threading.Thread(target=change, daemon=True)
    thread.start()
    begun.wait()
    time.sleep(0.003 + 0.002 * number)
    raw.ioctl(fd, uapi.VFIO_DEVICE_RESET, 0)
    over.set()
    thread.join()
    return [ask(State.STOP), ask(State.RUNNING)]


def _let_race(context: Context, *, resets: bool) -> None:
    subject = context.source
    # It is opened now, so that its files are counted.
    assert context.target
    held = Held(context)
    fd, flags = subject.fileno(), subject.flags
    child = Child(lambda: _race(fd, fsm.states(flags), resets=resets), keep=[fd])
    try:
        found = child.result(limits.answer_s)
    except TimeoutError as error:
        child.kill()
        raise NoAnswerError(f"threads that race for {RACE_S:g} s: {error}") from None
    for what, said in sorted(found["said"].items()):
        allowed, wanted = _allowed(what, resets=resets)
        names = ", ".join(f"{raw.answer(int(number))} {n} times" for number, n in said.items())
        odd = [number for number in said if int(number) not in allowed]
        context.expect(not odd, f"what {what} said", names, wanted)
    subject.run_again("after the race")
    _expect_works(context, "after the race")
    held.expect_no_more()


def _allowed(what: str, *, resets: bool) -> tuple[set[int], str]:
    """Return what a call of the race may say, and the same in words."""
    if what in ("state", "reading the state") and not resets:
        # One thread changes states, each from where the last one led: nothing is in its way.
        return {0}, "success: nobody else changes states, and nothing resets the device"
    allowed = MET if what in ("state", "reset") else OF_A_FILE
    return allowed, "what a session that ended may say"


def _race(fd: int, states: Sequence[State], *, resets: bool) -> dict[str, Any]:
    """Make calls in several threads for a while; return how often each errno came, by call."""
    said: dict[str, dict[int, int]] = {}
    current = [-1]
    over = threading.Event()
    aims = [
        each
        for each in (State.PRE_COPY, State.PRE_COPY_P2P, State.STOP_COPY, State.RUNNING)
        if each in states
    ]

    def count(what: str, number: int) -> None:
        answers = said.setdefault(what, {})
        answers[number] = answers.get(number, 0) + 1

    def change() -> None:
        for aim in aims:
            # Firmware may take seconds for each.
            if over.is_set():
                return
            answer = raw.set_state(fd, aim)
            count("state", answer.errno)
            if answer.errno == 0 and answer.data_fd >= 0:
                os.set_blocking(answer.data_fd, False)
                old, current[0] = current[0], answer.data_fd
                # The file of a session that is over stays open for a while: others use it.
                if old >= 0:
                    os.close(old)

    def read() -> None:
        got = raw.read_errno(current[0], 65536)
        count("read", got if isinstance(got, int) else 0)

    def info() -> None:
        count("INFO", raw.precopy_info(current[0]).errno)

    def look() -> None:
        count("reading the state", raw.get_state(fd)[0])
        raw.poll_events(current[0]) if current[0] >= 0 else None

    def reset() -> None:
        time.sleep(0.02)
        count("reset", raw.ioctl(fd, uapi.VFIO_DEVICE_RESET, 0))

    def forever(call: Callable[[], None]) -> None:
        while not over.is_set():
            call()

    calls = [change, read, read, info, look]
    if resets:
        calls.append(reset)
    threads = [threading.Thread(target=forever, args=[call], daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    time.sleep(RACE_S)
    over.set()
    for thread in threads:
        thread.join()
    return {"said": said}


@check(
    "C41.stop",
    Level.MUST,
    "Entering and leaving STOP_COPY, time and again, leaves nothing behind.",
)
def stop_copy_cycles(context: Context) -> None:
    def cycle(subject: Subject, number: int) -> None:
        with subject.device.save(State.STOP_COPY) as stream:
            if number % 3:
                # Some are left with a SAVE under way, some are read in part, some to their end.
                read_part(stream, 1000 if number % 3 == 1 else None)
            subject.device.set_state(State.RUNNING)

    _repeat(context, context.source, cycle, "entered and left STOP_COPY", context.cycles // 2)


@check(
    "C41.resuming",
    Level.MUST,
    "Entering RESUMING and leaving it by a reset, time and again, leaves nothing behind.",
)
def resuming_cycles(context: Context) -> None:
    data = whole_stream(context)

    def cycle(subject: Subject, number: int) -> None:
        with subject.device.resume() as stream:
            stream.write_all(data[: len(data) * (number % 4) // 3])
            subject.device.reset()

    _repeat(context, context.target, cycle, "entered and left RESUMING", context.cycles // 5)


@check(
    "C41.open",
    Level.MUST,
    "Opening the device and closing it in any state, time and again, leaves nothing behind.",
)
def open_cycles(context: Context) -> None:
    states = fsm.states(context.flags)
    context.source.reset()
    context.close()
    held = Held(context)
    count = max(len(states), context.cycles // 20)
    for number in range(count):
        context.source.enter(states[number % len(states)])
        context.close()
        context.goes_on()
    context.note(f"opened and closed it {count} times")
    held.expect_no_more()


@check(
    "C41.memory",
    Level.MUST,
    "Sessions that are broken off give their memory back.",
    needs=PRE_COPY,
)
def memory_comes_back(context: Context) -> None:
    subject = context.source
    size = _stream_bytes(context)
    subject.back()
    # Others use memory too: half of what a leak in each session would come to is let pass, and that
    # has to be more than what they take.
    enough = -(-2 * NOISE_BYTES // size)
    count = max(4, context.cycles // 4)
    if enough > max(count, MOST_SESSIONS):
        raise NotOfferedError(
            f"what sessions of {size} bytes lose is not told from what others use: it takes "
            f"{enough} of them, --cycles {4 * enough}"
        )
    count = max(count, enough)
    allowed = count * size // 2

    def cycle() -> None:
        with subject.device.save(State.PRE_COPY) as stream:
            read_part(stream, 1000)
            subject.device.reset()

    cycle()
    did = f"MemAvailable after {count} sessions of {size} bytes"
    wanted = f"no more than {allowed / MIB:.1f} MiB less"
    for again in reversed(range(ROUNDS)):
        before = _available()
        for _ in range(count):
            cycle()
            context.goes_on()
        lost = before - _available()
        saw = f"{lost / MIB:.1f} MiB less"
        if lost <= allowed or not again:
            break
        # What somebody else took at that moment is not taken each time; what leaks is.
        context.note(did, f"{saw}; once more")
    context.expect(lost <= allowed, did, saw, wanted)


def _stream_bytes(context: Context) -> int:
    """Return how large the source's stream is; it is left in STOP_COPY."""
    return len(whole_stream(context))


def _available() -> int:
    """Return how much memory the kernel has to give, in bytes, once what is freed late is free."""
    time.sleep(0.1)
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    raise VfioError("/proc/meminfo", "MemAvailable", errno.ENOENT)


def _repeat(
    context: Context,
    subject: Subject,
    cycle: Callable[[Subject, int], None],
    did: str,
    count: int,
) -> None:
    """Repeat ``cycle`` and check that nothing has become more."""
    count = max(4, count)
    for number in range(4):
        cycle(subject, number)
    held = Held(context)
    for number in range(count):
        cycle(subject, number)
        context.goes_on()
    context.note(f"{did} {count} times")
    held.expect_no_more()
