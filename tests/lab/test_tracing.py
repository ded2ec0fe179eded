# SPDX-License-Identifier: GPL-2.0-or-later
"""Tracers that come late, see several processes, are killed, or draw on a terminal."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace import agreement
from mlxtrace.content import MODULUS
from mlxtrace.report import report
from tests.lab.conftest import CARRIED, KERNEL, UNLOAD
from tests.lab.test_suite import VF0, VF1

if TYPE_CHECKING:
    from tests.lab.conftest import Lab, Labs

pytestmark = pytest.mark.lab


class Ran:
    """What guest/tracing.py found on a kernel, and its files."""

    def __init__(self, lab: Lab) -> None:
        self.folder = lab.out / "tracing"
        script = f"python -m tests.lab.guest.tracing {self.folder} && {UNLOAD}"
        done = lab.run("tracing", "sh", "-c", script, timeout_s=900)
        assert done.returncode == 0, done.stdout + done.stderr
        self.found: dict[str, Any] = json.loads((self.folder / "tracing.json").read_text())


@pytest.fixture(scope="module")
def runs() -> dict[str, Ran]:
    return {}


@pytest.fixture(params=[CARRIED, pytest.param(KERNEL, marks=pytest.mark.slow)])
def ran(request: pytest.FixtureRequest, labs: Labs, runs: dict[str, Ran]) -> Ran:
    """Run it; compiling for three tracers is most of the time, so one kernel is for all runs."""
    kernel = request.param
    if kernel not in runs:
        runs[kernel] = Ran(labs.on(kernel))
    return runs[kernel]


def of(events: list[dict[str, Any]], kind: str, bdf: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind and event.get("bdf") == bdf]


def test_a_session_that_began_before_the_trace_is_told_from_there_on(ran: Ran) -> None:
    late = ran.found["late"]
    assert late["status"] == 0, (ran.folder / "late/stderr").read_text()
    events = agreement.traced_events(ran.folder / "late/trace.mlxrec")
    pid, first = late["pids"][:2]
    saves = of(events, "save", VF0)
    assert len(saves) == late["late_saves"] + late["saves"][VF0]
    # What was saved and read before was not seen, and is not made up.
    assert late["early_saves"] == 1
    (whole,) = of(events, "summary", VF0)
    told = json.loads((ran.folder / "late/first.json").read_text())
    assert whole["read_bytes"] == late["late_bytes"] + told["read_bytes"]
    assert whole["final_ends"] == 2
    assert {each["pid"] for each in of(events, "state", VF0)} == {pid, first}


def test_two_processes_that_save_at_once_are_told_apart(ran: Ran) -> None:
    late = ran.found["late"]
    assert late["migrations"] == [0, 0]
    events = agreement.traced_events(ran.folder / "late/trace.mlxrec")
    for bdf, name in ((VF0, "first"), (VF1, "second")):
        told = json.loads((ran.folder / f"late/{name}.json").read_text())
        images = [each["image_bytes"] for each in of(events, "save", bdf)]
        assert images[-late["saves"][bdf] :] == told["image_bytes"]
        contents = of(events, "content", bdf)
        of_this = [each for each in contents if each["session"] == contents[-1]["session"]]
        total = sum(each["content_sum"] for each in of_this) % MODULUS
        samples = sum(each["samples"] for each in of_this)
        assert [total, samples] == late["contents"][name]
        assert {each["missed_samples"] for each in of_this} == {0}
    (second,) = of(events, "summary", VF1)
    told = json.loads((ran.folder / "late/second.json").read_text())
    assert (second["saves"], second["read_bytes"]) == (late["saves"][VF1], told["read_bytes"])
    assert {each["pid"] for each in of(events, "state", VF1)} == {late["pids"][2]}
    (lost,) = [event for event in events if event["type"] == "lost"]
    assert (lost["lost_records"], lost["missed_returns"], lost["untracked"]) == (0, 0, 0)


def test_vfs_that_are_bound_anew_have_their_own_totals(ran: Ran) -> None:
    renewed, folder = ran.found["renewed"], ran.folder / "renewed"
    assert renewed["status"] == 0, (folder / "stderr").read_text()
    assert set(renewed["migrations"]) == {0}
    told = [json.loads(path.read_text()) for path in sorted(folder.glob("client-*.json"))]
    events = agreement.traced_events(folder / "trace.mlxrec")
    for bdf in (VF0, VF1):
        (seen,) = of(events, "summary", bdf)
        saved = [each for each in told if each["source"] == bdf]
        loaded = [each for each in told if each["target"] == bdf]
        assert seen["read_bytes"] == sum(each["read_bytes"] for each in saved)
        assert seen["written_bytes"] == sum(each["written_bytes"] for each in loaded)
        assert (seen["final_ends"], seen["gap_bytes"]) == (len(saved), 0)
        assert seen["image_bytes"] == [size for each in saved for size in each["image_bytes"]]
    # Whether one comes to be where the other was is the allocator's: test_native.py has it so.
    sums = {"read": 0, "write": 0}
    for each in events:
        if each["type"] == "content":
            sums[each["direction"]] += each["content_sum"]
    assert sums["read"] % MODULUS == sums["write"] % MODULUS != 0


def test_a_tracer_that_is_killed_leaves_no_probe_and_a_recording(ran: Ran) -> None:
    killed = ran.found["killed"]
    assert killed["status"] == -9
    assert killed["migration"] == 0
    assert killed["attached"] > 0
    assert killed["left"] == []
    text = io.StringIO()
    report(ran.folder / "killed/trace.mlxrec", text)
    assert " STATE " in text.getvalue()


def test_ctrl_c_ends_the_dashboard_with_the_closing_summary(ran: Ran) -> None:
    dashboard = ran.found["dashboard"]
    screen = (ran.folder / "dashboard/screen").read_text(errors="replace")
    assert dashboard["status"] == 0, screen
    assert dashboard["migration"] == 0
    closing = dashboard["closing"]
    told = json.loads((ran.folder / "dashboard/client.json").read_text())
    assert f"{VF0} saved {len(told['image_bytes'])} images" in closing
    assert f"{VF1} loaded {len(told['image_bytes'])} images" in closing
    assert "lost 0 (ring)" in closing
    assert "Traceback" not in screen
    assert dashboard["cursor_shown"] is True
    assert dashboard["left"] == []
