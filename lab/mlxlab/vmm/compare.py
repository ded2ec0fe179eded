# SPDX-License-Identifier: GPL-2.0-or-later
"""Three witnesses of one scenario, figure by figure: QEMU, the tracer, the firmware.

None knows of the others. QEMU sees states and a stream of bytes; the tracer what the driver does
with both; the firmware its commands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlxlab.vmm.scenarios import COMPLETED, RUNNING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlxlab.vmm.qemulog import Asked, Told
    from mlxlab.vmm.scenarios import Scenario
    from mlxlab.vmm.traced import Seen

Figure = int | str | None
# Bytes that the driver adds to the stream (struct mlx5_vf_migration_header, and the record that
# announces the stop-copy size).
RECORD_HEADER = 16
ANNOUNCEMENT = 24
_HIT = re.compile(r"(?P<rule>.*) # seen \d+, hit (?P<hits>\d+)")


@dataclass(frozen=True)
class Row:
    """One figure, and what each witness says of it.

    Attributes:
        name: what it is, with its unit.
        qemu, tracer, firmware: the figures; None for a witness that cannot know.
        agrees: whether they fit together.
        note: why a witness is silent, or how the figures relate if they are not equal.
    """

    name: str
    qemu: Figure
    tracer: Figure
    firmware: Figure
    agrees: bool
    note: str = ""


@dataclass(frozen=True)
class Firmware:
    """What the firmware says of one VF: its counters' growth, and its faults that struck."""

    counters: Mapping[str, int]
    struck: Mapping[str, int]

    @classmethod
    def of(cls, side: Mapping[str, Any]) -> Firmware:
        """Return what the result of one side holds."""
        struck: dict[str, int] = {}
        for line in side["faults"]:
            if (match := _HIT.match(line)) and re.search(r"\b(status|errno)=", match["rule"]):
                where = match["rule"].split()[0]
                struck[where] = struck.get(where, 0) + int(match["hits"])
        return cls(side["counters"], struck)

    def count(self, name: str, *wheres: str) -> int:
        """Return a counter plus the commands that a fault refused: those it does not count."""
        return self.counters[name] + sum(self.struck.get(where, 0) for where in wheres)


@dataclass(frozen=True)
class Side:
    """All that is known of one side."""

    told: Told
    seen: Seen
    firmware: Firmware


def compare(scenario: Scenario, result: Mapping[str, Any], source: Side, target: Side) -> list[Row]:
    """Return the figures of ``scenario`` side by side; ``result`` is what the guest wrote."""
    completed = result["migration"] == COMPLETED
    # Whether the final data went through channels of its own.
    multifd = "multifd" in scenario.capabilities
    rows = [
        *_source(result, source, target, multifd=multifd, completed=completed),
        *_target(result, source, target, multifd=multifd, completed=completed),
        *_both(scenario, result),
    ]
    if completed and "switchover-ack" in scenario.capabilities:
        rows.insert(1, _acknowledged(source))
    return rows


def _acknowledged(source: Side) -> Row:
    """The target may only acknowledge what it has loaded, and the source only stop after that."""
    acknowledged = source.told.acknowledged
    return Row(
        "  switchover acknowledged", "yes" if acknowledged else "no", None, None, acknowledged
    )


def _source(
    result: Mapping[str, Any], source: Side, target: Side, *, multifd: bool, completed: bool
) -> Iterator[Row]:
    told, seen, firmware = source.told, source.seen, source.firmware
    yield _equal("source: states asked for", _words(told.states), _words(seen.states))
    yield _equal("  resets after a refusal", told.resets, None, firmware.counters["reset"])
    yield from _answers(told.answers, seen.answers)
    for name, kind, counters in (
        ("  initial SAVEs", "initial", ("save_initial",)),
        ("  middle SAVEs", "middle", ("save_middle",)),
        ("  final SAVEs", "final", ("save_final", "save_chunk")),
        ("  cleanup SAVEs", "cleanup", ("save_cleanup",)),
        ("  failed SAVEs", "failed", ("save_failed",)),
    ):
        count = sum(firmware.counters[counter] for counter in counters)
        yield _equal(name, None, seen.kinds.get(kind, 0), count)
    saved = firmware.counters["save_bytes"]
    yield _equal("  bytes in images", None, sum(seen.save_bytes), saved)
    yield _equal("  temporary ends, in runs", told.empty, seen.empty)
    yield from _reads(result, source, target, multifd=multifd, completed=completed)
    yield from _commands(seen, firmware)


def _answers(
    told: Sequence[tuple[int, int]], seen: Sequence[tuple[int, int] | None]
) -> Iterator[Row]:
    """The precopy ioctls: QEMU takes a failed one for 0 and 0."""
    theirs = [(0, 0) if answer is None else answer for answer in seen]
    yield _equal("  precopy ioctls", len(told), len(theirs))
    for index, name in enumerate(("precopy_init_size", "precopy_dirty_size")):
        ours = [answer[index] for answer in told]
        other = [answer[index] for answer in theirs]
        differ = [
            at for at, pair in enumerate(zip(ours, other, strict=False)) if pair[0] != pair[1]
        ]
        note = ""
        if differ:
            at = differ[0]
            note = f"answer {at + 1} is {ours[at]} to QEMU and {other[at]} to the tracer"
        yield Row(f"  {name}, sum", sum(ours), sum(other), None, ours == other, note)


def _reads(
    result: Mapping[str, Any], source: Side, target: Side, *, multifd: bool, completed: bool
) -> Iterator[Row]:
    told, seen, firmware = source.told, source.seen, source.firmware
    sent = sum(told.blocks)
    stream = None
    if completed:
        saved = firmware.counters["save_bytes"]
        stream = _stream(result, saved, len(seen.save_bytes), seen.read_bytes)
    if multifd:
        yield _equal("  reads before the end", len(told.blocks), _early(seen)[0])
        yield _equal("  bytes of these", sent, _early(seen)[1])
        final = target.told.buffers
        agrees = final == seen.final_reads > 0
        yield Row("  reads of the end", final, seen.final_reads, None, agrees)
        yield Row(
            "  bytes read in all",
            None,
            seen.read_bytes,
            stream,
            stream in (None, seen.read_bytes),
            "QEMU does not trace the sizes of multifd's buffers",
        )
    else:
        yield _equal("  reads", len(told.blocks), seen.reads)
        yield Row(
            "  bytes read",
            sent,
            seen.read_bytes,
            stream,
            sent == seen.read_bytes and stream in (None, sent),
            "the firmware's: its images and their headers"
            if completed
            else "the firmware cannot tell: not all that it saved was read",
        )
    transferred = result["transferred_bytes"]
    if completed and transferred is not None and not multifd:
        yield _equal("  QMP: transferred", transferred, seen.read_bytes)


def _early(seen: Seen) -> tuple[int, int]:
    return seen.reads - seen.final_reads, seen.read_bytes - seen.final_read_bytes


def _target(
    result: Mapping[str, Any], source: Side, target: Side, *, multifd: bool, completed: bool
) -> Iterator[Row]:
    told, seen, firmware = target.told, target.seen, target.firmware
    yield _equal("target: states asked for", _words(told.states), _words(seen.states))
    if result["target"]["vm"] != "ended":
        yield _equal("  resets after a refusal", told.resets, None, firmware.counters["reset"])
    yield from _written(result, source, target, multifd=multifd, completed=completed)
    yield _equal("  LOADs", None, seen.loads, firmware.count("load", "load"))
    yield _equal("  failed LOADs", None, seen.failed_loads, firmware.count("load_failed", "load"))
    yield _equal("  bytes loaded", None, seen.load_bytes, firmware.counters["load_bytes"])
    if result["target"]["vm"] != "ended":
        yield from _commands(seen, firmware)


def _written(
    result: Mapping[str, Any], source: Side, target: Side, *, multifd: bool, completed: bool
) -> Iterator[Row]:
    told, seen, firmware = target.told, target.seen, target.firmware
    wrote, failed = sum(told.loaded), sum(told.failed_blocks)
    written = seen.written_bytes
    stream = None
    if completed:
        stream = _stream(result, firmware.counters["load_bytes"], seen.loads, written)
    note = ""
    if multifd:
        note = "QEMU does not trace the sizes of multifd's buffers"
    elif failed:
        note = f"QEMU: without the block of {failed} that failed; part of it was written"
    yield Row(
        "  bytes written",
        None if multifd else wrote,
        written,
        stream,
        (written >= wrote if multifd else wrote <= written <= wrote + failed)
        and stream in (None, written),
        note,
    )
    if completed:
        sent = None if multifd else sum(source.told.blocks)
        read = source.seen.read_bytes
        agrees = written == read and sent in (None, read)
        yield Row("  bytes that were read", sent, read, None, agrees)


def _stream(result: Mapping[str, Any], image_bytes: int, images: int, seen_bytes: int) -> int:
    """Return the bytes of a whole stream with so many images.

    Upstream's driver announces the size of the final image ahead of all images, but for a session
    without pre-copy in some versions; the carried series does not.
    """
    if not result["precopy"]:
        return image_bytes
    records = image_bytes + RECORD_HEADER * images
    if seen_bytes == records:
        return records
    return records + ANNOUNCEMENT


def _commands(seen: Seen, firmware: Firmware) -> Iterator[Row]:
    for name, wheres in (
        ("QUERY", ("query",)),
        ("SUSPEND", ("suspend_initiator", "suspend_responder")),
        ("RESUME", ("resume_initiator", "resume_responder")),
    ):
        count = firmware.count(name.lower(), *wheres)
        yield _equal(f"  {name} commands", None, seen.commands[name], count)


def _both(scenario: Scenario, result: Mapping[str, Any]) -> Iterator[Row]:
    if result["migration"] == COMPLETED:
        ours = result["source"]["state_hash"]
        # A driver without PRE_COPY loads when the target starts; a reset leaves nothing to compare.
        started = scenario.end.target_vf == RUNNING
        theirs = result["target"]["state_hash_at_end" if started else "state_hash"]
        verdict = "equal" if ours == theirs else f"{ours} {theirs}"
        yield Row("both: state hashes", None, None, verdict, ours == theirs)
    left = {name: int(count) for name, count in map(str.split, result["objects"])}
    text = " ".join(f"{count} {name}" for name, count in left.items() if count) or "nothing"
    yield Row("  left in the firmware", None, None, text, not any(left.values()))


def _equal(name: str, qemu: Figure, tracer: Figure, firmware: Figure = None) -> Row:
    known = {figure for figure in (qemu, tracer, firmware) if figure is not None}
    return Row(name, qemu, tracer, firmware, len(known) == 1)


def _words(states: Sequence[Asked]) -> str:
    return " ".join(f"{asked.state}{'!' if asked.refused else ''}" for asked in states) or "none"
