# SPDX-License-Identifier: GPL-2.0-or-later
"""When to stop the source: QEMU's rule, between a least and a largest number of rounds."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlxtrace.migrate_model import Options


class StopReason(enum.StrEnum):
    """Why pre-copy ended."""

    CONVERGED = "what is left fits in the allowed downtime"
    IDLE = "the device reports nothing dirty any more"
    MAX_ROUNDS = "the largest number of rounds is reached: the device changes too fast"
    NOT_USED = "pre-copy is not used"


@dataclass(frozen=True)
class Progress:
    """How far pre-copy is, once the initial data was sent.

    Attributes:
        middle_rounds: middle rounds done.
        remaining_bytes: the estimate of what a stop would leave to send: what the driver last
            reported dirty, in bytes.
        bandwidth: bytes a second, over pre-copy so far.
        idle_reports: reports of nothing dirty since the last round.
    """

    middle_rounds: int
    remaining_bytes: int
    bandwidth: float
    idle_reports: int


def reason_to_stop(progress: Progress, options: Options) -> StopReason | None:
    """Return why to stop now, or ``None`` to go on.

    QEMU (migration/migration.c) stops when pending bytes <= bandwidth x downtime limit, once the
    initial data was sent; that alone may never happen on a device that changes fast.
    """
    if progress.middle_rounds >= options.max_rounds:
        return StopReason.MAX_ROUNDS
    if progress.middle_rounds < options.min_rounds:
        if progress.idle_reports >= options.idle_rounds:
            return StopReason.IDLE
        return None
    if progress.idle_reports:
        return StopReason.IDLE
    if progress.remaining_bytes <= progress.bandwidth * options.downtime_limit_s:
        return StopReason.CONVERGED
    return None
