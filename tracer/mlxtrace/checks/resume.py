# SPDX-License-Identifier: GPL-2.0-or-later
"""C30 to C33: loading a stream, whole and in pieces, and refusing what is not one."""

from __future__ import annotations

import errno
from itertools import pairwise
from typing import TYPE_CHECKING

from mlxtrace.checks import fsm, raw
from mlxtrace.checks.core import Level, NotOfferedError, check
from mlxtrace.checks.states import expect_on_the_way
from mlxtrace.checks.transfer import READ_BYTES, expect_loads, whole_stream, write_whole
from mlxtrace.stream import FLAG_OPTIONAL, HEADER, Framing, StreamParser, Tag
from mlxtrace.vfio import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlxtrace.checks.context import Context
    from mlxtrace.checks.subject import Subject

UNKNOWN_TAG = 0x5A
ODD_BYTES = 65521
"""A prime: pieces of it end at no place that has a meaning."""
REFUSED = tuple(
    getattr(errno, name) for name in ("EINVAL", "EIO", "ENODEV", "EOPNOTSUPP", "EREMOTEIO")
)
"""What RESUMING to STOP may say of a stream that is none. The uAPI names no errno."""


@check(
    "C30",
    Level.MUST,
    "A stream may be written in pieces of any size: the state that is loaded is the same.",
)
def any_segmentation(context: Context) -> None:
    data = whole_stream(context)
    heads = heads_of(context, data)
    expect_loads(context, [data], "the stream in one piece")
    expect_loads(context, cut(data, range(READ_BYTES, len(data), READ_BYTES)), "pieces of 1 MiB")
    expect_loads(context, cut(data, range(ODD_BYTES, len(data), ODD_BYTES)), "odd pieces")
    single = [head + step for head in heads for step in range(HEADER.size + 1)]
    expect_loads(context, cut(data, single), "single bytes at the beginning of each record")
    for split in range(1, HEADER.size + 1):
        expect_loads(
            context, cut(data, [head + split for head in heads]), f"records cut after {split}"
        )


@check(
    "C30.optional",
    Level.DRIVER,
    "mlx5-vfio-pci skips a record that it does not know, if that is marked optional.",
)
def optional_records_skipped(context: Context) -> None:
    require_records(context)
    data = whole_stream(context)
    record = HEADER.pack(ODD_BYTES, FLAG_OPTIONAL, UNKNOWN_TAG) + bytes(ODD_BYTES)
    empty = HEADER.pack(0, FLAG_OPTIONAL, UNKNOWN_TAG)
    cuts = cut(data, [head for head in heads_of(context, data) if head])
    pieces = [piece for part in cuts for piece in (record, empty, part)]
    expect_loads(context, [*pieces, record], "the stream with optional records between its own")


@check(
    "C30.ahead",
    Level.DRIVER,
    "How large an image may be is announced as advice: mlx5-vfio-pci loads one that is larger.",
)
def larger_than_announced(context: Context) -> None:
    require_records(context)
    parser = StreamParser(context.source.framing)
    data = whole_stream(context)
    for _ in parser.feed(data):
        pass
    pieces = zip(parser.records, cut(data, [each.offset for each in parser.records]), strict=True)
    rest = [piece for record, piece in pieces if record.tag != Tag.STOP_COPY_SIZE]
    largest = max(record.size_bytes for record in parser.images)
    for size in (1, largest // 2, largest - 1):
        head = HEADER.pack(8, FLAG_OPTIONAL, Tag.STOP_COPY_SIZE) + size.to_bytes(8, "little")
        expect_loads(
            context, [head, *rest], f"an image of {largest} bytes after {size} were announced,"
        )


@check(
    "C31.absent",
    Level.MUST,
    "RESUMING cannot be left for another state, other than by a reset, before a state was loaded.",
)
def nothing_loaded(context: Context) -> None:
    subject = context.target
    for aim in fsm.states(context.flags):
        if aim is not State.RESUMING:
            subject.go(State.RESUMING)
            expect_not_accepted(context, subject, aim)


@check(
    "C31.truncated",
    Level.MUST,
    "RESUMING to STOP fails when the stream ended too early.",
)
def truncated_stream(context: Context) -> None:
    data = whole_stream(context)
    heads = heads_of(context, data)
    last = heads[-1]
    cuts = {1, HEADER.size // 2, last + HEADER.size, (last + len(data)) // 2, len(data) - 1}
    if len(heads) > 1:
        cuts |= {last + 1, last + HEADER.size - 1}
    for size in sorted(cuts):
        _expect_cut_refused(context, data[:size], len(data))


def _expect_cut_refused(context: Context, part: bytes, whole_bytes: int) -> None:
    subject = context.target
    with subject.resume() as stream:
        stream.write_all(part)
        context.note(f"wrote the first {len(part)} of {whole_bytes} bytes")
        expect_not_accepted(context, subject, State.STOP)


@check(
    "C32",
    Level.MUST,
    "RESUMING to STOP fails after a write has failed, also if the rest is written all the same; "
    "until then, or at the latest then, what is no stream is refused.",
)
def garbage(context: Context) -> None:
    subject = context.target
    for filling in (b"\xff", b"\xa5", b"\x5a"):
        fd = subject.go(State.RESUMING)
        number = raw.write_errno(fd, filling * ODD_BYTES)
        context.note(f"wrote {ODD_BYTES} bytes of {filling.hex()}", raw.answer(number))
        if number and context.is_mlx5:
            again = raw.write_errno(fd, bytes(HEADER.size))
            context.expect_errno(again, (errno.ENODEV, number), "writing on")
        expect_not_accepted(context, subject, State.STOP)
        subject.close_files()
    data = whole_stream(context)
    fd = subject.go(State.RESUMING)
    number = _write_regardless(fd, bytes([data[0] ^ 0xFF]) + data[1:])
    context.note("wrote the whole stream with its first byte damaged", raw.answer(number))
    expect_not_accepted(context, subject, State.STOP)


def _write_regardless(fd: int, data: bytes) -> int:
    """Write ``data`` in pieces, also after one was refused; the first errno, 0 if none was."""
    size = len(data) // 4 + 1
    numbers = [write_whole(fd, data[start : start + size]) for start in range(0, len(data), size)]
    return next((number for number in numbers if number), 0)


@check(
    "C32.record",
    Level.DRIVER,
    "mlx5-vfio-pci refuses a record that it does not know (EOPNOTSUPP) and an image beyond its "
    "limit (ENOMEM), and then everything else of that stream.",
)
def bad_records(context: Context) -> None:
    require_records(context)
    subject = context.target
    for what, size, tag, wanted in (
        ("a mandatory record that is not known", HEADER.size, UNKNOWN_TAG, errno.EOPNOTSUPP),
        ("an image of 16 EiB", (1 << 64) - 1, 0, errno.ENOMEM),
        ("an image of 4 GiB", 1 << 32, 0, errno.ENOMEM),
    ):
        fd = subject.go(State.RESUMING)
        number = raw.write_errno(fd, HEADER.pack(size, 0, tag) + bytes(HEADER.size))
        context.expect_errno(number, (wanted,), f"writing {what}")
        number = raw.write_errno(fd, bytes(HEADER.size))
        context.expect_errno(number, (errno.ENODEV,), "writing on")
        expect_not_accepted(context, subject, State.STOP)
        subject.close_files()


@check(
    "C32.pointer",
    Level.MUST,
    "A write from a bad pointer is answered with EFAULT.",
)
def bad_write_pointer(context: Context) -> None:
    subject = context.target
    fd = subject.go(State.RESUMING)
    context.expect_errno(raw.write(fd, 0, 64), (errno.EFAULT,), "writing from NULL")
    subject.reset()


@check(
    "C33",
    Level.MUST,
    "After loading has failed a reset brings the device to RUNNING, and the next stream loads.",
)
def reset_after_failure(context: Context) -> None:
    data = whole_stream(context)
    subject = context.target
    for part, what in ((b"\xff" * ODD_BYTES, "garbage"), (data[: len(data) // 2], "half a stream")):
        fd = subject.go(State.RESUMING)
        context.note(f"wrote {what}", raw.answer(raw.write_errno(fd, part)))
        if what == "garbage":
            subject.ask(State.STOP)
        subject.reset()
        number = raw.write_errno(fd, b"x")
        context.expect_errno(number, (errno.ENODEV,), "writing to the old file")
        subject.close_files()
        expect_loads(context, [data], f"a stream after {what}")


def expect_not_accepted(context: Context, subject: Subject, aim: State) -> None:
    """Check that RESUMING cannot be left for ``aim`` but by a reset."""
    answer = subject.ask(aim)
    context.expect_errno(answer.errno, REFUSED, f"RESUMING to {aim.name}")
    expect_on_the_way(context, subject, State.RESUMING, aim, answer)
    subject.reset()


def require_records(context: Context) -> None:
    if context.source.framing is not Framing.RECORDS:
        raise NotOfferedError("the driver's stream has no records that are known")


def heads_of(context: Context, data: bytes) -> list[int]:
    """Return where the records of a stream begin; its own beginning if it has none."""
    parser = StreamParser(context.source.framing)
    for _ in parser.feed(data):
        pass
    return [record.offset for record in parser.records]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Return ``data`` in pieces, cut at ``places``."""
    inside = sorted(place for place in set(places) if 0 < place < len(data))
    return [data[start:end] for start, end in pairwise([0, *inside, len(data)])]
