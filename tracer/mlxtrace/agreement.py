# SPDX-License-Identifier: GPL-2.0-or-later
"""Two witnesses of one migration, figure by figure: the client that drove it, and the tracer.

The client knows what it read and wrote; the tracer what the kernel did. Neither knows of the other.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genbindings.errors import Error
from mlxtrace.report import report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Figure = int | str | tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Row:
    """One figure and what each witness says of it.

    Attributes:
        name: what it is, with its unit.
        client: the client's figure; ``None`` when it cannot know.
        tracer: the tracer's figure; ``None`` when it cannot know.
        agrees: whether they are equal; for a figure of one witness: whether it is what a migration
            without trouble has.
    """

    name: str
    client: Figure
    tracer: Figure
    agrees: bool


def traced_events(recording: Path) -> list[dict[str, Any]]:
    """Return the events of a recording, as docs/events.md describes them.

    Raises:
        Error: it is not a recording, or nothing can be read of it.
    """
    text = io.StringIO()
    report(recording, text, as_json=True)
    return [json.loads(line) for line in text.getvalue().splitlines()]


def compare(client: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return the figures of one migration from one VF to another, side by side.

    ``client`` is the summary of ``mlxtrace migrate --json``, ``events`` what ``mlxtrace precopy``
    traced of it.

    Raises:
        Error: the trace has no summary of the source or of the target.
    """
    source = _summary(events, client["source"])
    target = _summary(events, client["target"])
    sizes = tuple(client["image_bytes"])
    rows = [
        Row(name, client[key], source[key], client[key] == source[key])
        for name, key in (
            ("images saved", "images"),
            ("  initial", "initial_images"),
            ("  middle", "middle_images"),
            ("  final", "final_images"),
            ("bytes read", "read_bytes"),
            ("precopy ioctls", "ioctls"),
            ("temporary ends (ENOMSG)", "temporary_ends"),
            ("final ends of stream", "final_ends"),
        )
    ]
    saved, loaded = tuple(source["image_bytes"]), tuple(target["load_bytes"])
    written = target["written_bytes"]
    rows += [
        Row("image sizes, bytes: saved", sizes, saved, sizes == saved),
        Row("image sizes, bytes: loaded", sizes, loaded, sizes == loaded),
        Row("bytes written", client["written_bytes"], written, client["written_bytes"] == written),
        Row(
            "images read to their end",
            client["images"],
            source["drained_images"],
            client["images"] == source["drained_images"],
        ),
        _clean("SAVEs that failed", source["failed_saves"]),
        _clean("LOADs that failed", target["failed_loads"]),
    ]
    rows.append(_clean("bytes that a file skipped", _sum("gap_bytes", [source, target])))
    rows += _losses(events)
    equal = client.get("state_hashes_equal")
    if equal is not None:
        rows.append(Row("hashes of the two states", "equal" if equal else "differ", None, equal))
    return rows


def compare_firmware(
    bdf: str, counted: Mapping[str, int], events: Sequence[Mapping[str, Any]]
) -> list[Row]:
    """Return the figures of one VF's commands: what its firmware counted, and what was traced.

    ``counted`` are the firmware's own counters of the VF, over the time of the trace; in a row
    they are in the client's place.

    Raises:
        Error: the trace has no summary of the VF.
    """
    summary = _summary(events, bdf)
    names = [e["name"] for e in events if e["type"] == "command" and e["bdf"] == bdf]
    traced = {
        "save": summary["saves"],
        "save_initial": summary["initial_images"],
        "save_middle": summary["middle_images"],
        "save_final": summary["final_images"],
        "save_cleanup": summary["cleanup_saves"],
        "save_failed": summary["failed_saves"],
        "save_bytes": sum(size or 0 for size in summary["image_bytes"]),
        "load": summary["loads"],
        "load_failed": summary["failed_loads"],
        "load_bytes": sum(summary["load_bytes"]),
        "query": names.count("QUERY"),
        "suspend": names.count("SUSPEND"),
        "resume": names.count("RESUME"),
    }
    return [
        Row(f"{bdf} {name}", counted[name], ours, counted[name] == ours)
        for name, ours in traced.items()
    ]


def compare_calls(calls: Mapping[str, int], events: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return what a client counted of its calls, and what was traced of them on all its VFs.

    ``calls`` are those of the last line of ``mlxtrace validate --json``.

    Raises:
        Error: the trace has no closing line.
    """
    summaries = [event for event in events if event["type"] == "summary"]
    rows = []
    for kind, ours in calls.items():
        traced = _sum(kind, summaries)
        rows.append(Row(kind, ours, traced, ours == traced))
    return rows + _losses(events)


def _losses(events: Sequence[Mapping[str, Any]]) -> list[Row]:
    lost = next((event for event in reversed(events) if event["type"] == "lost"), None)
    if lost is None:
        raise Error("the trace has no closing line: it was cut")
    return [
        _clean("records lost", lost["lost_records"]),
        _clean("returns missed", lost["missed_returns"]),
    ]


def _sum(key: str, summaries: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the sum over all VFs, None where a probe that it takes was absent."""
    values = [summary[key] for summary in summaries]
    return None if None in values else sum(values)


def _clean(name: str, count: int | None) -> Row:
    return Row(name, None, count, count == 0)


def _summary(events: Sequence[Mapping[str, Any]], bdf: str) -> Mapping[str, Any]:
    for event in events:
        if event["type"] == "summary" and event["bdf"] == bdf:
            return event
    raise Error(f"the trace has no summary of {bdf}: was it traced?")
