# SPDX-License-Identifier: GPL-2.0-or-later
"""C35.held, C35.sriov: taking away a device that is open has to wait."""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error
from mlxtrace.checks import Context, fsm, removal
from mlxtrace.checks.core import DeviationError
from mlxtrace.vfio import State

from .fake_device import ALL_FLAGS
from .fake_driver import SOURCE, TARGET, FakeDriver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Opened(Context):
    """A context that tells other processes, by a file, that its devices are closed."""

    closed: Path

    def close(self) -> None:
        super().close()
        self.closed.touch()


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    driver = FakeDriver(tmp_path, monkeypatch)
    context = Opened(SOURCE, TARGET, firmware=driver.firmware)
    context.closed = tmp_path / "closed"
    return context


def waits_for(closed: Path) -> Callable[[], None]:
    """Return an action that ends when the device is closed, as the kernel's does."""

    def action() -> None:
        while not closed.exists():
            time.sleep(0.01)

    return action


@pytest.mark.parametrize("state", [State.RUNNING, State.PRE_COPY, State.RESUMING])
def test_what_waits_until_the_device_is_closed_is_right(context: Opened, state: State) -> None:
    removal._take_away(context, state, waits_for(context.closed), "unbound")
    assert context.steps[0 if state is State.RUNNING else 1].did.endswith("while it waits")


@pytest.mark.parametrize("after_s", [0, 0.1])
def test_what_takes_an_open_device_away_is_wrong(context: Opened, after_s: float) -> None:
    with pytest.raises(DeviationError) as caught:
        removal._take_away(context, State.STOP_COPY, lambda: time.sleep(after_s), "unbound")
    assert "unbound in STOP_COPY, while the device is open: it has ended" in str(caught.value)
    assert context.closed.exists()


def test_a_refusal_is_told_as_one(context: Opened) -> None:
    def refuse() -> None:
        raise Error("cannot write unbind: Device or resource busy")

    with pytest.raises(DeviationError, match="busy; the rule wants that it goes"):
        removal._take_away(context, State.STOP, refuse, "unbound")


@pytest.mark.parametrize("check", [removal.unbound_while_open, removal.sriov_disabled])
def test_it_is_taken_away_in_every_state(
    context: Opened, monkeypatch: pytest.MonkeyPatch, check: Callable[[Context], None]
) -> None:
    states: list[State] = []
    monkeypatch.setattr(removal, "_take_away", lambda _, state, *__: states.append(state))
    here = SimpleNamespace(vfs_again=contextlib.nullcontext, remove_vfs=None)
    monkeypatch.setattr(removal.Physical, "of", lambda _: here)
    monkeypatch.setattr(removal, "bound_again", lambda *_: contextlib.nullcontext())
    check(context)
    assert states == list(fsm.states(ALL_FLAGS))
