# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: pre-copy sessions that are given up, and what the driver leaves behind.

Writes, per case, what the user was answered, the VF's state, and what the firmware counted; and for
all of them what the user counted. Where the way back to RUNNING is refused, the VF is reset.

usage: cancels.py RESULT
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab.guest import faults

from mlxlab import firmware
from mlxtrace.stream import HEADER, Tag
from mlxtrace.vfio import Device, End, SavingStream, State, VfioError, errno_name

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = os.environ["MLXLAB_VF0"]
# Under the names that the tracer's summary has.
client: Counter[str] = Counter()


def counters() -> dict[str, int]:
    """Return what the firmware has counted of the source so far."""
    words = firmware.figures(SOURCE)["counters"].split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def status() -> dict[str, int]:
    """Return what the firmware says of the source now."""
    words = firmware.figures(SOURCE)["status"].split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def read_all(stream: SavingStream, kept: bytearray | None = None) -> End:
    """Read what there is, and add it to ``kept``; return why there is no more."""
    while True:
        data = stream.read(1 << 20)
        if isinstance(data, End):
            client["temporary_ends"] += data is End.TEMPORARY
            return data
        client["read_calls"] += 1
        client["read_bytes"] += len(data)
        if kept is not None:
            kept += data


def ask(stream: SavingStream) -> int:
    """Issue the precopy ioctl; return the dirty bytes."""
    client["ioctls"] += 1
    return stream.precopy_info().dirty_bytes


def first_image(vf: Device, kept: bytearray | None = None) -> SavingStream:
    """Begin a session and read its initial image, which is added to ``kept``."""
    stream = vf.save(State.PRE_COPY)
    stream.wait(5)
    # The image comes after a record that can be read before it.
    while read_all(stream, kept) is End.NOT_YET:
        stream.wait(5)
    return stream


def answer(what: Callable[[], object]) -> str:
    """Return the errno's name that ``what`` fails with, or ``ok``."""
    try:
        what()
    except VfioError as error:
        return errno_name(error.errno)
    return "ok"


def after_images(vf: Device) -> dict[str, Any]:
    """Two images are read, the third is announced."""
    stream = first_image(vf)
    ask(stream)
    stream.wait(5)
    read_all(stream)
    ask(stream)
    return {}


def in_p2p(vf: Device) -> dict[str, Any]:
    """Suspended half-way."""
    first_image(vf)
    vf.set_state(State.PRE_COPY_P2P)
    return {}


def in_flight(vf: Device) -> dict[str, Any]:
    """The initial SAVE is under way."""
    firmware.apply(SOURCE, ["fault=save_initial delay_us=300000"])
    vf.save(State.PRE_COPY)
    return {}


def announced(vf: Device) -> dict[str, Any]:
    """Dirty bytes were announced and are not there yet: what does a read say?"""
    stream = first_image(vf)
    firmware.apply(SOURCE, ["fault=save_middle delay_us=300000"])
    dirty = ask(stream)
    return {"dirty_bytes": dirty, "read": read_all(stream).value}


def failed_image(vf: Device) -> dict[str, Any]:
    """A middle SAVE fails for good."""
    stream = first_image(vf)
    firmware.apply(SOURCE, ["fault=save_middle nth=1 status=5 syndrome=0xabd001"])
    ask(stream)
    stream.wait(5)
    return {"read": answer(lambda: read_all(stream))}


def fallback(vf: Device) -> dict[str, Any]:
    """A middle SAVE cannot be had, and what was announced does not come: is a poller told?"""
    stream = first_image(vf)
    firmware.apply(SOURCE, ["fault=save_middle nth=1 status=9 syndrome=0xabd005 delay_us=100000"])
    ask(stream)
    return {"told": stream.wait(2), "read": read_all(stream).value}


def refused_suspend(vf: Device) -> dict[str, Any]:
    """The VF cannot be stopped."""
    first_image(vf)
    firmware.apply(SOURCE, ["fault=suspend_responder nth=1 status=4 syndrome=0xabd003"])
    return {"stop": answer(lambda: vf.set_state(State.STOP_COPY)), "at": vf.state().name}


def refused_query(vf: Device) -> dict[str, Any]:
    """The VF is stopped, and what is left cannot be asked for."""
    stream = first_image(vf)
    vf.set_state(State.PRE_COPY_P2P)
    firmware.apply(SOURCE, ["fault=query nth=1 status=4 syndrome=0xabd004"])
    stop = answer(lambda: vf.set_state(State.STOP_COPY))
    return {"stop": stop, "at": vf.state().name, "read": answer(lambda: read_all(stream))}


def failed_cleanup(vf: Device) -> dict[str, Any]:
    """The SAVE that ends tracking fails."""
    first_image(vf)
    firmware.apply(SOURCE, ["fault=save_cleanup nth=1 status=5 syndrome=0xabd002"])
    return {}


def again(vf: Device) -> dict[str, Any]:
    """As the first, on the same device."""
    return after_images(vf)


CASES = (
    after_images,
    in_p2p,
    in_flight,
    announced,
    failed_image,
    fallback,
    refused_suspend,
    refused_query,
    failed_cleanup,
    again,
)


def run(vf: Device, case: Callable[[Device], dict[str, Any]]) -> dict[str, Any]:
    """Run one case and give its session up."""
    before = counters()
    result = case(vf)
    result["running"] = answer(lambda: vf.set_state(State.RUNNING))
    result["state"] = vf.state().name
    result["tracked"] = status()["tracked"]
    if result["state"] != "RUNNING":
        vf.reset()
    after = status()
    result["suspended"] = after["initiator_suspended"], after["responder_suspended"]
    result["counters"] = {key: value - before[key] for key, value in counters().items()}
    firmware.apply(SOURCE, ["fault=clear"])
    return result


def closed() -> dict[str, Any]:
    """The device is closed in mid-session."""
    before = counters()
    with Device.open(SOURCE) as vf:
        first_image(vf)
    return {"counters": {key: value - before[key] for key, value in counters().items()}}


def disabled() -> dict[str, Any]:
    """The PF takes the VF away in mid-session; its driver gets it back at the end."""
    before = counters()
    firmware.apply(SOURCE, ["fault=save_initial disable_vf delay_us=100000"])
    with Device.open(SOURCE) as vf, vf.save(State.PRE_COPY) as stream:
        read = "ok"
        while read == "ok":
            stream.wait(5)
            read = answer(lambda: read_all(stream))
    firmware.apply(SOURCE, ["fault=clear"])
    faults.rebind(SOURCE)
    after = counters()
    return {"read": read, "counters": {key: value - before[key] for key, value in after.items()}}


def in_parts() -> dict[str, Any]:
    """The VF's own stream is loaded into it, each header in three writes."""
    before = counters()
    data = bytearray()
    with Device.open(SOURCE) as vf:
        stream = first_image(vf, data)
        vf.set_state(State.STOP_COPY)
        while read_all(stream, data) is not End.FINAL:
            stream.wait(5)
        vf.set_state(State.STOP)
        headers = []
        offset = 0
        while offset < len(data):
            size, _, tag = HEADER.unpack_from(data, offset)
            headers.append({"offset_bytes": offset, "record_bytes": size, "tag": Tag(tag).name})
            offset += HEADER.size + size
        cuts = [header["offset_bytes"] + part for header in headers for part in (5, 11)]
        with vf.resume() as target:
            for begin, end in pairwise([0, *cuts, len(data)]):
                target.write_all(memoryview(data)[begin:end])
            vf.set_state(State.STOP)
        vf.set_state(State.RUNNING)
    after = counters()
    return {
        "headers": headers,
        "counters": {key: value - before[key] for key, value in after.items()},
    }


def main() -> None:
    """Run every case on one open device, so that nothing but the driver tidies up."""
    with Device.open(SOURCE) as vf:
        cases = {case.__name__: run(vf, case) for case in CASES}
    cases |= {case.__name__: case() for case in (in_parts, closed, disabled)}
    Path(sys.argv[1]).write_text(json.dumps({"cases": cases, "client": client}, indent=1))


if __name__ == "__main__":
    main()
