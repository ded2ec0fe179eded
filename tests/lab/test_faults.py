# SPDX-License-Identifier: GPL-2.0-or-later
"""Every fault that the firmware can be told to have is seen to act, and does not outlast itself."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.conftest import GUEST, KERNEL, REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.conftest import Lab, Labs

pytestmark = pytest.mark.lab

Results = dict[str, Any]

# What a migration under a fault ends with: its status, a piece of its error, and what the firmware
# said to the driver (status and syndrome of a refusal, errno of a command that was not delivered).
FAILURES = {
    "suspend-initiator": ("setting state PRE_COPY_P2P: EIO", "status 0x4, syndrome 0xabc002"),
    "suspend-responder": ("setting state STOP_COPY: EIO", "status 0x4, syndrome 0xabc003"),
    "resume-responder": ("setting state RUNNING_P2P: EIO", "status 0x4, syndrome 0xabc004"),
    "resume-initiator": ("setting state RUNNING: EIO", "status 0x4, syndrome 0xabc005"),
    "save-initial": ("image 1 (initial)", "status 0x5, syndrome 0xabc006"),
    "save-final": ("reading migration data: ENODEV", "status 0x5, syndrome 0xabc008"),
    "save-every": ("image 1 (initial)", "status 0x5, syndrome 0xabc009"),
    "load": ("writing migration data: EINVAL", "status 0x5, syndrome 0xabc00a"),
    "save-undelivered": ("image 1 (initial)", ""),
    "save-refused-at-once": ("setting state PRE_COPY: EAGAIN", ""),
    "load-undelivered": ("writing migration data: EIO", "-5"),
    "save-never": ("image 1 (initial)", ""),
    "load-never": ("writing migration data: ETIMEDOUT", "-110"),
    "save-damaged": ("writing migration data: EINVAL", "status 0x3, syndrome 0x1ab012"),
    "load-damaged": ("writing migration data: EINVAL", "status 0x3, syndrome 0x1ab012"),
    "disable-vf": ("0000:01:00.1: ", ""),
    "no-pd": ("setting state RESUMING: ENOMEM", ""),
    "no-mkey": ("setting state PRE_COPY: ENOMEM", ""),
    "stop-copy-growth": ("reading migration data: ENODEV", "status 0x9, syndrome 0x1ab00c"),
}
# Faults that a migration survives.
SURVIVED = {
    "query": "status 0x3, syndrome 0xabc001",
    "save-middle": "status 0x9, syndrome 0xabc007",
    "save-at-once": "",
    "save-slow": "",
    "load-slow": "",
}


@pytest.fixture(scope="module")
def results(labs: Labs) -> Results:
    """Run every case of guest/faults.py."""
    lab = labs.on(KERNEL)
    out = lab.out / "faults"
    # Upstream's driver may free a PD under a live mkey when a SAVE fails and the session ends at
    # once; nothing else is forgiven.
    done = lab.run(
        "faults", "python", GUEST / "faults.py", out / "faults.json", options=["--allow", "pd_busy"]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads((out / "faults.json").read_text()))


def said(result: Results) -> list[str]:
    return [text for _, text in [*result["refused"], *result["undelivered"]]]


@pytest.mark.parametrize("name", FAILURES)
def test_a_fault_fails_the_migration_and_is_named(name: str, results: Results) -> None:
    error, firmware = FAILURES[name]
    result = results[name]
    assert result["status"] == 1
    assert result["hits"] in (None, 1)
    assert error in result["stderr"].splitlines()[0]
    assert "Traceback" not in result["stderr"]
    assert not firmware or firmware in said(result)


@pytest.mark.parametrize("name", SURVIVED)
def test_a_fault_that_a_migration_survives(name: str, results: Results) -> None:
    result = results[name]
    assert result["status"] == 0, result["stderr"]
    assert result["hits"] >= 1
    assert "equal" in result["stdout"]
    assert not SURVIVED[name] or SURVIVED[name] in said(result)


def test_a_state_that_outgrows_its_query_is_refused(results: Results) -> None:
    grown = said(results["growth"])
    assert grown.count("status 0x9, syndrome 0x1ab00c") >= 2
    assert "image 1 (final)" in results["growth"]["stderr"]


def test_the_cleanup_of_a_cancelled_precopy_can_fail(results: Results) -> None:
    assert results["cleanup"]["hits"] == 1
    assert "setting state RUNNING: EIO" in results["cleanup"]["said"]


def test_no_fault_outlasts_itself(results: Results) -> None:
    for name, result in results.items():
        if name != "objects":
            assert result["after"]["status"] == 0, (name, result["after"]["stderr"])
    assert results["objects"] == ["pds 0", "mkeys 0", "async 0"]


def test_every_place_and_every_kind_has_a_case() -> None:
    text = (GUEST / "faults.py").read_text()
    source = (REPOSITORY / "lab/firmware/faults.c").read_text()
    for place in source.partition("lab_where_names[")[2].partition("};")[0].split('"')[1::2]:
        assert re.search(rf'"{place} |fault={place} ', text), place
    for kind in (
        "status=",
        "syndrome=",
        "errno=",
        "submit_errno=",
        "delay_us=0",
        "never",
        "damage",
    ):
        assert kind in text


def counters(path: Path) -> dict[str, int]:
    """Return the counters in what `mlxlab fw` printed."""
    lines = [line.split() for line in path.read_text().splitlines() if line.startswith("counters")]
    return {words[1]: int(words[2]) for words in lines}


def test_chunks_and_capabilities(lab: Lab) -> None:
    """Chunk mode, and a driver that finds capabilities missing."""
    script = """
    mlxlab fw $MLXLAB_PF migration_in_chunks=1
    mlxlab fw $MLXLAB_VF0 chunk_bytes=1048576
    mlxlab fw $MLXLAB_VF0 >$MLXLAB_OUT/before
    migrate() { mlxtrace migrate --source $MLXLAB_VF0 --target $MLXLAB_VF1 "$@"; }
    rebind() {
        for vf in $MLXLAB_VFS; do echo $vf >/sys/bus/pci/drivers/mlx5_vfio_pci/unbind; done
        for vf in $MLXLAB_VFS; do echo $vf >/sys/bus/pci/drivers_probe; done
    }
    rebind
    migrate --json $MLXLAB_OUT/precopy.json
    migrate --no-precopy --json $MLXLAB_OUT/stop-copy.json
    mlxlab fw $MLXLAB_VF0 >$MLXLAB_OUT/counters
    mlxlab fw $MLXLAB_PF tracking_state=0
    rebind
    migrate 2>$MLXLAB_OUT/untracked
    mlxlab fw $MLXLAB_PF tracking_state=1
    mlxlab fw $MLXLAB_VF0 migratable=0
    rebind
    migrate 2>$MLXLAB_OUT/not-migratable
    mlxlab fw $MLXLAB_VF0 migratable=1
    rebind
    migrate >/dev/null
    status=$?
    sh $MLXLAB_GUEST/vfs down && sh $MLXLAB_GUEST/vfs up && exit $status
    """
    done = lab.run("chunks", "sh", "-c", script)
    out = lab.out / "chunks"
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("precopy", "stop-copy"):
        assert json.loads((out / f"{name}.json").read_text())["state_hashes_equal"] is True
    before, after = counters(out / "before"), counters(out / "counters")
    # The whole state of 8 MiB in chunks of 1 MiB, the last of them the final image.
    assert after["save_chunk"] - before["save_chunk"] >= 7
    assert after["save_final"] - before["save_final"] == 2
    for name in ("untracked", "not-migratable"):
        error = (out / name).read_text()
        assert "0000:01:00.1" in error
        assert "migration" in error
        assert "Traceback" not in error
