# SPDX-License-Identifier: GPL-2.0-or-later
"""The closing lines: each VF's summary with its verdicts, and what the trace lost."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from mlxtrace.content import STEP_BYTES
from mlxtrace.units import COLUMNS, count, fold, milliseconds, number, rate, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlxtrace.events import Lost, Summary

_MOST_PIDS = 3


def summary(event: Summary, *, verbose: bool = False) -> Iterator[str]:
    """Yield the lines of one VF: as a source, as a target, or both.

    ``verbose``: also how long a VMM was held up by its questions.
    """
    yield ""
    for line in _roles(event, verbose=verbose):
        yield from fold(line)


def _roles(event: Summary, *, verbose: bool) -> Iterator[str]:
    as_target = bool(event.loads or event.write_calls)
    as_source = bool(event.saves or event.read_calls or not as_target)
    if as_source:
        yield from _saving(event)
    if as_target:
        yield from _resuming(event, alone=not as_source)
    if verbose:
        yield from _questions(event)


def _troubles(event: Summary) -> Iterator[str]:
    """What went wrong in either role; nothing if all is well."""
    if event.gap_bytes:
        yield f"  gaps      {event.gap_bytes} bytes of the stream went past the probe"
    if event.aborts:
        yield f"  aborted   {count(event.aborts, 'session')} that no SET_STATE ended"
    if event.failed_arcs:
        yield f"  failed    {count(event.failed_arcs, 'state change')}"
    if event.open_calls:
        yield f"  in flight {count(event.open_calls, 'call')} had not returned at the end"
    if event.unseen_arcs:
        yield f"  unseen    the end of {count(event.unseen_arcs, 'state change')}"


def _saving(event: Summary) -> Iterator[str]:
    kinds = (
        f"{event.initial_images} initial, {event.middle_images} middle, {event.final_images} final"
    )
    if event.cleanup_saves:
        kinds += f", {event.cleanup_saves} cleanup"
    in_flight = f", {event.in_flight_saves} in flight" if event.in_flight_saves else ""
    yield (
        f"{event.bdf} saved {count(event.images, 'image')} ({kinds}) "
        f"by {event.saves} SAVEs, {number(event.failed_saves)} failed{in_flight}"
    )
    yield (
        f"  stream    {number(event.read_bytes)} bytes in {number(event.read_calls)} reads, "
        f"{number(event.temporary_ends)} temporary ends, {number(event.final_ends)} final, "
        f"{number(event.stream_errors)} errors"
    )
    if event.temporary_ends:
        yield (
            f"  no data   {number(event.temporary_ends_idle)} idle, "
            f"{number(event.temporary_ends_in_flight)} SAVE in flight, "
            f"{number(event.temporary_ends_fallback)} fallback, "
            f"{number(event.temporary_ends_unasked)} nobody asked"
        )
    yield from _content(event, event.read_content_sum, event.read_content_samples)
    yield from _troubles(event)
    so_far = " so far" if event.precopy_is_open else ""
    yield (
        f"  pre-copy  {milliseconds(event.precopy_ns)} ms{so_far}, {count(event.rounds, 'round')}, "
        f"{number(event.ioctls)} ioctls, {number(event.failed_ioctls)} failed"
    )
    told = {
        "precopy_init_size": event.precopy_init_size_bytes,
        "precopy_dirty_size": event.precopy_dirty_size_bytes,
        "stopcopy_size": event.stopcopy_size_bytes,
    }
    if known := [f"{name}={size(value)}" for name, value in told.items() if value is not None]:
        yield f"  last said {' '.join(known)}"
    rates = f"  rates     read {rate(event.read_bytes_per_s)}"
    if event.rounds:
        rates += f", dirtied {rate(event.dirty_bytes_per_s)} -> {verdict(event.converging)}"
    yield rates
    if event.stopped_now_bytes is not None:
        yield (
            f"  if stopped now: {size(event.stopped_now_bytes)} to read, "
            f"SAVE ~{milliseconds(event.stopped_now_save_ns)} ms, "
            f"read-out ~{milliseconds(event.stopped_now_read_ns)} ms"
        )
    if event.buffers_allocated or event.mkeys:
        yield (
            f"  memory    {size(event.held_bytes_max)} held at most; "
            f"{number(event.buffers_allocated)} buffers allocated, "
            f"{number(event.buffers_reused)} reused, {count(event.mkeys, 'mkey')} in "
            f"{milliseconds(event.mkey_ns)} ms"
        )
    yield from _save_times(event)
    yield from _downtime(event)


def _content(event: Summary, total: int | None, samples: int | None) -> Iterator[str]:
    if total is None:
        return
    missed = ""
    if event.content_missed_samples:
        missed = f"; {event.content_missed_samples} could not be read: nothing to compare"
    yield f"  content   sum {total:013x} of {samples} bytes, one of {STEP_BYTES}{missed}"


def verdict(converging: bool | None) -> str:
    """Return the verdict on pre-copy in words."""
    if converging is None:
        return "convergence unknown (it takes a middle image)"
    return "converging" if converging else "not converging: it is dirtied faster than it is read"


def _save_times(event: Summary) -> Iterator[str]:
    for name, p50, p99, longest, rest in (
        (
            "waited",
            event.wait_p50_ns,
            event.wait_p99_ns,
            event.wait_max_ns,
            f" before it, {milliseconds(event.wait_ns)} in all",
        ),
        ("firmware", event.save_fw_p50_ns, event.save_fw_p99_ns, event.save_fw_max_ns, " a SAVE"),
        ("queued", event.queued_p50_ns, event.queued_p99_ns, event.queued_max_ns, " until read"),
    ):
        spread = "/".join(milliseconds(value) for value in (p50, p99, longest))
        yield f"  {name:<9} {spread} ms (p50/p99/max){rest}"


def _downtime(event: Summary) -> Iterator[str]:
    yield (
        f"  stopped   {milliseconds(event.stopped_ns)} ms, from quiescing to the stream's end; "
        "of it, in ms:"
    )
    parts = {
        "suspend initiator": event.suspend_initiator_ns,
        "responder": event.suspend_responder_ns,
        "QUERY": event.final_query_ns,
        "buffer": event.final_buffer_ns,
        "wait": event.final_wait_ns,
        "SAVE": event.final_save_ns,
        "read-out": event.final_read_ns,
    }
    known = [value for value in parts.values() if value is not None]
    if known and event.stopped_ns is not None:
        parts["other"] = max(0, event.stopped_ns - sum(known))
    # A name and its value stay on one line.
    told = [f"{name} {milliseconds(value)}".replace(" ", "\xa0") for name, value in parts.items()]
    indent = " " * 12
    for line in textwrap.wrap(
        ", ".join(told),
        COLUMNS,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    ):
        yield line.replace("\xa0", " ")


def _resuming(event: Summary, *, alone: bool) -> Iterator[str]:
    """As a target; ``alone``: what concerns both roles was not told of it as a source."""
    yield (
        f"{event.bdf} loaded {count(len(event.load_bytes), 'image')} "
        f"by {event.loads} LOADs, {event.failed_loads} failed"
    )
    # They are counted for both roles together.
    errors = f", {number(event.stream_errors)} errors" if alone else ""
    yield (
        f"  stream    {number(event.written_bytes)} bytes in {number(event.write_calls)} writes"
        f"{errors}"
    )
    yield from _content(event, event.written_content_sum, event.written_content_samples)
    if alone:
        yield from _troubles(event)
    yield (
        f"  LOAD      firmware {milliseconds(event.load_fw_ns)} ms in all, "
        f"the last one {milliseconds(event.final_load_ns)} ms"
    )
    yield (
        f"  resumed   {milliseconds(event.resume_ns)} ms from the last LOAD to RUNNING, "
        f"of it firmware {milliseconds(event.resume_fw_ns)} ms"
    )


def _questions(event: Summary) -> Iterator[str]:
    for name, calls, bound, *times in (
        ("INFO", event.ioctls, "", event.ioctl_p50_ns, event.ioctl_p99_ns, event.ioctl_max_ns),
        (
            "GET_STATE",
            event.get_states,
            ", p50 and p99 at most",
            event.get_state_p50_ns,
            event.get_state_p99_ns,
            event.get_state_max_ns,
        ),
    ):
        if calls != 0:
            spread = "/".join(map(milliseconds, times))
            yield f"  {name:<9} {spread} ms (p50/p99/max{bound}), {count(calls, 'call')}"


def losses(event: Lost) -> Iterator[str]:
    """Yield the loss line, zeros included, and below it what to do about each loss."""
    yield ""
    for line in _losses(event):
        yield from fold(line)


def _losses(event: Lost) -> Iterator[str]:
    if event.lost_records is None:
        yield (
            "lost, missed, skipped unknown: the recording has no end  "
            f"incomplete {event.incomplete_saves} (SAVE without callback)"
        )
        yield from _unseen(event)
        return
    skipped = "-" if event.skipped is None else event.skipped
    yield (
        f"lost {event.lost_records} (ring)  missed {event.missed_returns} (returns)  "
        f"skipped {skipped} (kernel)  "
        f"incomplete {event.incomplete_saves} (SAVE without callback)"
    )
    if event.lost_records:
        yield "  lost: the ring was too small: raise --ring-pages"
    if event.missed_returns:
        yield "  missed: too many calls at once: leave a probe with returns out by --without"
    if event.skipped:
        yield "  skipped: other BPF programs ran on that CPU: end them, or use fewer by --without"
    if event.incomplete_saves:
        yield (
            "  incomplete: their times are bounds; a module with BTF, for fentry, or fewer probes "
            "(--without)"
        )
        yield "              let the completion be seen (mlxtrace doctor says which it is here)"
    yield from _unseen(event)
    if event.untracked:
        yield f"  {event.untracked} devices or SAVEs too many for the program's tables"
    if event.unowned_calls:
        calls, pids = sum(event.unowned_calls.values()), sorted(event.unowned_calls)
        others = f" and {len(pids) - _MOST_PIDS} more" if len(pids) > _MOST_PIDS else ""
        named = ", ".join(map(str, pids[:_MOST_PIDS]))
        yield f"  unowned: {count(calls, 'call')} of PID {named}{others},"
        yield "           on data files that were open before the trace and do not say of which VF:"
        yield "           begin the trace before the migration"


def _unseen(event: Lost) -> Iterator[str]:
    if event.unseen_arcs:
        yield (
            f"  {count(event.unseen_arcs, 'state change')} (unseen) without the return of its "
            "SET_STATE: lost or missed; times are bounds"
        )
