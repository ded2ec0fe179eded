# SPDX-License-Identifier: GPL-2.0-or-later
"""One VF's data stream: what was read and written, why there was none, how long images waited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlxtrace.content import MODULUS
from mlxtrace.events import Content, Drain, End, Event, Histogram, Read, Save
from mlxtrace.flowing import Flowing
from mlxtrace.mailbox import errno_name
from mlxtrace.records import BUCKETS, DIRECTIONS, FLAG_LAST, FLAG_POSITION, MEASURES, Raw

if TYPE_CHECKING:
    from collections.abc import Iterator

GROWN = 9
"""Status of a SAVE whose image outgrew its QUERY (BAD_RES_STATE): the driver falls back."""

_DIRECTIONS = ("read", "write")


class DataPath:
    """The stream of one VF while its records go by.

    Attributes:
        session: number of the session that its events belong to.
        totals: the last snapshot of each device and direction, but for what is in its last place.
        bytes_before: bytes in them when the session began; None before the first one.
    """

    def __init__(self, bdf: str | None) -> None:
        self.bdf = bdf
        self.session = 0
        self.totals: dict[tuple[int, str], tuple[int, ...]] = {}
        self.bytes_before: dict[tuple[int, str], int] | None = None
        self._asked = False
        self._fell_back = False
        self._saves: dict[int, Save] = {}
        self._counts: dict[tuple[int, int], list[int]] = {}
        self._told: dict[tuple[int, int, int], list[int]] = {}
        self._content: dict[tuple[int, int], tuple[int, ...]] = {}

    def begin(self, session: int) -> None:
        """A session begins, and with it a stream."""
        self.session = session
        self.bytes_before = {key: total[1] for key, total in self.totals.items()}
        self._asked = self._fell_back = False
        self._saves.clear()

    def forget(self, vdev: int) -> None:
        """Another device is at ``vdev``, whose totals begin at 0."""
        for totals in (*self._by_device(), self.bytes_before or {}):
            for key in [key for key in totals if key[0] == vdev]:
                del totals[key]

    def hand_over(self, vdev: int, other: DataPath) -> None:
        """The totals of the device at ``vdev`` go on as those of ``other``, which has moved in."""
        for mine, others in zip(self._by_device(), other._by_device(), strict=True):
            others.update({key: total for key, total in mine.items() if key[0] == vdev})
        if other.bytes_before is not None:
            moved = {key: total[1] for key, total in other.totals.items() if key[0] == vdev}
            other.bytes_before.update(moved)
        self.forget(vdev)

    def _by_device(self) -> tuple[dict[Any, Any], ...]:
        return self.totals, self._told, self._content

    def asked(self) -> None:
        """The pre-copy ioctl was called."""
        self._asked = True

    @property
    def was_asked(self) -> bool:
        """Whether the next temporary end has another reason than those after it."""
        return self._asked

    def saved(self, issue_ns: int, save: Save) -> None:
        """A SAVE is complete."""
        if save.status == GROWN and save.kind in ("initial", "middle"):
            self._fell_back = True
        self._saves[issue_ns] = save

    def flow(
        self, raw: Raw, direction: str, *, in_flight: bool, in_precopy: bool
    ) -> Iterator[Event]:
        """A snapshot of the read or write totals: what came since the last one.

        Everything that changes why there is no data makes a record, and a snapshot before it, so
        that all the temporary ends of one snapshot have one reason.
        """
        # A VF that was bound again is another device to the kernel: its totals begin anew.
        key = (raw.vdev, direction)
        value, last_errno, position = raw.value[:9], raw.value[9], None
        if raw.flags & FLAG_POSITION:
            last_errno, position = -raw.result, raw.value[9]
        before = self.totals.get(key, (0,) * len(value))
        delta = [max(0, now - then) for now, then in zip(value, before, strict=True)]
        # Two threads that tell at once may do so in either order: what was told is not told again.
        self.totals[key] = tuple(map(max, value, before))
        gap = None
        if position is not None and self.bytes_before is not None:
            gap = position - (value[1] - self.bytes_before.get(key, 0))
        if delta[0] > 0:
            yield Read(
                bdf=self.bdf,
                boot_ns=raw.boot_ns,
                session=self.session,
                direction=direction,
                calls=delta[0],
                bytes=delta[1],
                busy_ns=delta[2],
                first_boot_ns=value[3],
                last_boot_ns=value[4],
                position_bytes=position,
                gap_bytes=gap,
            )
        # Where mlx5 answers ENOMSG, other drivers answer 0.
        temporary, final = (delta[5] + delta[6], 0) if in_precopy else delta[5:7]
        for kind, number in (
            ("temporary", temporary),
            ("final", final),
            ("again", delta[7]),
            ("error", delta[8]),
        ):
            if number > 0:
                # Only where the data ends does the call tell where the file is.
                at_end = kind in ("temporary", "final")
                errno = last_errno if kind == "error" else 0
                yield End(
                    bdf=self.bdf,
                    boot_ns=raw.boot_ns,
                    session=self.session,
                    direction=direction,
                    kind=kind,
                    reason=self.reason(in_flight=in_flight) if kind == "temporary" else "",
                    calls=number,
                    position_bytes=position if at_end else None,
                    gap_bytes=gap if at_end else None,
                    errno=errno,
                    error=errno_name(errno),
                )

    def flowing(self, raw: Raw) -> Iterator[Event]:
        """A look at the totals between two snapshots."""
        direction, calls, size = raw.value[:3]
        if direction >= len(_DIRECTIONS):
            return
        name = _DIRECTIONS[direction]
        before = self.totals.get((raw.vdev, name), (0, 0))
        if calls > before[0]:
            yield Flowing(
                bdf=self.bdf,
                boot_ns=raw.boot_ns,
                direction=name,
                calls=calls - before[0],
                bytes=max(0, size - before[1]),
            )

    def drained(self, raw: Raw) -> Iterator[Event]:
        """An image was read to its end."""
        issue_ns, ready_ns, begun_ns, start, end, images, behind = raw.value[:7]
        save = self._saves.pop(issue_ns, None)
        yield Drain(
            bdf=self.bdf,
            boot_ns=raw.boot_ns,
            session=save.session if save else self.session,
            image=save.image if save else None,
            kind=save.kind if save else "unknown",
            start_bytes=start,
            end_bytes=end,
            wait_ns=save.wait_ns if save else None,
            fw_ns=save.fw_ns if save else None,
            ready_boot_ns=ready_ns or None,
            queued_ns=begun_ns - ready_ns if ready_ns else None,
            drain_ns=raw.boot_ns - begun_ns,
            images_behind=images,
            bytes_behind=behind,
        )

    def histogram(self, raw: Raw) -> Iterator[Event]:
        """A part of a histogram's totals; its last part completes it."""
        direction, measure, first = (raw.value[0] >> shift & 0xFF for shift in (0, 8, 16))
        if direction >= len(DIRECTIONS) or measure >= len(MEASURES):
            return
        counts = self._counts.setdefault((direction, measure), [0] * BUCKETS)
        part = raw.value[1:][: max(0, BUCKETS - first)]
        counts[first : first + len(part)] = part
        if not raw.flags & FLAG_LAST:
            return
        del self._counts[direction, measure]
        key = (raw.vdev, direction, measure)
        before = self._told.get(key, [0] * BUCKETS)
        self._told[key] = counts
        delta = [max(0, now - then) for now, then in zip(counts, before, strict=True)]
        while delta and not delta[-1]:
            delta.pop()
        if delta:
            yield Histogram(
                bdf=self.bdf,
                boot_ns=raw.boot_ns,
                session=self.session,
                direction=DIRECTIONS[direction],
                measure=MEASURES[measure],
                counts=delta,
            )

    def content(self, raw: Raw) -> Iterator[Event]:
        """The totals of what was looked at in one direction."""
        direction, *found = raw.value[:4]
        if direction >= len(_DIRECTIONS):
            return
        before = self._content.get((raw.vdev, direction), (0, 0, 0))
        self._content[raw.vdev, direction] = tuple(found)
        added, looked_at, missed = (now - then for now, then in zip(found, before, strict=True))
        yield Content(
            bdf=self.bdf,
            boot_ns=raw.boot_ns,
            session=self.session,
            direction=_DIRECTIONS[direction],
            content_sum=added % MODULUS,
            samples=max(0, looked_at - missed),
            missed_samples=max(0, missed),
        )

    def reason(self, *, in_flight: bool) -> str:
        """Why a read finds no data for now; the ioctl before it explains only one of them."""
        asked, self._asked = self._asked, False
        if in_flight:
            return "save-in-flight"
        if self._fell_back:
            return "fallback"
        return "idle" if asked else "nobody-asked"
