# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the migration tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlxtrace import migrate, migrate_sink
from mlxtrace.vfio import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from .fake_device import FakeDevice


@pytest.fixture
def no_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer no state hash, wherever the tests run."""
    monkeypatch.setattr(migrate, "state_hash", lambda _: None)
    monkeypatch.setattr(migrate_sink, "state_hash", lambda _: None)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeDevice, FakeDevice], None]:
    """Return a function that offers the state hashes of two devices, as the lab does."""

    def offer(*devices: FakeDevice) -> None:
        def of(name: str) -> str | None:
            device = next(each for each in devices if each.name == name)
            assert device.current in (State.STOP, State.STOP_COPY), "it must be stopped"
            return device.hash()

        monkeypatch.setattr(migrate, "state_hash", of)
        monkeypatch.setattr(migrate_sink, "state_hash", of)

    return offer
