# SPDX-License-Identifier: GPL-2.0-or-later
"""C44, C45: the log of the memory that the device has written to (DMA_LOGGING)."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

from mlxtrace.checks import fsm, raw
from mlxtrace.checks.core import Level, NotOfferedError, check
from mlxuapi import vfio as uapi

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlxtrace.checks.context import Context
    from mlxtrace.checks.subject import Subject

PAGE = 4096
RANGE = (0, 1 << 30)
"""First address and bytes: large enough for the smallest log that hardware takes."""
MOST_RANGES = 256
"""A page full of them: VFIO takes no more."""
PATTERN = 0xA5
GUARD_BYTES = 64

_START = uapi.VFIO_DEVICE_FEATURE_SET | uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_START
_STOP = uapi.VFIO_DEVICE_FEATURE_SET | uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP
_REPORT = uapi.VFIO_DEVICE_FEATURE_GET | uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT
_HEAD = ctypes.sizeof(uapi.vfio_device_feature)


def _logger(context: Context) -> Subject:
    """Return the source, if its driver has a log."""
    subject = context.source
    feature = uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_START
    if not subject.device.offers(feature, uapi.VFIO_DEVICE_FEATURE_SET):
        raise NotOfferedError("the driver does not log what the device writes to")
    return subject


def start(fd: int, ranges: Sequence[tuple[int, int]], page_size: int = PAGE) -> int:
    """Begin a log of ``ranges`` (first address, bytes); return the errno, 0 if it worked."""
    table = (uapi.vfio_device_feature_dma_logging_range * max(1, len(ranges)))()
    for entry, (iova, length) in zip(table, ranges, strict=False):
        entry.iova, entry.length = iova, length
    control = uapi.vfio_device_feature_dma_logging_control()
    control.page_size, control.num_ranges = page_size, len(ranges)
    control.ranges = ctypes.addressof(table)
    return _call(fd, _START, bytes(control))


def stop(fd: int) -> int:
    """End the log; return the errno."""
    return _call(fd, _STOP, b"")


def report(fd: int, iova: int, length: int, bitmap: bytearray, page_size: int = PAGE) -> int:
    """Have the bits of pages set in ``bitmap`` that were written to; return the errno."""
    buffer = (ctypes.c_char * len(bitmap)).from_buffer(bitmap)
    question = uapi.vfio_device_feature_dma_logging_report()
    question.iova, question.length, question.page_size = iova, length, page_size
    question.bitmap = ctypes.addressof(buffer)
    return _call(fd, _REPORT, bytes(question))


def _call(fd: int, flags: int, data: bytes) -> int:
    return raw.feature(fd, flags, _HEAD + len(data), data).errno


def _bitmap(length: int, filling: int = 0) -> bytearray:
    """Return a bitmap for ``length`` bytes of memory, with a guard after it."""
    pages = -(-length // PAGE)
    return bytearray([filling]) * (-(-pages // 64) * 8) + bytearray([PATTERN]) * GUARD_BYTES


@check(
    "C44",
    Level.MUST,
    "A log can be started once (EINVAL the second time), stopped, and started again, in every "
    "state; without one there is nothing to report (an error).",
)
def log_once(context: Context) -> None:
    subject = _logger(context)
    fd = subject.fileno()
    for state in fsm.states(subject.flags):
        subject.enter(state)
        for _ in range(2):
            number = report(fd, *RANGE, _bitmap(RANGE[1]))
            context.expect(number != 0, f"{state.name}: REPORT", raw.answer(number), "an error")
            context.expect_errno(start(fd, [RANGE]), (0,), f"{state.name}: START")
            context.expect_errno(start(fd, [RANGE]), (errno.EINVAL,), f"{state.name}: START again")
            number = report(fd, *RANGE, _bitmap(RANGE[1]))
            context.expect_errno(number, (0,), f"{state.name}: REPORT of a log")
            context.expect_errno(stop(fd), (0,), f"{state.name}: STOP")
        subject.back()


@check("C44.stop", Level.DRIVER, "Stopping a log that was not started does nothing.")
def stop_nothing(context: Context) -> None:
    subject = _logger(context)
    for did in ("STOP without START", "STOP again"):
        context.expect_errno(stop(subject.fileno()), (0,), did)


@check(
    "C44.ranges",
    Level.MUST,
    "A log is refused whose ranges are none, overlap, are not whole pages (EINVAL), are too many "
    "(E2BIG) or go beyond the last address (EOVERFLOW); a log can be started after that.",
)
def wrong_ranges(context: Context) -> None:
    fd = _logger(context).fileno()
    top = 1 << 64
    for what, ranges, wanted in (
        ("no range", [], errno.EINVAL),
        ("half a page", [(0, PAGE // 2)], errno.EINVAL),
        ("a range in the middle of a page", [(PAGE // 2, PAGE)], errno.EINVAL),
        ("a range twice", [RANGE, RANGE], errno.EINVAL),
        ("ranges that overlap", [RANGE, (RANGE[1] - PAGE, RANGE[1])], errno.EINVAL),
        (
            "more ranges than go into a page",
            [(number * 2 * PAGE, PAGE) for number in range(MOST_RANGES + 1)],
            errno.E2BIG,
        ),
        ("a range beyond the last address", [(top - PAGE, 2 * PAGE)], errno.EOVERFLOW),
    ):
        context.expect_errno(start(fd, ranges), (wanted,), f"START with {what}")
    number = raw.feature(fd, _START, _HEAD + 8, bytes(8)).errno
    context.expect_errno(number, (errno.EINVAL,), "START with an argsz that is too small")
    context.expect_errno(start(fd, [RANGE]), (0,), "START with one range")
    context.expect_errno(stop(fd), (0,), "STOP")


@check(
    "C44.report",
    Level.MUST,
    "A report sets bits and clears none, and writes nothing beyond its bitmap. One of pages that "
    "are too small or no power of two is refused (EINVAL), and one that goes beyond the last "
    "address (EOVERFLOW).",
)
def report_sets_bits(context: Context) -> None:
    fd = _logger(context).fileno()
    context.expect_errno(start(fd, [RANGE]), (0,), "START")
    for page_size in (0, 1, 2048, 3 * PAGE):
        number = report(fd, *RANGE, _bitmap(RANGE[1]), page_size)
        context.expect_errno(number, (errno.EINVAL,), f"REPORT of pages of {page_size} bytes")
    number = report(fd, (1 << 64) - PAGE, 2 * PAGE, _bitmap(PAGE))
    context.expect_errno(number, (errno.EOVERFLOW,), "REPORT beyond the last address")
    for length in (RANGE[1], 65 * PAGE, PAGE):
        bitmap = _bitmap(length, PATTERN)
        context.expect_errno(report(fd, 0, length, bitmap), (0,), f"REPORT of {length} bytes")
        cleared = sum(PATTERN & ~byte != 0 for byte in bitmap[:-GUARD_BYTES])
        context.expect(not cleared, "bytes of it with a bit cleared", str(cleared), "none")
        intact = bitmap.endswith(bytes([PATTERN]) * GUARD_BYTES)
        context.expect(intact, "what follows it", str(intact), "unchanged")
    context.expect_errno(stop(fd), (0,), "STOP")


@check(
    "C45",
    Level.MUST,
    "A report has the first and the last page of a range, when the device wrote to them, and no "
    "page twice.",
)
def last_page(context: Context) -> None:
    subject = _logger(context)
    if context.dma is None:
        raise NotOfferedError("nothing here makes the device write to memory")
    fd = subject.fileno()
    first, length = RANGE
    context.expect_errno(start(fd, [RANGE]), (0,), "START")
    for page in (0, length // PAGE - 1):
        # The last byte of a page is the one that a range's end might leave out.
        context.dma(subject.name, first + (page + 1) * PAGE - 1)
        context.note(f"had the device write to page {page}")
        for wanted in ({page}, set()):
            bitmap = _bitmap(length)
            context.expect_errno(report(fd, first, length, bitmap), (0,), "REPORT")
            bits = int.from_bytes(bitmap[:-GUARD_BYTES], "little")
            pages = {bit for bit in (0, length // PAGE - 1) if bits >> bit & 1}
            holds = pages == wanted and bits.bit_count() == len(wanted)
            saw = f"{bits.bit_count()} pages, {sorted(pages)} of the two at its ends"
            context.expect(holds, "pages in it", saw, str(sorted(wanted)))
    context.expect_errno(stop(fd), (0,), "STOP")
