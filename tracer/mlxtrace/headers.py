# SPDX-License-Identifier: GPL-2.0-or-later
"""Headers of the stream that a target is given, as :mod:`mlxtrace.stream` describes them.

Only what the first one looks like tells of which kind a stream is: one without headers has bytes
of the image there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxtrace.events import Header
from mlxtrace.records import FLAG_UNREAD, Raw
from mlxtrace.stream import FLAG_OPTIONAL, Tag

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD_MAX = (1 << 32) - 1
"""No record of a stream is larger."""

_TAGS = {int(tag): tag.name for tag in Tag}


class Headers:
    """The headers of one VF's stream while its records go by."""

    def __init__(self, bdf: str | None) -> None:
        self._bdf = bdf
        self._format = ""

    def record(self, raw: Raw, session: int) -> Iterator[Header]:
        """A header, or what is in its place; what follows one that was lost is passed over."""
        offset, size, word, stop_copy, known = raw.value[:5]
        flags, tag = word & 0xFFFFFFFF, word >> 32
        unread = bool(raw.flags & FLAG_UNREAD)
        if not offset:
            self._format = "" if unread else _format(size, flags, tag)
        if self._format == "raw" and offset:
            return
        readable = not unread and self._format != "raw"
        has_size = readable and tag == Tag.STOP_COPY_SIZE and size >= 8 and known == 24
        yield Header(
            bdf=self._bdf,
            boot_ns=raw.boot_ns,
            session=session,
            offset_bytes=offset,
            format="unread" if unread else self._format or "unknown",
            tag=_TAGS.get(tag, f"tag {tag}") if readable else "",
            flags=flags if readable else None,
            record_bytes=size if readable else None,
            stopcopy_size_bytes=stop_copy if has_size else None,
        )


def _format(size: int, flags: int, tag: int) -> str:
    if not 0 < size <= RECORD_MAX:
        return "raw"
    if tag == Tag.FW_DATA and not flags:
        return "plain"
    return "tagged" if tag != Tag.FW_DATA and flags == FLAG_OPTIONAL else "raw"
