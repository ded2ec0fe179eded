# SPDX-License-Identifier: GPL-2.0-or-later
"""A trace without a kernel: what precopy.run needs of a host, and a ring that a test fills."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mlxtrace import host, layout, precopy
from mlxtrace.counters import Counters

from .raw_records import Clock, Vf

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

BDF = "0000:01:00.1"
_POLLS_MAX = 3000
_POLL_S = 0.005


class FakeCapture:
    """In place of :class:`mlxtrace.capture.Capture`: each poll gives a record of an ioctl.

    Attributes:
        polls: how often the ring was read.
        at_poll: called with that number in each poll, before its record is made.
        stops: how often the trace was stopped, which gives one record more.
        counters: what was counted by then.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.polls = self.stops = 0
        self.counters = Counters()
        self.at_poll: Callable[[int], None] = lambda _: None
        self._out: list[bytes] = []
        self._vf = Vf(Clock(), BDF, 0x1000, self._out)
        monkeypatch.setattr(precopy, "Capture", lambda *_, **__: self)
        monkeypatch.setattr(precopy, "load_bcc", lambda: None)
        monkeypatch.setattr(precopy, "_check", lambda _: None)
        monkeypatch.setattr(precopy, "_layouts", lambda _: layout.Layouts("a test", {}))
        monkeypatch.setattr(host, "migration_vfs", lambda: [BDF])

    def start(self) -> list[object]:
        """No probe is attached."""
        return []

    def poll(self, _: int) -> bytes:
        """Return what the ring has."""
        self.polls += 1
        assert self.polls < _POLLS_MAX, "the trace does not end"
        time.sleep(_POLL_S)
        self.at_poll(self.polls)
        return self._record()

    def stop(self) -> tuple[bytes, Counters]:
        """Return the ring's rest."""
        self.stops += 1
        return self._record(), self.counters

    def _record(self) -> bytes:
        self._vf.ioctl(self.polls, 0)
        chunk = b"".join(self._out)
        self._out.clear()
        return chunk
