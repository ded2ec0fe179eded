# SPDX-License-Identifier: GPL-2.0-or-later
"""Two real QEMUs migrate a VF, and QEMU, the tracer and the firmware tell the same of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from mlxlab.vmm import outcome, scenarios, traced, verdict
from mlxtrace.events import Load, State
from tests.lab.conftest import CARRIED, KERNEL, REPOSITORY, mlxlab

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlxlab.vmm.scenarios import End
    from mlxlab.vmm.verdict import Run, Verdict
    from tests.lab.conftest import Labs

pytestmark = pytest.mark.lab


# What every run has, by kernel: a scenario for each way to an end, and what the carried series
# makes of the firmware's refusals. --all has all scenarios, two minutes more for each kernel.
FEWER = {
    KERNEL: ("switchover-ack", "cancel", "fail-final-query"),
    CARRIED: (
        "stopped",
        "switchover-ack",
        "cancel",
        "cancel-ack",
        "state-grew",
        "fail-final-query",
        "fail-resume",
    ),
}
# QEMU 10 asks for PRE_COPY_P2P and STOP_COPY with ERROR as the state to recover to: whatever became
# of the VF, it answers a refusal with a reset. A VF that could not be suspended must refuse.
QEMU_RESETS = ("fail-suspend", "fail-suspend-responder")
_ALL_ON_KERNEL = pytest.param(KERNEL, marks=pytest.mark.slow)
each_kernel = pytest.mark.parametrize("migrations", [KERNEL, CARRIED], indirect=True)
with_more_scenarios = pytest.mark.parametrize(
    "migrations", [_ALL_ON_KERNEL, CARRIED], indirect=True
)
each_scenario = pytest.mark.parametrize(
    ("migrations", "scenario"),
    [
        pytest.param(
            kernel,
            scenario,
            id=f"{kernel}-{scenario.name}",
            marks=[] if scenario.name in FEWER[kernel] else [pytest.mark.slow],
        )
        for kernel in (KERNEL, CARRIED)
        for scenario in scenarios.SCENARIOS
    ],
    indirect=["migrations"],
)


@dataclass(frozen=True)
class Migrations:
    """One boot with all scenarios, or with fewer."""

    kernel: str
    run: subprocess.CompletedProcess[str]
    out: Path
    verdicts: dict[str, Verdict]
    judged: Run

    def __getitem__(self, name: str) -> Verdict:
        assert name in self.verdicts, f"{name} did not run:\n{self.run.stdout}{self.run.stderr}"
        return self.verdicts[name]

    def result(self, name: str) -> dict[str, Any]:
        return self[name].result


def migrate(kernel: str, names: Sequence[str], out: Path) -> Migrations:
    """Run mlxlab qemu once."""
    options = [word for name in names for word in ("--scenario", name)]
    run = subprocess.run(
        mlxlab("qemu", "--kernel", kernel, "--out", out, *options),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert (out / "run.json").exists(), run.stdout + run.stderr
    judged = verdict.judge(out)
    verdicts = {one.scenario.name: one for one in judged.verdicts}
    return Migrations(kernel, run, out, verdicts, judged)


@pytest.fixture(scope="session")
def migrated() -> dict[str, Migrations]:
    """Return what ran already, by kernel: one run serves all tests."""
    return {}


@pytest.fixture
def migrations(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    labs: Labs,
    migrated: dict[str, Migrations],
) -> Migrations:
    """Run mlxlab qemu once on a kernel."""
    kernel = request.param
    if kernel not in migrated:
        labs.stop()
        names = () if request.config.getoption("--all") else FEWER[kernel]
        migrated[kernel] = migrate(kernel, names, tmp_path_factory.mktemp("qemu"))
    return migrated[kernel]


def figure(one: Verdict, name: str, witness: str = "tracer") -> Any:
    """Return the first figure ``name`` of a scenario, as ``witness`` tells it."""
    return next(getattr(row, witness) for row in one.rows if row.name.strip() == name)


def end_of(kernel: str, one: Verdict) -> End:
    """Return how a scenario ends on ``kernel``.

    The carried series can always be told to go back to RUNNING, and then switches tracking off;
    upstream's driver has to be reset after some failures, and leaves tracking on after one.
    """
    end = outcome.must_end(one.scenario, one.result)
    if kernel == KERNEL or end.migration == scenarios.COMPLETED:
        return end
    reset = one.scenario.name in QEMU_RESETS
    return replace(end, source_vf=scenarios.RESET if reset else scenarios.RUNNING, tracked=False)


@each_scenario
def test_a_scenario_ends_as_it_must_and_the_witnesses_agree(
    migrations: Migrations, scenario: scenarios.Scenario
) -> None:
    one = migrations[scenario.name]
    assert outcome.ended(one.result) == end_of(migrations.kernel, one)
    assert one.surprises == []
    assert one.disagreements == []


@pytest.mark.parametrize("migrations", [CARRIED], indirect=True)
def test_a_source_that_stays_runs_on(migrations: Migrations) -> None:
    stayed = [one for one in migrations.verdicts.values() if one.result["migration"] != "completed"]
    assert stayed
    for one in stayed:
        source = one.result["source"]
        assert source["vm"] == "running", one.scenario.name
        suspended = [source["status"][f"{what}_suspended"] for what in ("initiator", "responder")]
        assert suspended == [0, 0], one.scenario.name
        assert source["changing"] is True, one.scenario.name
        resets = one.scenario.name in QEMU_RESETS
        assert source["counters"]["reset"] == resets, one.scenario.name


@each_kernel
def test_the_run_ends_well_and_the_trace_is_whole(migrations: Migrations) -> None:
    # Neither a splat nor a firmware assertion: those have an exit status of their own.
    assert migrations.run.returncode == 0, migrations.run.stdout + migrations.run.stderr
    assert set(migrations.judged.losses.values()) == {0}
    assert migrations.judged.left_out == []
    assert "Traceback" not in migrations.run.stderr


@each_kernel
def test_a_precopy_migration_has_images_of_every_kind(migrations: Migrations) -> None:
    names = {"precopy", "switchover-ack", "multifd"} & set(migrations.verdicts)
    assert names
    for name in names:
        one = migrations[name]
        assert figure(one, "initial SAVEs", "firmware") == 1
        assert figure(one, "middle SAVEs", "firmware") >= one.scenario.images
        assert figure(one, "final SAVEs", "firmware") == 1
        assert figure(one, "precopy ioctls", "qemu") > one.scenario.images


@with_more_scenarios
def test_a_stopped_vm_has_one_image(migrations: Migrations) -> None:
    assert migrations["stopped"].images == "0+0+1"
    assert figure(migrations["stopped"], "precopy ioctls", "qemu") == 0


@each_kernel
def test_the_source_stops_only_after_the_target_has_loaded_the_initial_image(
    migrations: Migrations,
) -> None:
    result = migrations.result("switchover-ack")
    begin, end = result["begin"]["boot_ns"], result["end"]["boot_ns"]
    recording = traced.read(migrations.out / "trace.mlxrec")
    events = [event for event in recording.events if begin <= event.boot_ns <= end]
    loaded = next(event.boot_ns for event in events if isinstance(event, Load))
    stopping = next(
        event.start_boot_ns
        for event in events
        if isinstance(event, State) and event.new_state == "PRE_COPY_P2P"
    )
    assert loaded < stopping


@each_kernel
def test_a_cancelled_migration_leaves_nothing_behind(migrations: Migrations) -> None:
    for name in migrations.verdicts.keys() & {"cancel", "cancel-ack"}:
        one = migrations[name]
        assert figure(one, "source: states asked for") == "PRE_COPY RUNNING", name
        assert figure(one, "cleanup SAVEs", "firmware") == 1, name
        assert one.result["source"]["status"]["tracked"] == 0, name
    assert "cancel" in migrations.verdicts


@with_more_scenarios
def test_a_state_that_grew_is_sent_whole_at_the_end(migrations: Migrations) -> None:
    one = migrations["state-grew"]
    assert figure(one, "failed SAVEs", "firmware") == 1
    # The one before the failure, and none after it.
    assert figure(one, "middle SAVEs", "firmware") == 1
    assert figure(one, "bytes in images") > 2 * (8 << 20)


@with_more_scenarios
def test_a_guest_whose_vf_cannot_start_runs_with_a_reset_one(migrations: Migrations) -> None:
    target = migrations.result("fail-resume")["target"]
    source = migrations.result("fail-resume")["source"]
    assert target["state_hash"] == source["state_hash"]
    assert target["state_hash_at_end"] != source["state_hash"]


@each_kernel
def test_each_scenario_is_kept_side_by_side(migrations: Migrations) -> None:
    for name in migrations.verdicts:
        folder = migrations.out / name
        timeline = (folder / "timeline.txt").read_text()
        for who in ("source QEMU", "target QEMU", "0000:01:00.1 STATE", "firmware  0000:01:00.2"):
            assert who in timeline
        assert (folder / "figures.txt").stat().st_size > 0
        assert json.loads((folder / "result.json").read_text())["scenario"] == name


@pytest.mark.parametrize("migrations", [KERNEL], indirect=True)
@pytest.mark.parametrize(
    ("file", "old", "new", "noticed"),
    [
        ("source.log", "data_size 1048576", "data_size 1048575", "bytes read"),
        ("source.log", "state PRE_COPY_P2P", "state RUNNING", "source: states asked for"),
        ("target.log", "size 1048576 ret 0", "size 1048577 ret 0", "bytes written"),
        ("result.json", '"save_middle": ', '"save_middle": 1', "middle SAVEs"),
        ("result.json", '"save_bytes": ', '"save_bytes": 1', "bytes in images"),
    ],
)
def test_evidence_that_was_tampered_with_is_noticed(
    migrations: Migrations, tmp_path: Path, file: str, old: str, new: str, noticed: str
) -> None:
    copied = tmp_path / "run"
    shutil.copytree(migrations.out, copied)
    path = copied / "switchover-ack" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    judged = verdict.judge(copied)
    one = next(one for one in judged.verdicts if one.scenario.name == "switchover-ack")
    wrong = [row.name.strip() for row in one.disagreements]
    assert noticed in wrong
    assert not judged.good
