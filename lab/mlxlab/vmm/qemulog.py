# SPDX-License-Identifier: GPL-2.0-or-later
"""What one QEMU says of a migration: its own trace (``-trace``), and its errors.

The names and texts of the events are those of hw/vfio/trace-events in QEMU 10.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINE = re.compile(r"\d+@(\d+)\.(\d{6}):(\w+) ?(.*)")
_ERROR = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6})Z [^:]+: (.*)")
_DEVICE = re.compile(r" ?\((?P<device>[^)]*)\) ?(?P<rest>.*)")
_SET = re.compile(r"new state (\w+), recover state (\w+)")
_REFUSED = re.compile(r"(?P<device>\S+): Failed setting device state to (?P<state>\w+)\b")
_NUMBERS = re.compile(r"(stopcopy|precopy initial|precopy dirty) size (\d+)")
_PRECOPY = ("PRE_COPY", "PRE_COPY_P2P")
# QEMU's name for "reset it" in the place of a state to fall back to.
_RESETS = "ERROR"


class Line(NamedTuple):
    """One event that QEMU traced, or one line of its errors (``event`` is empty)."""

    realtime_ns: int
    event: str
    text: str


class Asked(NamedTuple):
    """One SET_STATE: the state that was asked for, and whether the driver refused."""

    state: str
    refused: bool


@dataclass(slots=True)
class Told:
    """What a QEMU says of its VF.

    Attributes:
        states: each state that it asked the driver for.
        resets: how often it reset the VF because the driver refused a state.
        answers: initial and dirty bytes of each precopy ioctl, 0 and 0 when it failed.
        blocks: sizes of the blocks that it read and sent.
        empty: how often a read found nothing more for now, counted once until there is data again.
        loaded: sizes of the blocks that it received and wrote.
        failed_blocks: sizes of those whose writing failed.
        buffers: blocks that came through multifd channels and were written.
        migration: the states of the migration itself.
        acknowledged: whether the switchover was acknowledged.
    """

    states: list[Asked] = field(default_factory=list)
    resets: int = 0
    answers: list[tuple[int, int]] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    empty: int = 0
    loaded: list[int] = field(default_factory=list)
    failed_blocks: list[int] = field(default_factory=list)
    buffers: int = 0
    migration: list[str] = field(default_factory=list)
    acknowledged: bool = False


def parse(text: str) -> Iterator[Line]:
    """Yield the events in a trace (``-D``), in its order; what is no event is passed over."""
    for raw in text.splitlines():
        if match := _LINE.match(raw):
            seconds, micros, event, rest = match.groups()
            yield Line(int(seconds) * 10**9 + int(micros) * 1000, event, rest.strip())


def parse_errors(text: str) -> Iterator[Line]:
    """Yield QEMU's errors and warnings with their times (``-msg timestamp=on``)."""
    for raw in text.splitlines():
        if match := _ERROR.match(raw):
            when = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
            whole = int(when.replace(microsecond=0).timestamp())
            yield Line(whole * 10**9 + when.microsecond * 1000, "", match[2])


def told(trace: str, errors: str, begin_ns: int, end_ns: int) -> Told:
    """Return what QEMU said between two times of CLOCK_REALTIME.

    ``trace`` and ``errors`` are the whole logs, since the first state may be from before.
    """
    refusals = [
        (line.realtime_ns, match["device"], match["state"])
        for line in parse_errors(errors)
        if (match := _REFUSED.search(line.text))
    ]
    reader = _Reader(refusals, begin_ns, end_ns)
    for line in parse(trace):
        reader.take(line)
    reader.settle(None)
    return reader.told


class _Reader:
    """Follows the device's state through a trace.

    QEMU traces what it asks for, and then the state that the device is in. When a state was
    refused, that is the one it fell back to: it may be the same, RUNNING, after a reset, and only
    the error message tells.
    """

    def __init__(self, refusals: list[tuple[int, str, str]], begin_ns: int, end_ns: int) -> None:
        self.told = Told()
        self._refusals = refusals
        self._begin = begin_ns
        self._end = end_ns
        self._state = "RUNNING"
        self._asked: tuple[Line, str, str, str] | None = None  # line, device, state, fallback
        self._became: str | None = None
        self._setup = False

    def take(self, line: Line) -> None:
        """Take one event, in the trace's order."""
        if line.event == "vfio_migration_set_state":
            self._ask(line)
        elif line.event == "vfio_migration_set_device_state":
            self._became = line.text.rpartition(" ")[2]
        elif self._begin <= line.realtime_ns <= self._end:
            self._inside(line)

    def settle(self, until_ns: int | None) -> None:
        """The SET_STATE before ``until_ns`` is over: it is known how it ended."""
        if self._asked is None:
            return
        line, device, state, fallback = self._asked
        self._asked = None
        if self._became is None:
            # It was there already: nothing was asked of the driver.
            return
        refused = self._became != state or any(
            line.realtime_ns <= when and (until_ns is None or when < until_ns)
            for when, who, which in self._refusals
            if who == device and which == state
        )
        inside = self._begin <= line.realtime_ns <= self._end
        self._state = self._became
        if not inside:
            return
        self.told.states.append(Asked(state, refused))
        if not refused:
            return
        if fallback == _RESETS:
            self.told.resets += 1
        elif self._became == fallback:
            self.told.states.append(Asked(fallback, False))
        else:
            self.told.states.append(Asked(fallback, True))
            self.told.resets += 1

    def _ask(self, line: Line) -> None:
        self.settle(line.realtime_ns)
        device, rest = _device(line.text)
        if match := _SET.match(rest):
            self._asked = (line, device, match[1], match[2])
            self._became = None

    @property
    def _now(self) -> str:
        return self._became or self._state

    def _inside(self, line: Line) -> None:
        told = self.told
        _, rest = _device(line.text)
        match line.event:
            case "vfio_save_setup":
                self._setup = self._now == "PRE_COPY"
            case "vfio_state_pending_estimate":
                # The ioctl of the setup has no event of its own; its answer is the first estimate.
                if self._setup:
                    told.answers.append(_sizes(rest))
                self._setup = False
            case "vfio_state_pending_exact":
                if self._now in _PRECOPY:
                    told.answers.append(_sizes(rest))
            case "vfio_save_block":
                told.blocks.append(int(rest.split()[-1]))
            case "vfio_save_block_precopy_empty_hit":
                told.empty += 1
            case "vfio_load_state_device_data":
                size, result = int(rest.split()[1]), int(rest.split()[3])
                (told.failed_blocks if result < 0 else told.loaded).append(size)
            case "vfio_load_state_device_buffer_load_end":
                told.buffers += 1
            case "migrate_set_state":
                told.migration.append(line.text.rpartition(" ")[2])
            case "source_return_path_thread_switchover_acked":
                told.acknowledged = True


def _device(text: str) -> tuple[str, str]:
    match = _DEVICE.match(text)
    return (match["device"], match["rest"]) if match else ("", text)


def _sizes(text: str) -> tuple[int, int]:
    found = {name: int(size) for name, size in _NUMBERS.findall(text)}
    return found["precopy initial"], found["precopy dirty"]
