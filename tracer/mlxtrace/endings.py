# SPDX-License-Identifier: GPL-2.0-or-later
"""Ends of sessions that no SET_STATE asked for, and who caused them.

A reset tells the driver that it is done, and the driver then takes the data files away: at once,
or, while another thread is in the driver, when that one leaves. Both are seen, and make one end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxtrace import records
from mlxtrace.mailbox import MIGRATING, state_name
from mlxtrace.records import FLAG_ORDERED, Raw

if TYPE_CHECKING:
    from collections.abc import Sequence

# The driver's function on the stack tells the cause. Those of the mutex carry out a reset that was
# put off: upstream's when it is released, the carried series' also when it is taken.
_CAUSES = (
    ("mlx5fv_vf_event", "vf-disabled"),
    ("mlx5vf_pci_aer_reset_done", "reset"),
    ("mlx5vf_pci_close_device", "close"),
    ("mlx5vf_state_mutex_unlock", "reset"),
    ("mlx5vf_state_mutex_lock", "reset"),
)

# VFIO's core resets what it opens. Whatever session there was had ended before.
_OPENS = "vfio_pci_core_enable"

# A SET_STATE has ended the session, and a worker of the driver tidies up.
_RUNS = ("RUNNING", "RUNNING_P2P")


@dataclass(frozen=True, slots=True)
class Ending:
    """An end that nobody ordered.

    Attributes:
        raw: the record of whoever caused it.
        cause: ``reset``, ``close``, ``vf-disabled``, or ``unknown``.
        state: the state that it met; "" if that is not known.
        direction: ``read`` for a saving session, ``write`` for a resuming one, "" if its data file
            was gone before.
        stack: the kernel functions that led there, the innermost first.
    """

    raw: Raw
    cause: str
    state: str
    direction: str
    stack: list[str]


class Endings:
    """Collects the records of one VF's ends; each method returns an end that is complete.

    Attributes:
        resets: how often the VF was reset while it was open.
    """

    def __init__(self) -> None:
        self.resets = 0
        self._frames: list[Raw] = []
        self._reset: tuple[Raw, list[str]] | None = None
        self._over = False

    def frame(self, raw: Raw) -> None:
        """One more function on the stack of the record that comes next."""
        self._frames.append(raw)

    def reset(self, raw: Raw) -> Ending | None:
        """A reset is done."""
        stack = self._take_frames(raw)
        self._reset = raw, stack
        state = state_name(raw.value[0])
        opens = _OPENS in _functions(stack)
        self.resets += not opens
        # VFIO's core resets what was closed, in whatever state that left it.
        stale = self._over or state not in MIGRATING or opens
        if state in _RUNS or (not _is_live(raw) and stale):
            return None
        return self._ending(raw, "reset", state, stack, raw)

    def session_end(self, raw: Raw) -> Ending | None:
        """The driver takes the data files away."""
        stack = self._take_frames(raw)
        reset, self._reset = self._reset, None
        if reset is not None:
            told, of_reset = reset
            if _is_live(told):
                return None
            return self._ending(told, "reset", "", of_reset, raw)
        if raw.flags & FLAG_ORDERED:
            return None
        cause, state = _cause(stack), state_name(raw.value[0])
        if cause == "reset":
            # The driver has set the state back before it takes the files away.
            state = ""
        elif state in _RUNS:
            return None
        return self._ending(raw, cause, state, stack, raw)

    def begin(self) -> None:
        """A session begins: a reset before it is none of its own."""
        self._reset = None
        self._over = False

    def _ending(self, who: Raw, cause: str, state: str, stack: list[str], files: Raw) -> Ending:
        self._over = True
        direction = "read" if files.value[1] else "write" if files.value[2] else ""
        return Ending(who._replace(boot_ns=files.boot_ns), cause, state, direction, stack)

    def _take_frames(self, raw: Raw) -> list[str]:
        """The stack of ``raw``: frames of a record that was lost are another thread's."""
        frames, self._frames = self._frames, []
        return [records.frame(frame) for frame in frames if frame.tid == raw.tid]


def _is_live(raw: Raw) -> bool:
    return bool(raw.value[1] or raw.value[2])


def _cause(stack: Sequence[str]) -> str:
    names = _functions(stack)
    return next((cause for name, cause in _CAUSES if name in names), "unknown")


def _functions(stack: Sequence[str]) -> set[str]:
    return {frame.split("+", 1)[0] for frame in stack}
