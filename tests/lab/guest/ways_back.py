# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: what is possible after a VF was taken away, or a final image failed.

Writes what each step was answered, by case.

usage: ways_back.py RESULT
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.guest.cancels import answer, first_image, read_all, status

from mlxlab import firmware
from mlxtrace.vfio import Device, SavingStream, State

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = os.environ["MLXLAB_VF0"]


def read_whole(stream: SavingStream) -> str:
    """Read to the end of what there is; return which end it is."""
    while True:
        end = read_all(stream).value
        if end != "not yet":
            return end
        stream.wait(5)


def take_away() -> None:
    """Have the PF take the VF away."""
    firmware.apply(SOURCE, ["present=0"])


def give_back() -> None:
    """Have the PF give the VF back."""
    firmware.apply(SOURCE, ["present=1"])


def migrates(vf: Device) -> str:
    """Return how a pre-copy session ends that is begun now; the VF runs afterwards."""
    vf.reset()
    stream = first_image(vf)
    vf.set_state(State.STOP_COPY)
    end = read_whole(stream)
    vf.set_state(State.RUNNING)
    return end


def resuming(vf: Device) -> dict[str, str]:
    """The VF goes, and comes back, while it is given a state."""
    stream = vf.resume()
    told = {"write": answer(lambda: stream.write(bytes(7)))}
    take_away()
    told["write, away"] = answer(lambda: stream.write(bytes(7)))
    told["stop, away"] = answer(lambda: vf.set_state(State.STOP))
    give_back()
    told["stop"] = answer(lambda: vf.set_state(State.STOP))
    told["state"] = vf.state().name
    return told


def pre_copy(vf: Device) -> dict[str, str]:
    """The VF goes, and comes back, in pre-copy."""
    stream = first_image(vf)
    take_away()
    told = {"read, away": answer(lambda: read_all(stream))}
    told["stop, away"] = answer(lambda: vf.set_state(State.STOP_COPY))
    give_back()
    told["stop"] = answer(lambda: vf.set_state(State.STOP_COPY))
    told["state"] = vf.state().name
    told["running"] = answer(lambda: vf.set_state(State.RUNNING))
    return told


def stop_copy(vf: Device) -> dict[str, str]:
    """The VF goes, and comes back, while it is stopped."""
    stream = vf.save(State.STOP_COPY)
    take_away()
    told = {"read, away": answer(lambda: read_all(stream))}
    told["running, away"] = answer(lambda: vf.set_state(State.RUNNING))
    told["state, away"] = vf.state().name
    # The VF that is given back is a new one, which runs: only a reset tells its driver.
    give_back()
    return told


def final_image(vf: Device) -> dict[str, str]:
    """The final image fails; the VF, which is stopped, is asked for another one."""
    stream = first_image(vf)
    firmware.apply(SOURCE, ["fault=save_final nth=1 status=5 syndrome=0xabd006"])
    vf.set_state(State.STOP_COPY)
    stream.wait(5)
    told = {"read": answer(lambda: read_all(stream))}
    vf.set_state(State.STOP)
    told["tracked"] = str(status()["tracked"])
    told["again"] = read_whole(vf.save(State.STOP_COPY))
    told["tracked, again"] = str(status()["tracked"])
    told["running"] = answer(lambda: vf.set_state(State.RUNNING))
    return told


CASES: tuple[Callable[[Device], dict[str, str]], ...] = (
    resuming,
    pre_copy,
    stop_copy,
    final_image,
)


def main() -> None:
    """Run each case on a VF that is open once."""
    results = {}
    with Device.open(SOURCE) as vf:
        for case in CASES:
            results[case.__name__] = case(vf)
            firmware.apply(SOURCE, ["fault=clear"])
            results[case.__name__]["migrates"] = migrates(vf)
    Path(sys.argv[1]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
