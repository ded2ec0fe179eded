# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw records to events: the same for a running trace and for a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxtrace import records
from mlxtrace.events import Event, Lost
from mlxtrace.records import Kind, Raw
from mlxtrace.session import VfSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlxtrace.counters import Counters

UNNAMED = None
"""Name of a device that is not known yet, or whose name was lost on the way."""
_SET_STATE = ("set-state", "device-ioctl")
"""The probes on it: mlx5's, and that for any driver."""


class Decoder:
    """Feeds records to the session of their VF.

    Attributes:
        incomplete_saves: SAVEs without a callback so far, over all VFs.
    """

    def __init__(self) -> None:
        self._by_name: dict[str | None, VfSession] = {}
        self._by_device: dict[int, VfSession] = {}
        self._tenants: dict[int, int] = {}
        self._last_ns = 0
        self._handlers: dict[int, Callable[[VfSession, Raw], Iterator[Event]]] = {
            Kind.SET_STATE: VfSession.set_state,
            Kind.STEP: VfSession.step,
            Kind.IOCTL: VfSession.ioctl,
            Kind.READ: lambda vf, raw: vf.flow(raw, "read"),
            Kind.WRITE: lambda vf, raw: vf.flow(raw, "write"),
            Kind.SAVE_ISSUE: VfSession.save_issue,
            Kind.SAVE_DONE: VfSession.save_done,
            Kind.SAVE_UNSEEN: VfSession.save_unseen,
            Kind.COMMAND: VfSession.command,
            Kind.BUFFER_ALLOC: VfSession.buffer,
            Kind.BUFFER_FREE: VfSession.buffer,
            Kind.MKEY: VfSession.buffer,
            Kind.DATA_SIZE: VfSession.data_size,
            Kind.HEADER: VfSession.header,
            Kind.DRAINED: VfSession.drained,
            Kind.HISTOGRAM: VfSession.histogram,
            Kind.LONGEST: VfSession.longest,
            Kind.CONTENT: VfSession.content,
            Kind.FLOWING: VfSession.flowing,
            Kind.OPEN_CALL: VfSession.open_call,
            Kind.FRAME: VfSession.frame,
            Kind.RESET: VfSession.reset,
            Kind.SESSION_END: VfSession.session_end,
        }

    @property
    def unseen_arcs(self) -> int:
        """Arcs whose end was not seen so far."""
        return sum(vf.totals.unseen_arcs for vf in self._by_name.values())

    @property
    def incomplete_saves(self) -> int:
        """SAVEs without a callback so far."""
        return sum(vf.totals.incomplete_saves for vf in self._by_name.values())

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events of a chunk of whole records; kinds that are unknown are passed over."""
        for raw in records.unpack_all(chunk):
            self._last_ns = max(self._last_ns, raw.boot_ns)
            if raw.kind == Kind.DEVICE:
                self._device(raw)
            elif raw.kind == Kind.LOST:
                yield Lost(bdf=None, boot_ns=raw.boot_ns, lost_records=raw.value[0])
            elif (handler := self._handlers.get(raw.kind)) is not None:
                vf = self._by_device.get(raw.vdev) or self._named(UNNAMED)
                for event in handler(vf, raw):
                    vf.totals.add(event)
                    yield event

    def pending(self, boot_ns: int) -> Iterator[Event]:
        """Yield what has begun and is not over at ``boot_ns``, as if tracing ended then."""
        for vf in self._by_name.values():
            yield from vf.pending(boot_ns)

    def finish(self, counters: Counters | None, boot_ns: int | None = None) -> Iterator[Event]:
        """Yield what is only known at the end: open SAVEs, a summary for each VF, the losses.

        Without ``counters`` (a recording that was cut) the losses are unknown, not zero.
        ``boot_ns`` is when tracing ended; the last record's time if None.
        """
        end = self._last_ns if boot_ns is None else boot_ns
        returned = counters is not None and _all_returned(counters)
        for vf in self._by_name.values():
            for event in vf.finish(end, returned=returned):
                vf.totals.add(event)
                yield event
        for name, vf in self._by_name.items():
            if name is UNNAMED and not vf.totals.saves:
                continue
            yield vf.totals.summary(name, end, counters)
        yield Lost(
            bdf=None,
            boot_ns=end,
            lost_records=counters.lost_records if counters else None,
            missed_returns=counters.missed_returns if counters else None,
            skipped=counters.skipped if counters else None,
            incomplete_saves=self.incomplete_saves,
            unseen_arcs=self.unseen_arcs,
            untracked=counters.untracked if counters else None,
            unowned_calls=counters.unowned if counters else None,
            at_end=True,
        )

    def _device(self, raw: Raw) -> None:
        """The device at an address has a name. Before, it may have been another one."""
        vf = self._named(records.device_name(raw) or UNNAMED)
        before = self._by_device.get(raw.vdev)
        tenant = records.device_tenant(raw)
        if before is not None and tenant:
            if tenant != self._tenants.get(raw.vdev):
                before.data.forget(raw.vdev)
        else:
            # The totals go on: what was told of them is not told again.
            before = before or self._by_name.get(UNNAMED)
            if before is not None and before is not vf:
                before.data.hand_over(raw.vdev, vf.data)
        self._by_device[raw.vdev] = vf
        self._tenants[raw.vdev] = tenant

    def _named(self, name: str | None) -> VfSession:
        return self._by_name.setdefault(name, VfSession(name))


def _all_returned(counters: Counters) -> bool:
    """Whether it is known that no SET_STATE was open at the end."""
    counts = [counters.probes[name] for name in _SET_STATE if name in counters.probes]
    return bool(counts) and not any(each.open for each in counts)
