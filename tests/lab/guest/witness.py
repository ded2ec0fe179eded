# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel's own tracing says of firmware commands: a witness beside the simulated firmware.

Kprobe events (Documentation/trace/kprobetrace.rst) on the driver's way to the firmware; the opcode
is the big-endian word that a mailbox begins with.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACING = Path("/sys/kernel/tracing")
_EVENTS = (
    "p:lab/save mlx5_cmd_exec_cb op=+0(%si):x16",
    "r:lab/save_sent mlx5_cmd_exec_cb",
    "p:lab/save_done mlx5vf_save_callback",
    "p:lab/command mlx5_cmd_exec op=+0(%si):x16",
    "r:lab/command_done mlx5_cmd_exec",
)
_LINE = re.compile(r"-(?P<task>\d+) +\[\d+\] \S+ +(?P<at>[\d.]+): (?P<event>\w+): \((?P<rest>.*)")
_LOAD = 0x1901  # 0x119, as a little-endian machine reads it


@contextlib.contextmanager
def watching() -> Iterator[list[tuple[float, str, str, int]]]:
    """Fill the list that is yielded, when the block ends: seconds, event, task and opcode."""
    seen: list[tuple[float, str, str, int]] = []
    definitions = TRACING / "kprobe_events"
    enable = TRACING / "events/lab/enable"
    # One that was killed leaves them behind.
    if enable.exists():
        enable.write_text("0")
    definitions.write_text("")
    # Not open("a"), which seeks: the file refuses that.
    descriptor = os.open(definitions, os.O_WRONLY | os.O_APPEND)
    for event in _EVENTS:
        os.write(descriptor, event.encode())
    os.close(descriptor)
    (TRACING / "trace").write_text("")
    enable.write_text("1")
    try:
        yield seen
    finally:
        enable.write_text("0")
        for line in (TRACING / "trace").read_text().splitlines():
            if found := _LINE.search(line):
                opcode = re.search(r"op=0x(\w+)", found["rest"])
                seen.append(
                    (
                        float(found["at"]),
                        found["event"],
                        found["task"],
                        int(opcode[1], 16) if opcode else 0,
                    )
                )
        definitions.write_text("")


def saves(seen: list[tuple[float, str, str, int]]) -> list[dict[str, float | bool]]:
    """Return, per SAVE, whether its callback came before its submission returned, and its time."""
    result = []
    begin, returned = 0.0, False
    for at, event, _, _ in seen:
        if event == "save":
            begin, returned = at, False
        elif event == "save_sent":
            returned = True
        elif event == "save_done":
            result.append({"at_once": not returned, "seconds": at - begin})
    return result


def load_seconds(seen: list[tuple[float, str, str, int]]) -> list[float]:
    """Return how long each LOAD took."""
    begun: dict[str, float] = {}
    result = []
    for at, event, task, opcode in seen:
        if event == "command" and opcode == _LOAD:
            begun[task] = at
        elif event == "command_done" and task in begun:
            result.append(at - begun.pop(task))
    return result
