# SPDX-License-Identifier: GPL-2.0-or-later
"""When to stop the source."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlxtrace.migrate_model import Options

WINDOW_S = 0.1
"""Over how long QEMU measures its bandwidth (BUFFER_DELAY in migration/migration.c)."""
UNKNOWN_STOP_COPY_BYTES = 100 << 30
"""What QEMU takes for the size of a device that does not tell it (VFIO_MIG_STOP_COPY_SIZE)."""


class Policy(enum.StrEnum):
    """What decides."""

    ESTIMATE = "estimate"
    """QEMU's rule, for what the driver reports dirty and the bandwidth over all of pre-copy."""
    IMMEDIATE = "immediate"
    """Nothing: stop before anything is read."""
    ROUNDS = "rounds"
    """A number of middle rounds."""
    QEMU = "qemu"
    """QEMU's rule, for the sizes that QEMU compares and the bandwidth as it measures it."""


class StopReason(enum.StrEnum):
    """Why pre-copy ended."""

    CONVERGED = "what is left fits in the allowed downtime"
    IDLE = "the device reports nothing dirty any more"
    MAX_ROUNDS = "the largest number of rounds is reached: the device changes too fast"
    ROUNDS = "the rounds that were asked for are made"
    IMMEDIATE = "at once, as asked"
    NOT_USED = "pre-copy is not used"


@dataclass(frozen=True)
class Progress:
    """How far pre-copy is, once the initial data was sent.

    Attributes:
        middle_rounds: middle rounds done.
        remaining_bytes: the estimate of what a stop would leave to send: what the driver last
            reported dirty, in bytes; ``None`` before it was first asked.
        bandwidth: bytes a second, over pre-copy so far.
        idle_reports: reports of nothing dirty since the last round.
        recent_bandwidth: bytes a second as QEMU measures it, 0 before the first
            :data:`WINDOW_S`.
    """

    middle_rounds: int
    remaining_bytes: int | None
    bandwidth: float
    idle_reports: int
    recent_bandwidth: float = 0.0


@dataclass
class Decision:
    """The numbers of the last comparison; each ``None`` where nothing was compared.

    Attributes:
        remaining_bytes: what would be left to send.
        bandwidth_bytes_per_s: at which bandwidth.
        threshold_bytes: what the bandwidth allows in the allowed downtime.
    """

    remaining_bytes: int | None = None
    bandwidth_bytes_per_s: int | None = None
    threshold_bytes: int | None = None

    def fits(self, remaining_bytes: int, bandwidth: float, limit_s: float) -> bool:
        """Note the numbers and tell whether ``remaining_bytes`` fit."""
        self.remaining_bytes = remaining_bytes
        self.bandwidth_bytes_per_s = int(bandwidth)
        self.threshold_bytes = int(bandwidth * limit_s)
        return remaining_bytes <= bandwidth * limit_s


class RecentBandwidth:
    """Bytes a second over the last full window, as migration_update_counters() of QEMU has it."""

    def __init__(self) -> None:
        self._bytes = 0
        self._began = time.monotonic()
        self._bandwidth = 0.0

    def add(self, count: int) -> None:
        """Count ``count`` bytes as sent now."""
        self._bytes += count
        self.bytes_per_s()

    def bytes_per_s(self) -> float:
        """Return the bandwidth, 0 before the first window is over."""
        spent = time.monotonic() - self._began
        if spent >= WINDOW_S:
            self._bandwidth = self._bytes / spent
            self._bytes = 0
            self._began += spent
        return self._bandwidth


def reason_to_stop(
    progress: Progress,
    options: Options,
    decision: Decision | None = None,
    stop_copy_bytes: Callable[[], int] = lambda: UNKNOWN_STOP_COPY_BYTES,
) -> StopReason | None:
    """Return why to stop now, or ``None`` to go on.

    QEMU (migration/migration.c) stops when pending bytes <= bandwidth x downtime limit, once the
    initial data was sent; that alone may never happen on a device that changes fast.

    Args:
        decision: gets the numbers that were compared.
        stop_copy_bytes: asks the driver what a stop would leave to send (MIG_DATA_SIZE).
    """
    decision = decision or Decision()
    if options.policy is Policy.ROUNDS:
        if progress.middle_rounds >= options.rounds:
            return StopReason.ROUNDS
        return StopReason.IDLE if progress.idle_reports >= options.idle_rounds else None
    if progress.middle_rounds >= options.max_rounds:
        return StopReason.MAX_ROUNDS
    if options.policy is Policy.QEMU:
        return _as_qemu(progress, options, decision, stop_copy_bytes)
    if progress.middle_rounds < options.min_rounds:
        if progress.idle_reports >= options.idle_rounds:
            return StopReason.IDLE
        return None
    if progress.idle_reports:
        return StopReason.IDLE
    remaining, bandwidth = progress.remaining_bytes, progress.bandwidth
    if remaining is not None and decision.fits(remaining, bandwidth, options.downtime_limit_s):
        return StopReason.CONVERGED
    return None


def _as_qemu(
    progress: Progress,
    options: Options,
    decision: Decision,
    stop_copy_bytes: Callable[[], int],
) -> StopReason | None:
    """Decide as QEMU from 9.2 on: vfio_state_pending_exact() is what MIG_DATA_SIZE says.

    Everything that was announced is read by now, so that only the exact question is left.
    """
    bandwidth = options.switchover_bandwidth or progress.recent_bandwidth
    if (
        progress.middle_rounds >= options.min_rounds
        and bandwidth > 0
        and decision.fits(stop_copy_bytes(), bandwidth, options.downtime_limit_s)
    ):
        return StopReason.CONVERGED
    return StopReason.IDLE if progress.idle_reports >= options.idle_rounds else None
