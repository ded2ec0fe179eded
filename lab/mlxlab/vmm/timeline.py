# SPDX-License-Identifier: GPL-2.0-or-later
"""The three witnesses' words of one scenario in one file, in the order of time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlxlab.vmm import qemulog
from mlxtrace.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlxlab.vmm.traced import Recording

_COLUMNS = "{:>9.6f} {:<12} {}"
# Said in every round, and nothing but a guess between two answers of the driver.
_LEFT_OUT = ("vfio_state_pending_estimate", "vfio_save_iterate")


def timeline(
    result: Mapping[str, Any], logs: Mapping[str, tuple[str, str]], recording: Recording
) -> str:
    """Return the lines of one scenario, each with its time in seconds and who says it.

    ``logs`` has each side's trace and errors. QEMU's clock is CLOCK_REALTIME, the tracer's
    CLOCK_BOOTTIME; both were read when the scenario began.
    """
    lines = sorted(
        [*_of_qemus(result, logs), *_of_tracer(result, recording)], key=lambda line: line[0]
    )
    counters = [
        f"firmware  {result[side]['vf']}: "
        + ", ".join(f"{name} {count}" for name, count in result[side]["counters"].items() if count)
        for side in ("source", "target")
    ]
    return "\n".join([text for _, text in lines] + counters) + "\n"


def _of_qemus(
    result: Mapping[str, Any], logs: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[int, str]]:
    begin, end = result["begin"]["realtime_ns"], result["end"]["realtime_ns"]
    for side, (trace, errors) in logs.items():
        for line in (*qemulog.parse(trace), *qemulog.parse_errors(errors)):
            at = line.realtime_ns - begin
            if 0 <= at <= end - begin and line.event not in _LEFT_OUT:
                said = f"{line.event or 'error:'} {line.text}"
                yield at, _COLUMNS.format(at / 1e9, f"{side} QEMU", said)


def _of_tracer(result: Mapping[str, Any], recording: Recording) -> Iterator[tuple[int, str]]:
    begin, end = result["begin"]["boot_ns"], result["end"]["boot_ns"]
    text = Text(begin, verbose=True)
    for event in recording.events:
        if begin <= event.boot_ns <= end:
            for line in text.lines(event):
                yield event.boot_ns - begin, line
