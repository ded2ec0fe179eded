# SPDX-License-Identifier: GPL-2.0-or-later
"""The tracer on Debian's 6.1, with layouts from BTF and from DWARF: stock and carried driver."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace import agreement
from mlxtrace.catalogue import PROBES
from tests.lab.conftest import CARRIED, STOCK

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.conftest import Labs

pytestmark = pytest.mark.lab

VF0 = "0000:01:00.1"
# The first way is that of the modules as they are built, the second of those without BTF.
WAYS = ("BTF", "DWARF")
each_way = pytest.mark.parametrize("way", WAYS)
# The suite has the carried driver with layouts from BTF; those from DWARF are as stock's.
each_kernel = pytest.mark.parametrize(
    "kernel", [STOCK, pytest.param(CARRIED, marks=pytest.mark.slow)]
)
_SCRIPT = """
traced() {
    mkdir $MLXLAB_OUT/$1 && cd $MLXLAB_OUT/$1 || exit 1
    mlxtrace precopy -d $MLXLAB_VF0 -d $MLXLAB_VF1 -w trace.mlxrec -c "mlxtrace migrate \
        --source $MLXLAB_VF0 --target $MLXLAB_VF1 --json client.json" >live 2>&1 || exit 2
    cat /sys/kernel/debug/mlx5_lab/$MLXLAB_VF0/counters >source.counters
    mlxtrace precopy --dry-run >dry-run 2>&1 || exit 3
    # It compiles and loads the program, as a trace does: once is enough.
    [ $1 = BTF ] || mlxtrace doctor --json >doctor || exit 8
    cd /
}
sh $MLXLAB_GUEST/vfs down && sh $MLXLAB_GUEST/vfs up || exit 4
traced BTF
sh $MLXLAB_GUEST/vfs down || exit 5
driver=$(modinfo -n mlx5_vfio_pci)
objcopy --remove-section .BTF $driver /run/stripped.ko
mount --bind /run/stripped.ko $driver
sh $MLXLAB_GUEST/vfs up || exit 6
traced DWARF
sh $MLXLAB_GUEST/vfs down || exit 7
umount $driver
sh $MLXLAB_GUEST/vfs up
"""


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    """Return what ran already, by kernel: one run serves all tests."""
    return {}


@pytest.fixture
def out(kernel: str, labs: Labs, folders: dict[str, Path]) -> Path:
    """Migrate under the tracer, first with and then without BTF, and unload everything."""
    if kernel not in folders:
        lab = labs.on(kernel)
        done = lab.run("layouts", "sh", "-c", _SCRIPT)
        assert done.returncode == 0, done.stdout + done.stderr
        folders[kernel] = lab.out / "layouts"
    return folders[kernel]


def client_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "client.json").read_text()))


@pytest.mark.parametrize("kernel", [STOCK])
def test_the_stock_driver_has_no_precopy_and_migrates_all_the_same(out: Path) -> None:
    client = client_of(out / "BTF")
    assert (client["initial_images"], client["middle_images"]) == (0, 0)
    assert client["final_images"] == 1
    assert client["state_hashes_equal"] is True


@each_kernel
@each_way
def test_client_tracer_and_firmware_agree(out: Path, kernel: str, way: str) -> None:
    folder = out / way
    events = agreement.traced_events(folder / "trace.mlxrec")
    client = client_of(folder)
    rows = agreement.compare(client, events)
    assert rows
    assert [row for row in rows if not row.agrees] == []
    counters = dict(line.split() for line in (folder / "source.counters").read_text().splitlines())
    (saved,) = [event for event in events if event["type"] == "summary" and event["bdf"] == VF0]
    assert saved["saves"] == int(counters["save"])
    assert (saved["saves"] == 1) == (kernel == STOCK)
    assert (client["initial_images"] == 1) == (kernel == CARRIED)
    assert sum(saved["image_bytes"]) == int(counters["save_bytes"])


@each_kernel
@each_way
def test_where_the_layouts_come_from_and_what_is_absent_is_said(
    out: Path, kernel: str, way: str
) -> None:
    text = (out / way / "dry-run").read_text()
    assert f"layouts from {way} of " in text
    absent = [line.split()[0] for line in text.splitlines() if "absent" in line]
    lacks = ["precopy-ioctl", "data-size", "buffer-alloc", "buffer-free"]
    assert absent == ([] if kernel == CARRIED else lacks)
    (meta,) = [
        e for e in agreement.traced_events(out / way / "trace.mlxrec") if e["type"] == "meta"
    ]
    assert meta["kernel"].startswith("6.1.")
    attached = {p["name"]: p for p in meta["probes"] if p["state"] == "attached"}
    assert list(attached) == [probe.name for probe in PROBES if probe.name not in absent]
    for probe in PROBES:
        if probe.fentry:
            how, reason = (attached[probe.name][key] for key in ("how", "reason"))
            without = ("kprobe", "no BTF of mlx5_vfio_pci")
            assert (how, reason) == (("fentry", "") if way == "BTF" else without)


@each_kernel
@pytest.mark.parametrize("way", ["DWARF"])
def test_the_doctor_finds_this_host_well(out: Path, kernel: str, way: str) -> None:
    *findings, verdict = map(json.loads, (out / way / "doctor").read_text().splitlines())
    assert verdict["traceable"] is True
    assert verdict["missing"] == []
    listed = (out / way / "dry-run").read_text()
    by_topic = {finding["topic"]: finding for finding in findings}
    assert f"from the {way} of " in by_topic["layouts"]["said"]
    assert by_topic["program"]["verdict"] == "ok"
    for probe in PROBES:
        found = by_topic[f"probe {probe.name}"]
        absent = re.search(rf"^ +{probe.name} +absent", listed, re.MULTILINE)
        # Without BTF there is no fentry for what runs in interrupts.
        assert found["verdict"] == ("degraded" if absent or probe.interrupt else "ok"), found
    offers = "STOP_COPY P2P" if kernel == STOCK else "STOP_COPY P2P PRE_COPY"
    assert by_topic[f"vf {VF0}"]["said"].partition("migration ")[2].startswith(offers)


@each_kernel
@each_way
def test_the_downtime_is_split_into_phases(out: Path, kernel: str, way: str) -> None:
    del kernel
    events = agreement.traced_events(out / way / "trace.mlxrec")
    source, target = (
        next(e for e in events if e["type"] == "summary" and e["bdf"] == bdf)
        for bdf in (VF0, VF0[:-1] + "2")
    )
    phases = [
        source[key]
        for key in (
            "suspend_initiator_ns",
            "suspend_responder_ns",
            "final_query_ns",
            "final_buffer_ns",
            "final_wait_ns",
            "final_save_ns",
            "final_read_ns",
        )
    ]
    assert 0 < sum(phases) <= source["stopped_ns"]
    assert 0 < target["resume_fw_ns"] <= target["resume_ns"]
    assert 0 < target["final_load_ns"] <= target["load_fw_ns"]
