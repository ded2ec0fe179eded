# SPDX-License-Identifier: GPL-2.0-or-later
"""Readers and askers in threads while the state changes, and signals that interrupt every wait."""

from __future__ import annotations

import errno
import os
import random
import select
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.lab.guest.stress.rig import (
    PATIENCE_S,
    SOURCE,
    TARGET,
    answer_of,
    faulty,
    precopy_info,
)

from mlxtrace.migrate import migrate_to_device
from mlxtrace.migrate_model import Options, summary
from mlxtrace.migrate_sink import state_hash
from mlxtrace.vfio import Device, State, VfioError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.guest.stress.rig import Tally

_P, _PP, _SC = State.PRE_COPY, State.PRE_COPY_P2P, State.STOP_COPY
_DELAYS = ("", "save delay_us=0", "save delay_us=300", "save delay_us=4000", "save delay_us=25000")
_ENDED = ("ENODEV", "EINVAL")


class Crowd:
    """Threads that do the same again and again, until told to stop or until it is over for them."""

    def __init__(self, tally: Tally, name: str) -> None:
        self.tally, self.name = tally, name
        self.over = threading.Event()
        self._threads: list[threading.Thread] = []

    def add(self, what: str, step: Callable[[], bool]) -> None:
        """Start a thread that calls ``step`` while that returns true."""

        def loop() -> None:
            try:
                while step() and not self.over.is_set():
                    self.tally.counts[what] += 1
            except Exception as error:  # noqa: BLE001 - of whatever kind, it is wrong
                self.tally.check(False, f"{self.name}: {what}: {error!r}")

        thread = threading.Thread(target=loop, name=what, daemon=True)
        thread.start()
        self._threads.append(thread)

    def join(self, *, stop: bool) -> None:
        """Wait for the threads; with ``stop`` after they were told."""
        if stop:
            self.over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            if thread.is_alive():
                # It would use descriptors that others get.
                raise RuntimeError(f"{self.name}: {thread.name} does not end")
        self._threads.clear()


def _asks(fd: int) -> Callable[[], bool]:
    """Return a step that asks PRECOPY_INFO; EINVAL is what it says outside pre-copy.

    A firmware that has been reset, while the driver has not been told so yet, refuses its QUERY:
    EIO.
    """

    def step() -> bool:
        said = answer_of(lambda: precopy_info(fd))
        if said not in ("ok", "EIO", *_ENDED):
            raise RuntimeError(f"PRECOPY_INFO: {said}")
        return True

    return step


def _asks_device(vf: Device, reset: threading.Event) -> Callable[[], bool]:
    """Return a step that asks for the data size, which fails while the device is ``reset``."""

    def step() -> bool:
        vf.state()
        said = answer_of(vf.stop_copy_bytes)
        if said != "ok" and not reset.is_set():
            raise RuntimeError(f"MIG_DATA_SIZE: {said}")
        return True

    return step


def _reads(fd: int, take: Callable[[bytes], None], size: int) -> Callable[[], bool]:
    """Return a step that reads, waiting by poll if the file does not block, until the end."""
    blocking = os.get_blocking(fd)
    poll = select.poll()
    poll.register(fd, select.POLLIN)

    def step() -> bool:
        if not blocking:
            poll.poll(5)
        try:
            data = os.read(fd, size)
        except OSError as error:
            if error.errno == errno.ENOMSG:
                time.sleep(0.0005)
            return error.errno in (errno.ENOMSG, errno.EAGAIN)
        take(data)
        return bool(data)

    return step


def run(tally: Tally, count: int, seed: int) -> None:
    """Race ``count`` times to the end of a migration, and as often to a cancelled one."""
    chance = random.Random(seed)
    for number in range(count):
        for race in (_to_the_end, _to_nothing):
            rule = chance.choice(_DELAYS)
            name = f"{race.__name__[1:]}, race {number} ({rule})"
            with faulty(SOURCE, *([rule] if rule else [])):
                race(tally, name, chance)
            tally.counts["races"] += 1
            tally.nothing_left(name)
        if number % 50 == 49:
            print(f"stress: {2 * (number + 1)} races", flush=True)
    tally.migration("after the races")


def _to_the_end(tally: Tally, name: str, chance: random.Random) -> None:
    """One reader takes it all, while others ask, through to STOP_COPY: nothing may be missing."""
    data = bytearray()
    with Device.open(SOURCE) as vf:
        fd = vf.change_state(_P)
        os.set_blocking(fd, chance.random() < 0.7)
        readers, askers = Crowd(tally, name), Crowd(tally, name)
        readers.add("reads to the end", _reads(fd, data.extend, chance.choice((4096, 1 << 18))))
        for _ in range(chance.randrange(3)):
            askers.add("PRECOPY_INFO", _asks(fd))
        askers.add("MIG_DATA_SIZE", _asks_device(vf, threading.Event()))
        for state in chance.choice(((_SC,), (_PP, _SC), (_PP, _P, _SC), (_PP, _P, _PP, _SC))):
            time.sleep(chance.random() * 0.02)
            vf.set_state(state)
        readers.join(stop=False)
        saved = state_hash(SOURCE)
        askers.join(stop=True)
        vf.set_state(State.RUNNING)
        os.close(fd)
        tally.at_rest(vf, name)
    with Device.open(TARGET) as target:
        with target.resume() as sink:
            said = answer_of(lambda: sink.write_all(bytes(data)))
        if said == "ok":
            said = answer_of(lambda: target.set_state(State.STOP))
        equal = said == "ok" and state_hash(TARGET) == saved
        tally.check(equal, f"{name}: the {len(data)} bytes that were read do not load: {said}")


def _to_nothing(tally: Tally, name: str, chance: random.Random) -> None:
    """Several read and ask while it is cancelled, reset or closed: all must wake up."""
    vf = Device.open(SOURCE)
    fd = vf.change_state(chance.choice((_P, _PP)))
    os.set_blocking(fd, chance.random() < 0.7)
    readers, askers, others = Crowd(tally, name), Crowd(tally, name), Crowd(tally, name)
    for _ in range(2):
        readers.add(
            "reads until cancelled", _reads(fd, lambda _: None, chance.choice((100, 65536)))
        )
    askers.add("PRECOPY_INFO", _asks(fd))
    reset = threading.Event()
    for _ in range(chance.randrange(3)):
        others.add("MIG_DATA_SIZE", _asks_device(vf, reset))
    for _ in range(chance.randrange(3)):
        time.sleep(chance.random() * 0.01)
        vf.set_state(chance.choice((_P, _PP)))
    end = chance.choice(("RUNNING", "RUNNING_P2P", "STOP by STOP_COPY", "reset", "close"))
    time.sleep(chance.random() * 0.01)
    if end == "reset":
        reset.set()
        vf.reset()
    elif end == "STOP by STOP_COPY":
        vf.set_state(_SC)
        vf.set_state(State.STOP)
    elif end != "close":
        vf.set_state(State[end])
    others.join(stop=True)
    if end != "close":
        vf.set_state(State.RUNNING)
        readers.join(stop=False)
        tally.at_rest(vf, f"{name}, {end}")
    vf.close()
    readers.join(stop=False)
    askers.join(stop=True)
    os.close(fd)
    tally.counts[f"ended by {end}"] += 1


@contextmanager
def _alarms(interval_s: float, tally: Tally) -> Iterator[None]:
    """Have a signal come every ``interval_s``; system calls are not restarted."""

    def note(number: int, frame: object) -> None:
        del number, frame
        tally.counts["signals"] += 1

    before = signal.signal(signal.SIGALRM, note)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.setitimer(signal.ITIMER_REAL, interval_s, interval_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def signals(tally: Tally, count: int, seed: int) -> None:
    """Migrate and cancel ``count`` times while signals come."""
    chance = random.Random(seed)
    for number in range(count):
        delay = chance.choice((3000, 10_000, 30_000))
        name = f"signals {number}, SAVE takes {delay} us"
        with faulty(SOURCE, f"save delay_us={delay}"):
            with (
                Device.open(SOURCE) as source,
                Device.open(TARGET) as target,
                _alarms(chance.choice((0.001, 0.002, 0.005)), tally),
            ):
                result = migrate_to_device(source, target, Options(min_rounds=1, max_rounds=3))
            equal = result.error is None and summary(result)["state_hashes_equal"]
            tally.check(equal, f"{name}: {result.error or 'another state'}")
            with Device.open(SOURCE) as vf, _alarms(0.002, tally):
                _walk(tally, vf, chance)
        tally.nothing_left(name)
        tally.counts["migrations and walks with signals"] += 1
    tally.migration("after the signals")


def _walk(tally: Tally, vf: Device, chance: random.Random) -> None:
    """Change the state and ask; a call that a signal ended is made again."""
    with vf.save(_P) as stream:
        for _ in range(6):
            vf.set_state(chance.choice((_P, _PP)))
            vf.stop_copy_bytes()
            stream.read(4096)
            try:
                stream.precopy_info()
            except VfioError as error:
                tally.check(error.errno == errno.EINTR, f"PRECOPY_INFO: {error}")
                tally.counts["PRECOPY_INFO interrupted"] += 1
        vf.set_state(chance.choice((_SC, State.RUNNING)))
    vf.set_state(State.RUNNING)
    tally.at_rest(vf, "after a walk with signals")
