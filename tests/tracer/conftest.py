# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the migration tests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from genbindings import console
from mlxtrace import cli_migrate, migrate, migrate_sink, vfio
from mlxtrace.vfio import State

from .fake_device import FakeDevice
from .fake_kernel import BDF, OTHER_BDF

if TYPE_CHECKING:
    from collections.abc import Callable


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


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs the command as the console script does."""

    def invoke(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mlxtrace", *arguments])
        with pytest.raises(SystemExit) as caught:
            console.run(cli_migrate.command, "mlxtrace")
        output = capsys.readouterr()
        assert "Traceback" not in output.out + output.err
        assert isinstance(caught.value.code, int)
        return caught.value.code, output.out, output.err

    return invoke


@pytest.fixture
def vfs(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeDevice]:
    """Two VFs that migrate."""
    found = {name: FakeDevice(name) for name in (BDF, OTHER_BDF)}
    monkeypatch.setattr(vfio.Device, "open", lambda name: found[name])
    monkeypatch.setattr(cli_migrate, "lookup", lambda name: found[name])
    monkeypatch.setattr(cli_migrate, "require_vfio_driver", lambda _: None)
    return found
