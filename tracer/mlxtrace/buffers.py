# SPDX-License-Identifier: GPL-2.0-or-later
"""One VF's buffers for images: what is held, and which SAVEs had to wait for memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlxtrace.events import Buffer
from mlxtrace.mailbox import errno_name
from mlxtrace.records import Kind, Raw

if TYPE_CHECKING:
    from collections.abc import Mapping


class Buffers:
    """The buffers of one VF while its records go by."""

    def __init__(self) -> None:
        self._held: dict[int, int] = {}
        self._new: set[int] = set()
        self._known = False

    def old(self) -> None:
        """Another call begins: what was allocated until now was there before it."""
        self._new.clear()

    def of_save(self, buffer: int) -> str | None:
        """Whether a SAVE found ``buffer`` there: ``new``, ``reused``; None if that is unknown."""
        if not self._known or not buffer:
            return None
        return "new" if buffer in self._new else "reused"

    def record(self, raw: Raw, who: Mapping[str, Any]) -> Buffer:
        """One of BUFFER_ALLOC, BUFFER_FREE and MKEY; ``who``: the keys that all events have."""
        asked = allocated = took = None
        if raw.kind == Kind.BUFFER_ALLOC:
            action = "alloc"
            start, buffer, asked, allocated = raw.value[:4]
            took = raw.boot_ns - start
            self._known = True
            if raw.result:
                allocated = None
            else:
                self._held[buffer] = allocated
                self._new.add(buffer)
        elif raw.kind == Kind.BUFFER_FREE:
            action = "free"
            buffer, allocated = raw.value[:2]
            self._held.pop(buffer, None)
        else:
            action = "mkey"
            start, buffer, size = raw.value[:3]
            took = raw.boot_ns - start
            allocated = size or None
            # It may have grown since it was allocated.
            if buffer in self._held and size:
                self._held[buffer] = size
        return Buffer(
            **who,
            action=action,
            asked_bytes=asked,
            allocated_bytes=allocated,
            took_ns=took,
            buffers=len(self._held),
            held_bytes=sum(self._held.values()),
            errno=-raw.result,
            error=errno_name(-raw.result),
        )
