# SPDX-License-Identifier: GPL-2.0-or-later
"""A migration's result as text for people: at most 100 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxtrace.migrate_policy import Policy
from mlxtrace.stream import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlxtrace.migrate_model import Result, Round

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def format_bytes(count: int) -> str:
    """Return ``count`` bytes as ``512 B`` or ``63.9 MiB``."""
    value = float(count)
    for unit in _UNITS[:-1]:
        # 1023.96 KiB would be printed as 1024.0 KiB.
        if value < 1023.95:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {_UNITS[-1]}"


def format_ns(duration_ns: int) -> str:
    """Return a duration as ``1.234 s``, ``56.7 ms`` or ``8.9 us``."""
    if duration_ns >= 1_000_000_000:
        return f"{duration_ns / 1e9:.3f} s"
    if duration_ns >= 1_000_000:
        return f"{duration_ns / 1e6:.1f} ms"
    return f"{duration_ns / 1e3:.1f} us"


def render(result: Result) -> Iterator[str]:
    """Yield the lines that tell what ``result`` holds, as far as the migration went."""
    verb = "FAILED" if result.error else "migrated"
    yield f"{verb}: {result.source} -> {result.target}"
    if result.rounds:
        yield ""
        yield from _rounds(result.rounds)
    yield ""
    yield from _totals(result)
    yield from _hashes(result)
    yield from _states(result)


def _rounds(rounds: list[Round]) -> Iterator[str]:
    yield "round  images     reported initial  reported dirty        read        time"
    for number, each in enumerate(rounds, 1):
        yield (
            f"{number:5}  {each.images:2} {each.kind.value:8}"
            f"{_reported(each.initial_bytes):>16}{_reported(each.dirty_bytes):>16}"
            f"{format_bytes(each.read_bytes):>12}{format_ns(each.duration_ns):>12}"
        )


def _reported(count: int | None) -> str:
    return "-" if count is None else format_bytes(count)


def _totals(result: Result) -> Iterator[str]:
    kinds = ", ".join(f"{result.count(kind)} {kind.value}" for kind in Kind)
    yield f"images    {len(result.images)}: {kinds}"
    ends = ""
    if result.rounds:
        # Not every driver says ENOMSG there, and one without PRE_COPY has none.
        temporary = f" temporary ends {result.temporary_ends}," if result.precopy else ""
        ends = f";{temporary} final ends {result.final_ends}"
    yield f"stream    {result.read_bytes} bytes read, {result.written_bytes} written{ends}"
    if result.flipped_byte_offset is not None:
        yield f"damaged   the byte at stream offset {result.flipped_byte_offset} (--flip-byte)"
    if result.precopy_ns:
        yield (
            f"pre-copy  {format_ns(result.precopy_ns)}, {result.ioctls} precopy ioctls; "
            f"ended: {result.stop_reason}"
        )
    yield from _policy(result)
    down = result.downtime
    if down.stop_ns and not result.error:
        parts = {
            "quiesce": down.quiesce_ns,
            "stop": down.stop_ns,
            "final images": down.final_ns,
            "load end": down.load_ns,
            "start": down.start_ns,
        }
        split = " + ".join(f"{name} {format_ns(spent)}" for name, spent in parts.items() if spent)
        yield f"downtime  {format_ns(down.total_ns)} = {split}"
    yield f"in all    {format_ns(result.total_ns)}"


def _policy(result: Result) -> Iterator[str]:
    """What was compared, and by which rule, where it is not the usual one."""
    options, said = result.options, result.decision
    if options is None or not result.precopy or options.policy is Policy.ESTIMATE:
        return
    rule = (
        f"{options.policy} {options.rounds}" if options.policy is Policy.ROUNDS else options.policy
    )
    line = f"policy    {rule}"
    if said.remaining_bytes is not None and said.threshold_bytes is not None:
        line += (
            f": {format_bytes(said.remaining_bytes)} to send, {format_bytes(said.threshold_bytes)} "
            f"fit in {format_ns(round(options.downtime_limit_s * 1e9))} at "
            f"{format_bytes(said.bandwidth_bytes_per_s or 0)}/s"
        )
    yield line


def _hashes(result: Result) -> Iterator[str]:
    saved, loaded = result.state_hashes
    if saved is None:
        return
    if loaded is None:
        yield f"state     hash {saved}"
    elif saved == loaded:
        yield f"state     hash {saved} on both sides: equal"
    else:
        yield f"state     hash {saved} saved, {loaded} loaded: DIFFERENT"


def _states(result: Result) -> Iterator[str]:
    if result.source_state:
        yield f"source    {result.source}: {result.source_state}"
    if result.target_state:
        yield f"target    {result.target}: {result.target_state}"
