# SPDX-License-Identifier: GPL-2.0-or-later
"""What VFIO's core tells of any driver's migrations, on mlx5's, where there are other witnesses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace import agreement
from mlxtrace.catalogue import GENERIC
from tests.lab.conftest import CARRIED, KERNEL, STOCK, UNLOAD

if TYPE_CHECKING:
    from tests.lab.conftest import Labs

pytestmark = pytest.mark.lab

VF0, VF1 = "0000:01:00.1", "0000:01:00.2"
_SCRIPT = """
cd $MLXLAB_OUT
mlxtrace precopy --driver any -d $MLXLAB_VF0 -d $MLXLAB_VF1 -w trace.mlxrec -c \
    "mlxtrace migrate --source $MLXLAB_VF0 --target $MLXLAB_VF1 --json client.json" || exit
cd /
"""


# VFIO's core is the same under all of them, and each boot of the tracer takes its time.
@pytest.mark.slow
@pytest.mark.parametrize("kernel", [KERNEL, STOCK, CARRIED])
def test_the_core_and_the_client_agree(labs: Labs, kernel: str) -> None:
    lab = labs.on(kernel)
    done = lab.run("any-driver", "sh", "-c", _SCRIPT + UNLOAD)
    assert done.returncode == 0, done.stdout + done.stderr
    out = lab.out / "any-driver"
    client: dict[str, Any] = json.loads((out / "client.json").read_text())
    events = agreement.traced_events(out / "trace.mlxrec")
    source, target = (
        next(e for e in events if e["type"] == "summary" and e["bdf"] == bdf) for bdf in (VF0, VF1)
    )
    for key in ("read_bytes", "ioctls", "temporary_ends", "final_ends"):
        assert source[key] == client[key], key
    assert target["written_bytes"] == client["written_bytes"] > 0
    assert (source["gap_bytes"], target["gap_bytes"]) == (0, 0)
    assert (source["sessions"], target["sessions"]) == (1, 1)
    lost = events[-1]
    assert (lost["lost_records"], lost["missed_returns"], lost["untracked"]) == (0, 0, 0)
    arcs = [e["new_state"] for e in events if e["type"] == "state" and e["bdf"] == VF1]
    # The way to RESUMING leads through STOP, where the VF comes to rest.
    assert arcs == ["RUNNING_P2P", "STOP", "RESUMING", "STOP", "RUNNING_P2P", "RUNNING"]
    absent = [probe["name"] for probe in events[0]["probes"] if probe["state"] != "attached"]
    assert absent == (["precopy-ioctl"] if kernel == STOCK else [])
    assert len(events[0]["probes"]) == len(GENERIC)
