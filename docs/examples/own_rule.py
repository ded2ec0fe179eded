# SPDX-License-Identifier: GPL-2.0-or-later
"""A rule of our own: until its first end, pre-copy gives as many bytes as it announced."""

import sys

from mlxtrace.vfio import Device, End, State


def check(vf: Device) -> str:
    """Return what the driver did wrong; nothing if it kept the rule."""
    with vf.save(State.PRE_COPY) as stream:
        announced, read = stream.precopy_info().initial_bytes, 0
        while not isinstance(data := stream.read(1 << 20), End) or data is End.NOT_YET:
            if isinstance(data, bytes):
                read += len(data)
            elif not stream.wait(timeout_s=70):
                return f"nothing came for 70 s after {read} of {announced} bytes"
    vf.set_state(State.RUNNING)
    return "" if read == announced else f"announced {announced} bytes, gave {read}"


with Device.open(sys.argv[1]) as device:
    wrong = check(device)
print(wrong or "the rule holds")
sys.exit(1 if wrong else 0)
