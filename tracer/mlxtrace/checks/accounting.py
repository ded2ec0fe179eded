# SPDX-License-Identifier: GPL-2.0-or-later
"""C12 to C19: what VFIO_MIG_GET_PRECOPY_INFO says, and what can be read then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxtrace.checks import raw
from mlxtrace.checks.core import Level, check
from mlxtrace.checks.session import PRE_COPY, PRE_COPY_P2P
from mlxtrace.checks.transfer import announce, read_announced, read_part
from mlxtrace.stream import HEADER
from mlxtrace.vfio import End, MigrationFlags, State

if TYPE_CHECKING:
    from mlxtrace.checks.context import Context
    from mlxtrace.vfio import SavingStream

PART = 1000
ROUNDS = 5


@check(
    "C12",
    Level.MUST,
    "The first VFIO_MIG_GET_PRECOPY_INFO of a session tells of initial data.",
    needs=PRE_COPY,
)
def initial_at_first(context: Context) -> None:
    with context.source.save(State.PRE_COPY) as stream:
        info = stream.precopy_info()
        context.expect(info.initial_bytes > 0, "the first INFO", str(info), "initial_bytes > 0")


@check(
    "C13",
    Level.MUST,
    "dirty_bytes starts at 0, and stays there while nothing was read and the device is idle.",
    needs=PRE_COPY,
)
def nothing_dirty_at_first(context: Context) -> None:
    context.idle()
    with context.source.save(State.PRE_COPY) as stream:
        for _ in range(3):
            info = stream.precopy_info()
            context.expect(info.dirty_bytes == 0, "INFO of an idle device", str(info), "dirty 0")


@check(
    "C13.initial",
    Level.DRIVER,
    "While there is initial data, dirty_bytes is 0, however much the device changes.",
    needs=PRE_COPY,
)
def nothing_dirty_beside_initial(context: Context) -> None:
    context.busy()
    with context.source.save(State.PRE_COPY) as stream:
        first = stream.precopy_info().initial_bytes
        count = 0
        while (info := stream.precopy_info()).initial_bytes:
            context.expect(info.dirty_bytes == 0, "INFO of a busy device", str(info), "dirty 0")
            data, _ = read_part(stream, max(PART, info.initial_bytes // 3))
            count += len(data)
            # Otherwise this would not end. A driver that does not count a header is none of those.
            context.expect(
                bool(data) and count <= 2 * first,
                f"reading of {info.initial_bytes} initial bytes",
                f"{len(data)} bytes, {count} in all",
                f"data, and an end of it after the {first} bytes announced at first",
            )


@check(
    "C14",
    Level.MUST,
    "initial_bytes never rises within a session.",
    needs=PRE_COPY,
)
def initial_never_rises(context: Context) -> None:
    if context.firmware:
        context.busy()
    with context.source.save(State.PRE_COPY) as stream:
        last = stream.precopy_info().initial_bytes
        for part in (PART, last // 2, 2 * last, last, last):
            read_part(stream, part)
            # The first may begin to save something, which the second counts before it is read.
            for _ in range(2):
                info = stream.precopy_info()
                context.expect(
                    info.initial_bytes <= last, f"INFO after {last} bytes", str(info), "no more"
                )
                last = info.initial_bytes


@check(
    "C14.peers",
    Level.MUST,
    "initial_bytes does not rise on the way to PRE_COPY_P2P and back either, nor does reading it "
    "in the one state make it more in the other.",
    needs=PRE_COPY_P2P,
)
def initial_never_rises_on_the_way(context: Context) -> None:
    subject = context.source
    with subject.save(State.PRE_COPY) as stream:
        last = stream.precopy_info().initial_bytes
        for aim in (State.PRE_COPY_P2P, State.PRE_COPY) * 2:
            subject.go(aim)
            for part in (0, PART):
                data, _ = read_part(stream, part)
                now = stream.precopy_info().initial_bytes
                did = f"{aim.name}: initial_bytes were {last}, read {len(data)}"
                context.expect(now <= last - len(data), did, str(now), "no more than what is left")
                last = now


@check(
    "C15",
    Level.MUST,
    "Reading k bytes lowers initial_bytes by exactly k, and dirty_bytes once no initial data is "
    "left, as long as nothing new is saved.",
    needs=PRE_COPY,
)
def reading_counts(context: Context) -> None:
    subject = context.source
    context.idle()
    with subject.save(State.PRE_COPY) as stream:
        _expect_falling(context, stream, "initial_bytes")
        read_part(stream)
        if not context.firmware or MigrationFlags.P2P not in subject.flags:
            return
        announce(context, stream)
        # No INFO starts a SAVE there, but the one under way ends.
        subject.go(State.PRE_COPY_P2P)
        _expect_falling(context, stream, "dirty_bytes")


def _expect_falling(context: Context, stream: SavingStream, field: str) -> None:
    """Read in parts, and check that a field of INFO falls with each."""
    before = int(getattr(stream.precopy_info(), field))
    context.expect(before > 0, f"{field} before reading", str(before), "above 0")
    for part in (1, HEADER.size, PART, before // 2):
        data, _ = read_part(stream, part)
        after = int(getattr(stream.precopy_info(), field))
        context.expect(
            after == before - len(data),
            f"{field} was {before}; after reading {len(data)} bytes",
            str(after),
            str(before - len(data)),
        )
        before = after


@check(
    "C16",
    Level.DRIVER,
    "Until the first ENOMSG exactly the first initial_bytes can be read.",
    needs=PRE_COPY,
)
def initial_is_exact(context: Context) -> None:
    with context.source.save(State.PRE_COPY) as stream:
        announced = stream.precopy_info().initial_bytes
        data, end = read_part(stream)
        context.expect(
            len(data) == announced,
            f"{announced} initial bytes were announced; read until {end.value} end",
            f"{len(data)} bytes",
            "as many",
        )


@check(
    "C17",
    Level.MUST,
    "What VFIO_MIG_GET_PRECOPY_INFO announces comes: it is not denied for good.",
    needs=PRE_COPY,
)
def announced_data_comes(context: Context) -> None:
    with context.source.save(State.PRE_COPY) as stream:
        read_part(stream)
        for _ in range(ROUNDS):
            info = announce(context, stream)
            data = read_announced(stream)
            context.expect(bool(data), f"{info}: reading", f"{len(data)} bytes", "data")


@check(
    "C17.once",
    Level.SHOULD,
    "What VFIO_MIG_GET_PRECOPY_INFO announces is waited for: no ENOMSG comes before it.",
    needs=PRE_COPY,
)
def announced_data_is_not_denied(context: Context) -> None:
    with context.source.save(State.PRE_COPY) as stream:
        read_part(stream)
        for _ in range(ROUNDS):
            info = announce(context, stream)
            data, end = read_part(stream)
            context.expect(
                bool(data), f"{info}: reading at once", f"{len(data)} bytes, {end.value}", "data"
            )


@check(
    "C18",
    Level.DRIVER,
    "After ENOMSG on a device that changed, VFIO_MIG_GET_PRECOPY_INFO starts the next SAVE, whose "
    "image is as large as dirty_bytes says (before Linux 7.1 without the image's header).",
    needs=PRE_COPY,
)
def info_starts_a_save(context: Context) -> None:
    with context.source.save(State.PRE_COPY) as stream:
        _, end = read_part(stream)
        context.expect(end is End.TEMPORARY, "the end of the initial data", end.value, "ENOMSG")
        for _ in range(ROUNDS):
            info = announce(context, stream)
            data = read_announced(stream)
            context.expect(
                len(data) - info.dirty_bytes in (0, HEADER.size),
                f"{info.dirty_bytes} dirty bytes were announced; read to the next end",
                f"{len(data)} bytes",
                f"as many, or {HEADER.size} more",
            )


@check(
    "C19",
    Level.MUST,
    "On an idle device whose data was read, VFIO_MIG_GET_PRECOPY_INFO says 0 and 0, read() says "
    "ENOMSG, and poll() does not say that there is data.",
    needs=PRE_COPY,
)
def idle_device(context: Context) -> None:
    context.idle()
    with context.source.save(State.PRE_COPY) as stream:
        read_part(stream)
        for _ in range(3):
            info = stream.precopy_info()
            context.expect(info.pending_bytes == 0, "INFO", str(info), "0 and 0")
            got = stream.read(PART)
            context.expect(got is End.TEMPORARY, "read()", str(got), "ENOMSG")
            events = raw.poll_events(stream.fileno())
            context.expect(events == 0, "poll()", hex(events), "0")
