# SPDX-License-Identifier: GPL-2.0-or-later
"""Leaving both devices usable after a migration that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxtrace.devices import is_mediated
from mlxtrace.vfio import State, VfioError

if TYPE_CHECKING:
    from mlxtrace.migrate_model import Migratable


def resume_source(device: Migratable, *, saving: bool) -> str:
    """Let the source run again, where it was; if it cannot, reset it. Return what was done.

    ``saving`` tells that a saving session was begun: only a reset ends that by itself.

    From Linux 6.9 on, mlx5 refuses to leave PRE_COPY after a SAVE that failed: only a reset
    helps then.
    """
    try:
        before = device.state()
        if before is State.RUNNING:
            how = "it was reset meanwhile: its state is gone" if saving else "it never stopped"
            return f"RUNNING ({how})"
        device.set_state(State.RUNNING)
        if device.state() is State.RUNNING:
            return f"RUNNING again (from {before.name})"
        why = "it did not reach RUNNING"
    except VfioError as error:
        why = str(error)
    return f"{_reset(device)}; it would not run again: {why}"


def retire_source(device: Migratable) -> str:
    """Stop a source whose state has moved: it must not run again. Return how it is left."""
    try:
        device.set_state(State.STOP)
    except VfioError as error:
        return f"{_reset(device)}; it would not stop: {error}"
    # A mediated device may stay as it is: that is up to its driver.
    rest = "closing it resets it" if not is_mediated(device.name) else "reset it before it is used"
    return f"STOP (its state has moved; {rest})"


def reset_target(device: Migratable) -> str:
    """Reset a target that holds part of a state. Return what was done."""
    return _reset(device)


def _reset(device: Migratable) -> str:
    """Reset ``device`` and return the state it is left in, in words."""
    try:
        device.reset()
        return f"reset ({device.state().name})"
    except VfioError as error:
        return f"in an unknown state, unbind it from its driver and bind it again ({error})"
