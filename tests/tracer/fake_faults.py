# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong with the model of a VF."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlxtrace.vfio import State


@dataclass
class Faults:
    """What goes wrong, and when; the defaults are a device without faults."""

    short_read: int = 1 << 30
    """Most bytes that a read returns."""
    short_write: int = 1 << 30
    transient_enomsg: bool = True
    """ENOMSG, not EAGAIN, while a middle SAVE runs (Linux before 7.1)."""
    zero_at_temporary_end: bool = False
    """0 where mlx5 answers ENOMSG (hisi, qat, mtty)."""
    poll_always_ready: bool = False
    read_error_at: int | None = None
    """Stream offset at which the saving session fails with ENODEV."""
    write_error_at: int | None = None
    """Stream offset at which a write fails with EIO."""
    state_errors: dict[State, list[int]] = field(default_factory=dict)
    """For each state, the errnos of the next attempts to enter it (0: it works)."""
    enter_error: bool = False
    """A state change that fails leaves the device in ERROR."""
    info_error: int = 0
    reset_error: int = 0
    announces_nothing_comes: bool = False
    """A middle SAVE is announced but never delivered."""
    enomsg_in_stop_copy: bool = False
    false_end: bool = False
    """0, the end of the stream, in STOP_COPY before the final image came."""
    precopy_error: bool = False
    """The first middle SAVE fails with "state grew": nothing more until STOP_COPY."""
    state_grew: bool = False
    """The first middle SAVE is announced and fails later, with the same outcome."""
    truncated_final: bool = False
    """The final record is shorter than its header says."""
    corrupts_silently: bool = False
    """LOAD accepts everything and stores something else."""
