# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tracer says of one scenario: a part of its recording, between two times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxlab.vmm.qemulog import Asked
from mlxtrace.counters import Counters
from mlxtrace.decoder import Decoder
from mlxtrace.events import Command, End, Event, Ioctl, Load, Lost, Read, Save, State, Summary
from mlxtrace.recording import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_FAMILIES = ("QUERY", "SUSPEND", "RESUME")


@dataclass(frozen=True)
class Recording:
    """A whole recording.

    Attributes:
        events: its events, in its order.
        lost: the closing line.
        offset_ns: CLOCK_REALTIME less CLOCK_BOOTTIME when it began.
    """

    events: tuple[Event, ...]
    lost: Lost
    offset_ns: int


@dataclass(slots=True)
class Seen:
    """What the kernel was seen to do with one VF.

    Attributes:
        states: each SET_STATE, with whether it was refused.
        answers: initial and dirty bytes of each precopy ioctl; None where it failed.
        reads, read_bytes: reads that gave data, and the data.
        final_reads, final_read_bytes: those of them in STOP_COPY.
        empty: how often a read found nothing more for now, counted once until there is data again.
        written_bytes: bytes that were written.
        kinds: SAVEs by kind; ``failed`` are those that did.
        save_bytes: sizes of the images saved.
        loads, failed_loads: LOADs in all, and those that failed.
        load_bytes: bytes of the images loaded.
        commands: other commands by QUERY, SUSPEND, RESUME.
        unseen: SAVEs whose completion was not seen.
    """

    states: list[Asked] = field(default_factory=list)
    answers: list[tuple[int, int] | None] = field(default_factory=list)
    reads: int = 0
    read_bytes: int = 0
    final_reads: int = 0
    final_read_bytes: int = 0
    empty: int = 0
    written_bytes: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    save_bytes: list[int] = field(default_factory=list)
    loads: int = 0
    failed_loads: int = 0
    load_bytes: int = 0
    commands: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_FAMILIES, 0))
    unseen: int = 0


def read(path: Path) -> Recording:
    """Return the recording at ``path``.

    Raises:
        Error: it is not one, or it was cut.
    """
    warnings: list[str] = []
    reader = Reader(path, warnings.append)
    decoder = Decoder()
    events = [event for chunk in reader.chunks() for event in decoder.feed(chunk)]
    if reader.closing is None:
        raise Error(warnings[0] if warnings else f"{path} has no end")
    clock = reader.header["clock"]
    closing = list(
        decoder.finish(
            Counters.from_json(reader.closing["counters"]), reader.closing["clock"]["boot_ns"]
        )
    )
    lost = closing[-1]
    assert isinstance(lost, Lost)
    events += [event for event in closing if not isinstance(event, Lost | Summary)]
    return Recording(tuple(events), lost, clock["realtime_ns"] - clock["boot_ns"])


def seen(
    events: Iterable[Event], bdf: str, begin_ns: int, end_ns: int, flushed_ns: int | None = None
) -> Seen:
    """Return what was seen of the VF ``bdf`` between two times of CLOCK_BOOTTIME.

    What flowed is told when something else happens: that may be up to ``flushed_ns``.
    """
    flows_until = end_ns if flushed_ns is None else flushed_ns
    reader = _Reader()
    for event in events:
        flow = isinstance(event, Read | End)
        until = flows_until if flow else end_ns
        if event.bdf == bdf and begin_ns <= event.boot_ns <= until:
            reader.take(event)
    return reader.seen


class _Reader:
    def __init__(self) -> None:
        self.seen = Seen()
        self._stopped = False
        # A stream begins with data, so a first empty read counts.
        self._data = True

    def take(self, event: Event) -> None:
        seen = self.seen
        match event:
            case State():
                self._state(event)
            case Ioctl():
                seen.answers.append(_answer(event))
            case Read() if event.direction == "read":
                self._data = True
                seen.reads += event.calls
                seen.read_bytes += event.bytes
                if self._stopped:
                    seen.final_reads += event.calls
                    seen.final_read_bytes += event.bytes
            case Read():
                seen.written_bytes += event.bytes
            case End() if event.kind == "temporary" and self._data:
                self._data = False
                seen.empty += 1
            case Save():
                self._save(event)
            case Load():
                seen.loads += 1
                if event.status or event.errno:
                    seen.failed_loads += 1
                else:
                    seen.load_bytes += event.image_bytes
            case Command():
                for family in _FAMILIES:
                    seen.commands[family] += event.name.startswith(family)

    def _state(self, event: State) -> None:
        if event.new_state == event.asked_state or not event.is_walked:
            self.seen.states.append(Asked(event.asked_state, not event.is_walked))
        self._stopped = event.new_state == "STOP_COPY" and event.is_walked

    def _save(self, event: Save) -> None:
        seen = self.seen
        failed = bool(event.status or event.errno)
        kind = "failed" if failed else event.kind
        seen.kinds[kind] = seen.kinds.get(kind, 0) + 1
        seen.unseen += not event.callback_seen
        if not failed and event.kind != "cleanup" and event.image_bytes is not None:
            seen.save_bytes.append(event.image_bytes)


def _answer(event: Ioctl) -> tuple[int, int] | None:
    initial, dirty = event.precopy_init_size_bytes, event.precopy_dirty_size_bytes
    return None if initial is None or dirty is None else (initial, dirty)


def loss(lost: Lost) -> dict[str, int]:
    """Return what the tracer missed, by name; all zeros means that its figures are complete.

    A SAVE whose completion was not seen is none of these: it is told all the same, from the
    stream.
    """
    return {
        "records lost": lost.lost_records or 0,
        "returns missed": lost.missed_returns or 0,
        "devices or SAVEs not followed": lost.untracked or 0,
    }
