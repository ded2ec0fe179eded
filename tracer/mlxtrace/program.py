# SPDX-License-Identifier: GPL-2.0-or-later
"""The BPF program, rendered from the catalogue, the layouts and the record."""

from __future__ import annotations

import errno
import platform
import resource
from typing import TYPE_CHECKING

from genbindings import resources
from genbindings.errors import Error
from mlxtrace import content as content_sums
from mlxtrace import counters, records
from mlxtrace.catalogue import NUMBERS, SEVENTH_ARGUMENT, Probe
from mlxtrace.mailbox import Opcode
from mlxuapi import vfio as uapi

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mlxtrace.layout import Layouts

TEMPLATE = "precopy.bpf.c.j2"

# bcc 0.26's clang and the headers of newer kernels do not agree on these two.
CFLAGS = ("-Wno-duplicate-decl-specifier", "-Wno-ignored-attributes")

# bcc optimises what clang has optimised once more, and asks for debug information that we do not
# need: a third of the time goes for it, for programs of the same size.
QUICK_CFLAGS = ("-g0", "-Xclang", "-disable-llvm-passes")

RING_PAGES = 1024
"""Pages of the ring by default: 4 MiB hold 30,000 records."""


def render(
    probes: Sequence[Probe],
    layouts: Layouts,
    *,
    by_fentry: Collection[str] = (),
    filtered: bool = False,
    content: bool = False,
    ring_pages: int = RING_PAGES,
    machine: str | None = None,
) -> str:
    """Return the C text of the program for ``probes``.

    Args:
        probes: what to make handlers for; those whose structs the driver lacks are left out.
        layouts: the offsets.
        by_fentry: names of the probes whose handlers are for fentry and fexit, not for kprobes.
        filtered: whether only devices in the map ``wanted_names`` are traced.
        content: whether the streams' bytes are looked at, see :mod:`mlxtrace.content`.
        ring_pages: size of the ring, a power of two.
        machine: architecture by ``platform.machine()``, of this host if None.

    Raises:
        Error: the architecture's calling convention is not in the catalogue.
    """
    machine = machine or platform.machine()
    if machine not in SEVENTH_ARGUMENT:
        raise Error(f"tracing on {machine} is not supported (x86_64 and aarch64 are)")
    names = {probe.name for probe in probes if not layouts.why_not(probe.name)}
    template = resources.environment().get_template(TEMPLATE)
    return template.render(
        constants=[(name, int(value)) for name, value in _constants(layouts)],
        buckets=records.BUCKETS,
        by_fentry=names & set(by_fentry),
        content=content,
        content_factor=content_sums.FACTOR,
        counter_count=counters.COUNT,
        filtered=filtered,
        generic=layouts.generic,
        has_device_file="OFF_DEVICE_OF_FILE" in layouts.offsets,
        asked_bytes=_asked_bytes(layouts),
        buffer_bytes=_buffer_bytes(layouts),
        has_buffers=layouts.has_buffers,
        name_words=records.NAME_LENGTH // 8,
        probes=names,
        ring_pages=ring_pages,
        seventh_argument=SEVENTH_ARGUMENT[machine],
        value_count=records.VALUE_COUNT,
    )


def _buffer_bytes(layouts: Layouts) -> str:
    """The C expression of how much memory ``buffer`` holds."""
    if "OFF_BUFFER_ALLOCATED" in layouts.offsets:
        return "load64(buffer + OFF_BUFFER_ALLOCATED)"
    if _in_pages(layouts):
        return f"(u64)load32(buffer + OFF_BUFFER_PAGES) * {resource.getpagesize()}"
    return "load64(buffer + OFF_BUFFER_LENGTH)"


def _asked_bytes(layouts: Layouts) -> str:
    """The C expression of how much memory is asked for by the call that allocates a buffer."""
    asked = "PT_REGS_PARM2(ctx)"
    return f"(u64)(u32){asked} * {resource.getpagesize()}" if _in_pages(layouts) else asked


def _in_pages(layouts: Layouts) -> bool:
    """Whether the driver counts a buffer in pages, as since Linux 6.16, and not in bytes."""
    offsets = layouts.offsets
    return "OFF_BUFFER_PAGES" in offsets and "OFF_BUFFER_ALLOCATED" not in offsets


def _constants(layouts: Layouts) -> list[tuple[str, int]]:
    return [
        *layouts.offsets.items(),
        *((f"KIND_{kind.name}", int(kind)) for kind in records.Kind),
        *((f"PROBE_{n.upper().replace('-', '_')}", number) for n, number in NUMBERS.items()),
        ("COUNTER_LOST", counters.LOST),
        ("COUNTER_UNTRACKED", counters.UNTRACKED),
        ("COUNTER_PROBES", counters.FIRST_PROBE),
        ("FLAG_UNREADABLE", records.FLAG_UNREADABLE),
        ("FLAG_ORDERED", records.FLAG_ORDERED),
        ("FLAG_UNREAD", records.FLAG_UNREAD),
        ("FLAG_REFUSED", records.FLAG_REFUSED),
        ("FLAG_POSITION", records.FLAG_POSITION),
        ("OPCODE_FIRST", Opcode.SUSPEND_VHCA),
        ("OPCODE_QUERY", Opcode.QUERY_VHCA_MIGRATION_STATE),
        ("OPCODE_SAVE", Opcode.SAVE_VHCA_STATE),
        ("OPCODE_LAST", Opcode.LOAD_VHCA_STATE),
        ("IOCTL_FEATURE", uapi.VFIO_DEVICE_FEATURE),
        ("IOCTL_PRECOPY_INFO", uapi.VFIO_MIG_GET_PRECOPY_INFO),
        ("FEATURE_MASK", uapi.VFIO_DEVICE_FEATURE_MASK),
        ("FEATURE_GET", uapi.VFIO_DEVICE_FEATURE_GET),
        ("FEATURE_SET", uapi.VFIO_DEVICE_FEATURE_SET),
        ("FEATURE_PROBE", uapi.VFIO_DEVICE_FEATURE_PROBE),
        ("FEATURE_STATE", uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE),
        ("FEATURE_DATA_SIZE", uapi.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE),
        ("CONTENT_STEP", content_sums.STEP_BYTES),
        ("CONTENT_MOST", content_sums.SAMPLES_A_CALL),
        ("CONTENT_SHIFT", content_sums.SHIFT),
        ("ERRNO_NOMSG", errno.ENOMSG),
        ("ERRNO_AGAIN", errno.EAGAIN),
        ("CLASS_DATA", 0),
        ("CLASS_TEMPORARY", 1),
        ("CLASS_FINAL", 2),
        ("CLASS_AGAIN", 3),
        ("CLASS_ERROR", 4),
    ]
