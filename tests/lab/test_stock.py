# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's 6.1 with its own driver: STOP_COPY under the tracer, with layouts from BTF and DWARF."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace import agreement
from tests.lab.conftest import STOCK

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.conftest import Labs

pytestmark = pytest.mark.lab

VF0 = "0000:01:00.1"


# The first way is that of the modules as they are built, the second of those without BTF.
WAYS = ("BTF", "DWARF")
each_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(scope="module")
def out(labs: Labs) -> Path:
    """Migrate under the tracer, first with and then without BTF, and unload everything."""
    lab = labs.on(STOCK)
    script = """
    traced() {
        mkdir $MLXLAB_OUT/$1 && cd $MLXLAB_OUT/$1 || exit 1
        mlxtrace precopy -d $MLXLAB_VF0 -d $MLXLAB_VF1 -w trace.mlxrec -c "mlxtrace migrate \
            --source $MLXLAB_VF0 --target $MLXLAB_VF1 --json client.json" >live 2>&1 || exit 2
        cat /sys/kernel/debug/mlx5_lab/$MLXLAB_VF0/counters >source.counters
        mlxtrace precopy --dry-run >dry-run 2>&1 || exit 3
        cd /
    }
    traced BTF
    sh $MLXLAB_GUEST/vfs down || exit 4
    driver=$(modinfo -n mlx5_vfio_pci)
    objcopy --remove-section .BTF $driver /run/stripped.ko
    mount --bind /run/stripped.ko $driver
    sh $MLXLAB_GUEST/vfs up || exit 5
    traced DWARF
    sh $MLXLAB_GUEST/vfs down || exit 6
    umount $driver
    sh $MLXLAB_GUEST/vfs up
    """
    done = lab.run("stock", "sh", "-c", script)
    assert done.returncode == 0, done.stdout + done.stderr
    return lab.out / "stock"


def client_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "client.json").read_text()))


def test_the_driver_has_no_precopy_and_migrates_all_the_same(out: Path) -> None:
    client = client_of(out / "BTF")
    assert (client["initial_images"], client["middle_images"]) == (0, 0)
    assert client["final_images"] == 1
    assert client["state_hashes_equal"] is True


@each_way
def test_client_tracer_and_firmware_agree(out: Path, way: str) -> None:
    folder = out / way
    events = agreement.traced_events(folder / "trace.mlxrec")
    rows = agreement.compare(client_of(folder), events)
    assert rows
    assert [row for row in rows if not row.agrees] == []
    counters = dict(line.split() for line in (folder / "source.counters").read_text().splitlines())
    (saved,) = [event for event in events if event["type"] == "summary" and event["bdf"] == VF0]
    assert saved["saves"] == int(counters["save"]) == 1
    assert sum(saved["image_bytes"]) == int(counters["save_bytes"])


@each_way
def test_where_the_layouts_come_from_and_what_is_absent_is_said(out: Path, way: str) -> None:
    text = (out / way / "dry-run").read_text()
    assert f"layouts from {way} of " in text
    assert [line for line in text.splitlines() if "precopy-ioctl" in line and "absent" in line]
    (meta,) = [
        e for e in agreement.traced_events(out / way / "trace.mlxrec") if e["type"] == "meta"
    ]
    assert meta["kernel"].startswith("6.1.")
