# SPDX-License-Identifier: GPL-2.0-or-later
"""Failing each allocation, and each copy to or from the user, in every call of a migration.

/proc/thread-self/fail-nth (Documentation/fault-injection/fault-injection.rst) lets the N-th one
that the calling thread makes fail. N grows until the call ends without having come to it.
"""

from __future__ import annotations

import os
import random
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.guest.stress.rig import (
    SOURCE,
    answer_of,
    drain,
    objects,
    precopy_info,
    status,
)

from mlxtrace.vfio import Device, SavingStream, State, VfioError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.guest.stress.rig import Tally

_FAIL_NTH = Path("/proc/thread-self/fail-nth")
_DEBUG = Path("/sys/kernel/debug")
# Far beyond what any call allocates.
_LIMIT = 5000

R, RP, S, SC = State.RUNNING, State.RUNNING_P2P, State.STOP, State.STOP_COPY
P, PP, RS = State.PRE_COPY, State.PRE_COPY_P2P, State.RESUMING

# The driver's fifteen arcs, and two ways through several of them.
ARCS = (
    *((R, P), (RP, PP), (P, PP), (PP, P), (P, R), (PP, RP), (PP, SC), (R, RP)),
    *((RP, R), (RP, S), (S, RP), (S, SC), (SC, S), (S, RS), (RS, S), (P, SC), (R, SC)),
)
# States that may be seen when a way has been left half-way.
_ON_THE_WAY = {(P, SC): {P, PP, SC}, (R, SC): {R, RP, S, SC}}


def available() -> bool:
    """Tell whether this kernel can have allocations fail."""
    return _FAIL_NTH.exists() and (_DEBUG / "failslab").is_dir()


def prepare() -> None:
    """Have every kind of allocation fail when it is its turn, and say nothing about it."""
    for kind in ("failslab", "fail_page_alloc", "fail_usercopy"):
        for name, value in (
            *(("verbose", "0"), ("ignore-gfp-wait", "N"), ("min-order", "0")),
            ("probability", "0"),
        ):
            file = _DEBUG / kind / name
            if file.exists():
                file.write_text(value)


class Injector:
    """Calls something with the N-th allocation failing in it."""

    def __init__(self) -> None:
        self._fd = os.open(_FAIL_NTH, os.O_RDWR)

    def close(self) -> None:
        os.close(self._fd)

    def call(self, nth: int, call: Callable[[], object]) -> tuple[bool, str]:
        """Return whether the fault came to pass in ``call``, and how that ended."""
        os.pwrite(self._fd, b"%d" % nth, 0)
        try:
            said = answer_of(call)
        except MemoryError:
            said = "MemoryError"
        finally:
            left = self._left()
        return left == 0, said

    def _left(self) -> int:
        """Return how far it is to the fault, and call it off."""
        left = 1
        # The copy of the number to us may be the one that fails: then no other was.
        with suppress(OSError):
            left = int(os.pread(self._fd, 16, 0))
        while True:
            try:
                os.pwrite(self._fd, b"0", 0)
            except OSError:
                continue
            return left


class Fixture:
    """A device that is brought to a state before each try, and to RUNNING after it."""

    def __init__(self, tally: Tally, vf: Device, stream: bytes) -> None:
        self.tally, self.vf, self.whole = tally, vf, stream
        self.fd = -1

    def go(self, state: State) -> None:
        """Go from RUNNING to ``state``; in a saving one all has been read, in RESUMING written."""
        self.forget()
        self.fd = self.vf.change_state(state)
        if state in (P, PP, SC):
            with SavingStream(SOURCE, os.dup(self.fd)) as stream:
                drain(stream)
        if state is RS:
            _write(self.fd, self.whole)

    def change(self, state: State) -> None:
        """Change the state, and keep the data file if there is one."""
        fd = self.vf.change_state(state)
        if fd >= 0:
            self.forget()
            self.fd = fd

    def forget(self) -> None:
        """Close the data file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def back(self, when: str) -> None:
        """Go to RUNNING; only what has lost its stream may need a reset."""
        try:
            if self.vf.state() is RS:
                self.vf.reset()
            self.vf.set_state(R)
            if status(SOURCE)["tracked"]:
                # The fault hit what should tell the firmware; it is told when it matters.
                self.tally.counts["tracked until the next pre-copy"] += 1
                self.vf.set_state(P)
                self.vf.set_state(R)
        except VfioError as error:
            self.tally.check(False, f"{when}: no way back: {error}, {status(SOURCE)}")
            self.vf.reset()
        self.forget()
        self.tally.at_rest(self.vf, f"{when}: back in RUNNING")
        self.tally.check(not any(objects().values()), f"{when}: left behind: {objects()}")


def whole_stream(vf: Device) -> bytes:
    """Return what a pre-copy migration of ``vf`` would send."""
    data = bytearray()
    with vf.save(P) as stream:
        drain(stream, data.extend)
        vf.set_state(SC)
        drain(stream, data.extend)
    vf.set_state(R)
    return bytes(data)


def run(tally: Tally, share: slice, chosen: str) -> None:
    """Try each call that ``chosen`` names with each of a share of its allocations failing."""
    prepare()
    injector = Injector()
    with Device.open(SOURCE) as vf:
        fixture = Fixture(tally, vf, whole_stream(vf))
        for name, start, call, ends in _calls(fixture):
            if chosen in name:
                _try(fixture, injector, share, (name, start, call, ends))
    injector.close()
    tally.migration("after failing allocations")


Call = tuple[str, State, "Callable[[], object]", set[State]]


def _calls(fixture: Fixture) -> list[Call]:
    """Return each call: its name, where it begins, itself, and where it may end."""
    vf = fixture.vf

    def change(state: State) -> Callable[[], None]:
        return lambda: fixture.change(state)

    calls: list[Call] = [
        (f"{a.name} to {b.name}", a, change(b), _ON_THE_WAY.get((a, b), {a, b})) for a, b in ARCS
    ]
    return [
        *calls,
        *(
            (f"size in {state.name}", state, vf.stop_copy_bytes, {state})
            for state in State
            if state
        ),
        *(
            (f"info in {state.name}", state, lambda: precopy_info(fixture.fd), {state})
            for state in (P, PP, SC)
        ),
        ("read in PRE_COPY", R, lambda: _enter_and_read(fixture), {R, P}),
        ("read in STOP_COPY", R, lambda: _enter_and_read(fixture, SC), {R, RP, S, SC}),
        ("write", S, lambda: _resume_and_write(fixture, fixture.whole), {S, RS}),
        ("reset in PRE_COPY", P, vf.reset, {P, R}),
        ("reset in RESUMING", RS, vf.reset, {RS, R}),
    ]


def _enter_and_read(fixture: Fixture, state: State = P) -> None:
    """Begin a session and read it to its end, by reads that sleep."""
    fixture.change(state)
    with suppress(OSError):
        while os.read(fixture.fd, 1 << 18):
            pass


def _resume_and_write(fixture: Fixture, data: bytes) -> None:
    fixture.change(RS)
    _write(fixture.fd, data)


def _write(fd: int, data: bytes) -> None:
    """Write all of ``data``: the driver may take less than it is given."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[: 1 << 18]) :]


def _try(fixture: Fixture, injector: Injector, share: slice, what: Call) -> None:
    name, start, call, ends = what
    tally = fixture.tally
    failed = tolerated = 0
    for nth in range(1, _LIMIT)[share]:
        fixture.go(start)
        injected, said = injector.call(nth, call)
        when = f"{name}, allocation {nth} ({said})"
        state = fixture.vf.state()
        tally.check(state in ends, f"{when}: it is in {state.name}")
        fixture.back(when)
        if not injected:
            good = "EINVAL" if name == "info in STOP_COPY" else "ok"
            tally.check(said == good, f"{when}, without a fault")
            break
        failed += said != "ok"
        tolerated += said == "ok"
    else:
        tally.check(False, f"{name}: {_LIMIT} allocations, and no end")
    tally.counts[f"{name}: failed"] = failed
    tally.counts[f"{name}: ok nevertheless"] = tolerated
    tally.counts["injected"] += failed + tolerated
    print(f"stress: {name}: {failed} + {tolerated} allocations failed", flush=True)


def storm(tally: Tally, count: int, seed: int) -> None:
    """Make ``count`` random calls in which one allocation in ten fails, and see what is left."""
    prepare()
    for kind in ("failslab", "fail_page_alloc"):
        for name, value in (("task-filter", "Y"), ("times", "-1"), ("probability", "10")):
            (_DEBUG / kind / name).write_text(value)
    chance = random.Random(seed)
    with Device.open(SOURCE) as vf:
        fixture = Fixture(tally, vf, b"")
        for number in range(count):
            if number % 10 == 0:
                fixture.back(f"storm, call {number}")
            _storm_call(tally, fixture, chance)
        fixture.back("the storm's end")
    prepare()
    tally.migration("after the storm")


def _storm_call(tally: Tally, fixture: Fixture, chance: random.Random) -> None:
    state = chance.choice((R, RP, S, SC, P, PP, P, PP))
    call = chance.choice(
        (
            *(lambda: fixture.change(state),) * 4,
            fixture.vf.stop_copy_bytes,
            lambda: precopy_info(fixture.fd),
            lambda: _read_once(fixture),
        )
    )
    with _failing():
        said = answer_of(call)
    tally.counts["storm, calls"] += 1
    tally.counts[f"storm, {said}"] += 1


def _read_once(fixture: Fixture) -> None:
    if fixture.fd >= 0:
        os.set_blocking(fixture.fd, False)
        os.read(fixture.fd, 1 << 18)


@contextmanager
def _failing() -> Iterator[None]:
    """While it lasts, allocations of this thread fail as :func:`storm` has set it."""
    switch = os.open("/proc/thread-self/make-it-fail", os.O_WRONLY)
    os.write(switch, b"1")
    try:
        yield
    finally:
        os.write(switch, b"0")
        os.close(switch)


def kmemleak_works() -> bool:
    """Tell whether kmemleak still works: without memory for its own records it gives up."""
    try:
        (_DEBUG / "kmemleak").write_text("stack=on")
    except OSError:
        return False
    return True
