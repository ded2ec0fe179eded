# SPDX-License-Identifier: GPL-2.0-or-later
"""Entering pre-copy and cancelling it, again and again, with something or nothing in between."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.lab.guest.stress.rig import SOURCE, answer_of, status

from mlxtrace.vfio import Device, End, SavingStream, State

if TYPE_CHECKING:
    from tests.lab.guest.stress.rig import Tally

# Around the ends of the records' headers and of pages; the last one is all that there is.
_LENGTHS = (1, 15, 16, 17, 23, 24, 25, 40, 41, 4095, 4096, 4097, 100_000, 4 << 20)
_PRECOPY = (State.PRE_COPY, State.PRE_COPY_P2P)
_WAYS_OUT = (
    [State.RUNNING],
    [State.RUNNING_P2P, State.RUNNING],
    [State.PRE_COPY_P2P, State.RUNNING],
    [State.PRE_COPY_P2P, State.RUNNING_P2P, State.RUNNING],
    [State.PRE_COPY, State.RUNNING],
)


def run(tally: Tally, count: int, seed: int) -> None:
    """Enter and cancel ``count`` times on one open device."""
    chance = random.Random(seed)
    with Device.open(SOURCE) as vf:
        for number in range(count):
            _cycle(tally, vf, chance, f"cycle {number}")
            tally.counts["cycles"] += 1
            if number % 100 == 99:
                print(f"stress: {number + 1} cycles", flush=True)
    tally.migration("after the cycles")


def _cycle(tally: Tally, vf: Device, chance: random.Random, name: str) -> None:
    stream = vf.save(chance.choice(_PRECOPY))
    for _ in range(chance.randrange(5)):
        chance.choice((_read, _read, _ask, _ask_size, _toggle))(tally, vf, stream, chance)
    tally.check(status(SOURCE)["responder_suspended"] == 0, f"{name}: it does not run in pre-copy")
    for state in chance.choice(_WAYS_OUT):
        vf.set_state(state)
    tally.at_rest(vf, name)
    # An ended session's file is of no use, and does no harm.
    said = answer_of(lambda: stream.read(1))
    tally.check(said == "ENODEV", f"{name}: the read after it: {said}")
    stream.close()
    tally.nothing_left(name)


def _read(tally: Tally, vf: Device, stream: SavingStream, chance: random.Random) -> None:
    del vf
    answer = stream.read(chance.choice(_LENGTHS))
    tally.counts["reads"] += 1
    tally.check(answer is not End.FINAL, "a final end in pre-copy")


def _ask(tally: Tally, vf: Device, stream: SavingStream, chance: random.Random) -> None:
    del vf, chance
    stream.precopy_info()
    tally.counts["PRECOPY_INFO"] += 1


def _ask_size(tally: Tally, vf: Device, stream: SavingStream, chance: random.Random) -> None:
    del stream, chance
    tally.check(vf.stop_copy_bytes() > 0, "a data size of 0 in pre-copy")
    tally.counts["MIG_DATA_SIZE"] += 1


def _toggle(tally: Tally, vf: Device, stream: SavingStream, chance: random.Random) -> None:
    del stream, chance
    vf.set_state(State.PRE_COPY if vf.state() is State.PRE_COPY_P2P else State.PRE_COPY_P2P)
    tally.counts["P2P changes"] += 1
