# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's 6.1 with its own driver: STOP_COPY under the tracer, whose layouts come from DWARF."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace import agreement
from tests.lab.conftest import STOCK, UNLOAD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.conftest import Labs

pytestmark = pytest.mark.lab

VF0 = "0000:01:00.1"


@pytest.fixture(scope="module")
def out(labs: Labs) -> Path:
    """Migrate under the tracer, ask for what the driver lacks, and unload everything."""
    lab = labs.on(STOCK)
    script = f"""
    cd $MLXLAB_OUT
    both="--source $MLXLAB_VF0 --target $MLXLAB_VF1"
    mlxtrace precopy -d $MLXLAB_VF0 -d $MLXLAB_VF1 -w trace.mlxrec \
        -c "mlxtrace migrate $both --json client.json" >live 2>&1 || exit 1
    cat /sys/kernel/debug/mlx5_lab/$MLXLAB_VF0/counters >source.counters
    mlxtrace precopy --dry-run >dry-run 2>&1 || exit 2
    {UNLOAD}
    """
    done = lab.run("stock", "sh", "-c", script)
    assert done.returncode == 0, done.stdout + done.stderr
    return lab.out / "stock"


@pytest.fixture(scope="module")
def client(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "client.json").read_text()))


def test_the_driver_has_no_precopy_and_migrates_all_the_same(client: dict[str, Any]) -> None:
    assert (client["initial_images"], client["middle_images"]) == (0, 0)
    assert client["final_images"] == 1
    assert client["state_hashes_equal"] is True


def test_client_tracer_and_firmware_agree(out: Path, client: dict[str, Any]) -> None:
    events = agreement.traced_events(out / "trace.mlxrec")
    rows = agreement.compare(client, events)
    assert rows
    assert [row for row in rows if not row.agrees] == []
    counters = dict(line.split() for line in (out / "source.counters").read_text().splitlines())
    (saved,) = [event for event in events if event["type"] == "summary" and event["bdf"] == VF0]
    assert saved["saves"] == int(counters["save"]) == 1
    assert sum(saved["image_bytes"]) == int(counters["save_bytes"])


def test_the_layouts_come_from_dwarf_and_what_is_absent_is_said(out: Path) -> None:
    text = (out / "dry-run").read_text()
    assert "layouts from DWARF" in text
    assert [line for line in text.splitlines() if "precopy-ioctl" in line and "absent" in line]
    (meta,) = [e for e in agreement.traced_events(out / "trace.mlxrec") if e["type"] == "meta"]
    assert meta["kernel"].startswith("6.1.")
