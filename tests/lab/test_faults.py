# SPDX-License-Identifier: GPL-2.0-or-later
"""Every fault that the firmware can be told to have is seen to act, and does not outlast itself."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.conftest import CARRIED, GUEST, KERNEL, REPOSITORY, STOCK, UNLOAD

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
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


# The same on 6.1's driver, where there is one image, the final one, that is loaded when RESUMING
# ends. It does not wake a reader when a SAVE fails, so that the client gives up waiting.
_UNWOKEN = "no data for 3 s, in image 1 (final)"
STOCK_FAILURES = {
    "query": ("setting state STOP_COPY: EINVAL", "status 0x3, syndrome 0xabc001"),
    "suspend-initiator": ("setting state RUNNING_P2P: EIO", "status 0x4, syndrome 0xabc002"),
    "suspend-responder": ("setting state STOP: EIO", "status 0x4, syndrome 0xabc003"),
    "resume-responder": ("setting state RUNNING_P2P: EIO", "status 0x4, syndrome 0xabc004"),
    "resume-initiator": ("setting state RUNNING: EIO", "status 0x4, syndrome 0xabc005"),
    "save-initial": (_UNWOKEN, ""),
    "save-final": (_UNWOKEN, ""),
    "save-every": (_UNWOKEN, ""),
    "load": ("setting state STOP: EINVAL", "status 0x5, syndrome 0xabc00a"),
    "save-undelivered": (_UNWOKEN, ""),
    "save-refused-at-once": ("setting state STOP_COPY: EAGAIN", ""),
    "load-undelivered": ("setting state STOP: EIO", "-5"),
    "save-never": (_UNWOKEN, ""),
    "load-never": ("setting state STOP: ETIMEDOUT", "-110"),
    "save-damaged": ("setting state STOP: EINVAL", "status 0x3, syndrome 0x1ab012"),
    "load-damaged": ("setting state STOP: EINVAL", "status 0x3, syndrome 0x1ab012"),
    "disable-vf": (_UNWOKEN, ""),
    "no-pd": ("setting state STOP_COPY: ENOMEM", ""),
    "no-mkey": ("setting state STOP_COPY: ENOMEM", ""),
    "stop-copy-growth": (_UNWOKEN, ""),
}
STOCK_SURVIVED = {"save-at-once": "", "save-slow": "", "load-slow": ""}

# The carried series says of a SAVE that was not executed why; upstream's driver says nothing.
CARRIED_FAILURES = {
    **FAILURES,
    "save-undelivered": ("image 1 (initial)", "-5"),
    "save-never": ("image 1 (initial)", "-110"),
}

KERNELS = {
    KERNEL: (FAILURES, SURVIVED),
    STOCK: (STOCK_FAILURES, STOCK_SURVIVED),
    CARRIED: (CARRIED_FAILURES, SURVIVED),
}
# Every run has, on the carried series, those that strike different paths of the driver; --all has
# all of them on all kernels, which takes four minutes on each.
FEWER = (
    *("save-middle", "save-final", "load"),
    *("save-at-once", "save-slow", "save-never", "disable-vf", "no-mkey", "growth", "cleanup"),
)


def on_each(column: int) -> pytest.MarkDecorator:
    """Parametrise by kernel and by the cases in that column of its expectations."""
    return pytest.mark.parametrize(
        ("results", "name"),
        [
            pytest.param(
                kernel,
                name,
                marks=[] if kernel == CARRIED and name in FEWER else [pytest.mark.slow],
            )
            for kernel, columns in KERNELS.items()
            for name in columns[column]
        ],
        indirect=["results"],
    )


each_failure, each_survivor = on_each(0), on_each(1)


def _on(*kernels: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "results",
        [
            pytest.param(kernel, marks=[] if kernel == CARRIED else [pytest.mark.slow])
            for kernel in kernels
        ],
        indirect=True,
    )


each_precopy, each_kernel = _on(KERNEL, CARRIED), _on(*KERNELS)


@dataclass(frozen=True)
class Ran:
    """How guest/faults.py ended on a kernel, what it wrote, and how unloading everything ended."""

    done: subprocess.CompletedProcess[str]
    results: Results
    unload: subprocess.CompletedProcess[str]


def run_on(lab: Lab, names: Sequence[str]) -> Ran:
    """Run the cases ``names`` of guest/faults.py, or all, and unload everything."""
    file = lab.out / "faults/faults.json"
    # Upstream's driver may free a PD under a live mkey when a SAVE fails and the session ends at
    # once; nothing else is forgiven.
    done = lab.run(
        "faults",
        *("python", "-m", "tests.lab.guest.faults"),
        file,
        *names,
        options=["--allow", "pd_busy"] if lab.kernel == KERNEL else [],
    )
    found = json.loads(file.read_text()) if file.exists() else {}
    unload = lab.run("faults-unload", "sh", "-c", UNLOAD)
    return Ran(done, {**found, "kernel": lab.kernel}, unload)


@pytest.fixture(scope="module")
def runs() -> dict[str, Ran]:
    """Return what ran already, by kernel: one run serves all tests."""
    return {}


@pytest.fixture
def results(request: pytest.FixtureRequest, labs: Labs, runs: dict[str, Ran]) -> Results:
    """Run the cases of guest/faults.py on a kernel."""
    kernel = request.param
    if kernel not in runs:
        fewer = not request.config.getoption("--all")
        runs[kernel] = run_on(labs.on(kernel), FEWER if fewer else ())
    ran = runs[kernel]
    assert ran.done.returncode == 0, ran.done.stdout + ran.done.stderr
    assert ran.unload.returncode == 0, ran.unload.stderr
    return ran.results


def cases(results: Results) -> dict[str, dict[str, Any]]:
    return {name: case for name, case in results.items() if isinstance(case, dict)}


def said(result: Results) -> list[str]:
    return [text for _, text in [*result["refused"], *result["undelivered"]]]


@each_failure
def test_a_fault_fails_the_migration_and_is_named(name: str, results: Results) -> None:
    error, firmware = KERNELS[results["kernel"]][0][name]
    result = results[name]
    assert result["status"] == 1
    assert result["hits"] in (None, 1)
    assert error in result["stderr"].splitlines()[0]
    assert "Traceback" not in result["stderr"]
    assert not firmware or firmware in said(result)


@each_survivor
def test_a_fault_that_a_migration_survives(name: str, results: Results) -> None:
    result = results[name]
    firmware = KERNELS[results["kernel"]][1][name]
    assert result["status"] == 0, result["stderr"]
    assert result["hits"] >= 1
    assert "equal" in result["stdout"]
    assert not firmware or firmware in said(result)


@each_kernel
def test_the_kernel_sees_the_callback_come_when_it_is_told_to(results: Results) -> None:
    for name, case in cases(results).items():
        at_once = [save["at_once"] for save in case.get("saves", [])]
        assert all(at_once) if name == "save-at-once" else not any(at_once), name
    assert results["save-at-once"]["saves"]
    assert results["save-slow"]["saves"][0]["seconds"] >= 0.4
    assert results["save-never"]["saves"][0]["seconds"] >= 1.5
    if "load-slow" in results:
        assert results["load-slow"]["load_seconds"][0] >= 0.4
        assert results["load-never"]["load_seconds"][0] >= 1.5


@each_precopy
def test_a_state_that_outgrows_its_query_is_refused(results: Results) -> None:
    grown = said(results["growth"])
    assert grown.count("status 0x9, syndrome 0x1ab00c") >= 2
    assert "image 1 (final)" in results["growth"]["stderr"]


@each_precopy
def test_the_cleanup_of_a_cancelled_precopy_can_fail(results: Results) -> None:
    assert results["cleanup"]["hits"] == 1
    # The VF runs, which is what was asked for: the carried series tries again when it next can.
    said = "ok" if results["kernel"] == CARRIED else "setting state RUNNING: EIO"
    assert said in results["cleanup"]["said"]


@each_kernel
def test_no_fault_outlasts_itself(results: Results) -> None:
    for name, case in cases(results).items():
        assert case["after"]["status"] == 0, (name, case["after"]["stderr"])
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
        "disable_vf",
    ):
        assert kind in text


def counters(path: Path) -> dict[str, int]:
    """Return the counters in what `mlxlab fw` printed."""
    lines = [line.split() for line in path.read_text().splitlines() if line.startswith("counters")]
    return {words[1]: int(words[2]) for words in lines}


# In every run test_cross_kernel.py has streams of chunks, and firmware without capabilities.
@pytest.mark.slow
@pytest.mark.parametrize("kernel", [KERNEL, CARRIED])
def test_chunks_and_capabilities(labs: Labs, kernel: str) -> None:
    """Chunk mode, and a driver that finds capabilities missing."""
    lab = labs.on(kernel)
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
    for capability in tracking_state multi_load; do
        mlxlab fw $MLXLAB_PF $capability=0
        rebind
        migrate --json $MLXLAB_OUT/without-$capability.json 2>$MLXLAB_OUT/without-$capability
        mlxlab fw $MLXLAB_PF $capability=1
    done
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
    chunks = after["save_chunk"] - before["save_chunk"]
    # The whole state of 8 MiB in chunks of 1 MiB, the last of them the final image. The carried
    # series asks for no chunks.
    assert chunks >= 7 if kernel == KERNEL else chunks == 0
    assert after["save_final"] - before["save_final"] == 2
    refused = ["not-migratable"]
    for name in ("without-tracking_state", "without-multi_load"):
        if kernel == CARRIED:
            # As before the series: one image. Upstream offers no migration at all since 6.9.
            client = json.loads((out / f"{name}.json").read_text())
            assert (client["initial_images"], client["final_images"]) == (0, 1)
            assert client["state_hashes_equal"] is True
        else:
            refused.append(name)
    for name in refused:
        error = (out / name).read_text()
        assert "0000:01:00.1" in error
        assert "migration" in error
        assert "Traceback" not in error
