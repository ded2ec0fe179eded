# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxtrace report SRC DST``: the downtime of each migration between two hosts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TextIO

from mlxtrace import join, output
from mlxtrace.content import STEP_BYTES
from mlxtrace.recording import UnreadableError
from mlxtrace.replay import Replay
from mlxtrace.units import fold, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlxtrace.join import Downtime


def report(
    source: Path,
    target: Path,
    stream: TextIO,
    *,
    as_json: bool = False,
    warn: Callable[[str], None] = output.warn,
) -> bool:
    """Print the downtimes; return whether nothing is lost, and clocks and contents agree.

    Raises:
        Error: a recording cannot be read, or they have no migration in common.
    """
    sides = [join.read_side(_open(source, warn))]
    sides.append(sides[0] if _is_same(source, target) else join.read_side(_open(target, warn)))
    found = join.join(*sides)
    for number, downtime in enumerate(found):
        if as_json:
            lines = iter([json.dumps(downtime.to_json(), separators=(",", ":"))])
        else:
            lines = text(downtime)
            if number:
                print(file=stream)
        for line in lines:
            print(line, file=stream)
    for side in sides:
        if not side.complete:
            warn(f"something of {side.path} is lost: mlxtrace report {side.path.name} tells what")
    good = not any(d.contradiction_ns or d.content == join.DIFFERS for d in found)
    return good and all(side.complete for side in sides)


def text(downtime: Downtime) -> Iterator[str]:
    """Yield the lines for people, under 100 columns."""
    for line in _lines(downtime):
        yield from fold(line, 16)


def _lines(downtime: Downtime) -> Iterator[str]:
    images = f"{downtime.images} image{'' if downtime.images == 1 else 's'}"
    source = f"{downtime.bdf} on {downtime.host[:24]}"
    yield f"{source} -> {downtime.target_bdf} on {downtime.target_host[:24]}"
    yield f"  stream        {downtime.stream_bytes} bytes, {images}"
    if downtime.content == join.SAME:
        yield f"  content       the same, as far as was looked at: one byte of {STEP_BYTES}"
    elif downtime.content:
        yield "  content       DIFFERS: what was written is not what was read"
    yield f"  downtime  {_ms(downtime.downtime_ns)}   {_range(downtime)}"
    held = (
        ""
        if downtime.source_held_ns is None
        else f"; STOP_COPY left after {_short(downtime.source_held_ns)}"
    )
    crossing = "" if downtime.clock == join.SAME_BOOT else " (joins the clocks)"
    for name, spent, what in (
        ("quiesce", downtime.downtime_quiesce_ns, "source: until it is told to stop"),
        ("stop", downtime.downtime_stop_ns, "source: to STOP_COPY"),
        (
            "final",
            downtime.downtime_final_ns,
            f"source: rest of the stream, {size(downtime.final_bytes)} bytes",
        ),
        (
            "transfer",
            downtime.downtime_transfer_ns,
            f"from its end to the end of RESUMING{crossing}",
        ),
        ("load end", downtime.downtime_load_ns, "target: RESUMING to STOP"),
        ("start", downtime.downtime_start_ns, "target: to RUNNING"),
    ):
        yield f"    {name:<8}{_ms(spent)}   {what}"
    yield (
        f"  firmware      SAVE {_short(downtime.save_fw_ns)}, LOAD {_short(downtime.load_fw_ns)} "
        f"of it{held}"
    )
    yield from _clocks(downtime)


def _range(downtime: Downtime) -> str:
    if downtime.clock == join.SAME_BOOT:
        return "one clock: exact"
    least = f"at least {_short(downtime.at_least_ns)}"
    if downtime.at_most_ns is None:
        return f"{least}, at most unknown"
    return f"{least}, at most {_short(downtime.at_most_ns)}"


def _clocks(downtime: Downtime) -> Iterator[str]:
    if downtime.clock == join.SAME_BOOT:
        return
    assert downtime.realtime_offset_ns is not None
    error = downtime.realtime_error_ns
    exact = "not known to be synchronised" if error is None else f"\u00b1{_short(error)} by NTP"
    yield "  clocks        how far the target's boot clock is ahead of the source's:"
    yield f"    realtime{_ms(downtime.realtime_offset_ns)}   {exact}"
    yield f"    stream  {_ms(downtime.stream_offset_ns)}   at most: {downtime.stream_proof}"
    if downtime.contradiction_ns:
        yield (
            f"    They contradict each other by {_short(downtime.contradiction_ns)}: "
            "the time of day (NTP) of a host is off."
        )
        yield "    Used: the stream, so the downtime is the least that it can have been."
    elif downtime.clock == join.REALTIME:
        yield "    They agree. Used: realtime."
    else:
        yield "    They agree within NTP's error. Used: the stream, which is closer."


def _is_same(one: Path, other: Path) -> bool:
    return one == other or (one.is_file() and other.is_file() and one.samefile(other))


def _open(path: Path, warn: Callable[[str], None]) -> Replay:
    try:
        return Replay(path, warn)
    except UnreadableError as error:
        raise type(error)(f"{error}: nothing to join") from None


def _ms(duration_ns: int) -> str:
    return f"{duration_ns / 1e6:>14.3f} ms"


def _short(duration_ns: int) -> str:
    return f"{duration_ns / 1e6:.3f} ms"
