# SPDX-License-Identifier: GPL-2.0-or-later
"""Two VFs to migrate between, and what must hold after every failure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mlxtrace.migrate_model import Options, Result, summary
from mlxtrace.migrate_report import render
from mlxtrace.vfio import MigrationFlags, State

from .fake_device import ALL_FLAGS, FakeDevice

if TYPE_CHECKING:
    from .fake_faults import Faults

STOP_COPY_ONLY = MigrationFlags.STOP_COPY | MigrationFlags.P2P
QUICK = Options(idle_pause_s=0.0, data_timeout_s=0.3, ask_again_s=0.02)


def pair(
    source_faults: Faults | None = None,
    target_faults: Faults | None = None,
    *,
    flags: MigrationFlags = ALL_FLAGS,
    driver: str = "mlx5_vfio_pci",
    dirty: int = 4,
    blocks: int = 64,
) -> tuple[FakeDevice, FakeDevice]:
    """Return a source and a target."""
    return (
        FakeDevice(
            "0000:01:00.1",
            faults=source_faults,
            flags=flags,
            driver=driver,
            dirty=dirty,
            blocks=blocks,
        ),
        FakeDevice("0000:01:00.2", faults=target_faults, flags=flags, driver=driver, blocks=blocks),
    )


def require_usable_after_failure(result: Result, source: FakeDevice, target: FakeDevice) -> None:
    """Check what must hold after every failure."""
    assert result.error is not None
    assert "\n" not in str(result.error)
    assert source.current is State.RUNNING
    assert target.current is State.RUNNING
    assert result.source_state
    assert result.target_state
    if State.RESUMING in target.log:
        assert target.resets == 1, "half a state must not run"
    assert source.saving is None
    assert target.resuming is None
    text = list(render(result))
    assert text[0] == f"FAILED: {result.source} -> {result.target}"
    assert all(len(line) <= 100 for line in text[:-2])
    assert json.loads(json.dumps(summary(result)))["error"] == str(result.error)
