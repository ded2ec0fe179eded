# SPDX-License-Identifier: GPL-2.0-or-later
"""Which figures of a summary nobody knows, since the probes that they rest on are absent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlxtrace import probetable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from mlxtrace.events import Summary

_WITHOUT: dict[str, tuple[str, ...]] = {
    "next-state": ("sessions", "gap_bytes"),
    "precopy-ioctl": (
        "ioctls",
        "failed_ioctls",
        # Whether somebody asked is what tells them apart.
        "temporary_ends_idle",
        "temporary_ends_unasked",
    ),
    "data-size": ("estimates", "failed_estimates"),
    "get-state": ("get_states",),
    "save-read": (
        "read_calls",
        "read_bytes",
        "temporary_ends",
        "temporary_ends_idle",
        "temporary_ends_in_flight",
        "temporary_ends_fallback",
        "temporary_ends_unasked",
        "final_ends",
        "again_ends",
        "stream_errors",
        "drained_images",
        "queued_ns",
        "drain_ns",
        "queued_bytes_max",
        "gap_bytes",
        "stopped_ns",
        # What is left to read is what was not read since the last ioctl.
        "stopped_now_bytes",
        "stopped_now_save_ns",
        "stopped_now_read_ns",
    ),
    "resume-write": (
        "write_calls",
        "written_bytes",
        "stream_errors",
        "stream_format",
        "gap_bytes",
    ),
    "save-entry": ("wait_ns", "buffers_reused"),
    "save-callback": ("failed_saves", "temporary_ends_fallback", "queued_bytes_max"),
    "buffer-alloc": ("buffers_allocated", "buffers_reused", "buffer_ns", "held_bytes_max"),
    "buffer-free": ("buffers_freed", "held_bytes_max"),
    "mkey": ("mkeys", "mkey_ns"),
    "session-end": ("aborts",),
    "reset": ("resets",),
}
"""Keys of a summary that are null without a probe. What has no value without it anyway is left out;
and of what several probes count, the part of the others would be taken for all of it."""
_ADDED = ("get-state",)
"""Probes that a recording may be older than, and that there are not for any driver."""
_STREAMS = ("precopy-ioctl", "save-read", "resume-write")


def keys(probes: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Return the keys of a summary that are not known with such probes, those of ``meta``."""
    absent = {
        str(probe.get("name"))
        for probe in probes
        if probe.get("state") == probetable.ABSENT and not probetable.is_none_to_see(probe)
    }
    absent.update(set(_ADDED) - {str(probe.get("name")) for probe in probes})
    if "data-file" in absent:
        absent.update(_STREAMS)
    return frozenset(key for name in absent for key in _WITHOUT.get(name, ()))


def blanked(summary: Summary, unknown: Collection[str]) -> Summary:
    """Return ``summary`` with None for the keys in ``unknown``."""
    blank: dict[str, Any] = dict.fromkeys(unknown)
    return replace(summary, **blank) if blank else summary
