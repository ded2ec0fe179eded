# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: feed a VF streams whose images were tampered with, and see LOAD refuse them.

Writes, per case, which image the firmware refused, with which errno and syndrome.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import zlib
from pathlib import Path

from mlxtrace.stream import HEADER, Framing, StreamParser
from mlxtrace.vfio import Device, End, SavingStream, State, VfioError, errno_name

FIRMWARE = Path("/sys/kernel/debug/mlx5_lab")
Images = list[bytes]


def drain(stream: SavingStream, parser: StreamParser, images: Images) -> End:
    """Read until an end and add every record that is complete to ``images``."""
    while True:
        data = stream.read(1 << 20)
        if data is End.NOT_YET:
            stream.wait(5)
        elif isinstance(data, End):
            return data
        else:
            for piece in parser.feed(data):
                images[-1] += bytes(piece.data)
                if piece.complete:
                    images.append(b"")


def save(vf: Device) -> Images:
    """Save ``vf`` with three middle images; return the stream's records that hold images."""
    parser, images = StreamParser(Framing.RECORDS), [b""]
    with vf.save(State.PRE_COPY) as stream:
        for _ in range(3):
            drain(stream, parser, images)
            time.sleep(0.05)
            # It starts the next SAVE: until that is done, a read says "no data for now".
            stream.precopy_info()
            stream.wait(5)
        drain(stream, parser, images)
        vf.set_state(State.STOP_COPY)
        assert drain(stream, parser, images) is End.FINAL
        vf.set_state(State.RUNNING)
    return [record for record in images if len(record) > HEADER.size + 8]


def refusals() -> list[str]:
    """Return the syndromes of the commands that the firmware has refused so far."""
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"command 0x119/0 refused: .*syndrome (0x[0-9a-f]+)", log)


def load(vf: Device, images: Images) -> dict[str, object]:
    """Feed ``images`` to ``vf``, and reset it."""
    before = len(refusals())
    result: dict[str, object] = {"refused_image": None}
    with vf.resume() as stream:
        for index, image in enumerate(images, 1):
            try:
                stream.write_all(image)
            except VfioError as error:
                result = {
                    "refused_image": index,
                    "errno": errno_name(error.errno),
                    "syndromes": refusals()[before:],
                }
                break
        else:
            vf.set_state(State.STOP)
            result["hash"] = (FIRMWARE / vf.name / "state_hash").read_text().strip()
    vf.reset()
    result["state_after_reset"] = vf.state().name
    return result


def flip(image: bytes) -> bytes:
    """Return ``image`` with one bit of its last byte changed."""
    return image[:-1] + bytes([image[-1] ^ 1])


# Of an image: where lab/firmware/image.c has the CRC of the image before, and its own.
BASE_CRC, CRC, BLOCKS = HEADER.size + 28, HEADER.size + 60, HEADER.size + 64


def forge(image: bytes, offset: int) -> bytes:
    """Return ``image`` with the byte at ``offset`` changed and a CRC that fits again."""
    forged = bytearray(image)
    forged[offset] ^= 1
    forged[CRC : CRC + 4] = bytes(4)
    # The kernel's crc32_le() leaves out the final complement.
    crc = zlib.crc32(forged[BLOCKS:] + forged[HEADER.size : BLOCKS]) ^ 0xFFFFFFFF
    forged[CRC : CRC + 4] = crc.to_bytes(4, "little")
    return bytes(forged)


def main() -> None:
    """Try every case on one pair of VFs."""
    with Device.open(os.environ["MLXLAB_VF0"]) as source:
        first, second = save(source), save(source)
    initial, one, two, three, final = first
    cases = {
        "whole": first,
        "lost": [initial, two, three, final],
        "reordered": [initial, two, one, three, final],
        "repeated": [initial, one, one, two, three, final],
        "damaged": [initial, flip(one), two, three, final],
        "foreign": [initial, second[1], two, three, final],
        "wrong base": [initial, forge(one, BASE_CRC), two, three, final],
        "wrong state": [initial, one, two, three, forge(final, len(final) - 1)],
        "no base": [one, two, three, final],
        "other whole": second,
    }
    with Device.open(os.environ["MLXLAB_VF1"]) as target:
        results = {name: load(target, images) for name, images in cases.items()}
    Path(sys.argv[1]).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
