# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware's profiles behave as their names say."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace.migrate_policy import StopReason
from tests.lab.conftest import CARRIED, KERNEL, REPOSITORY, mlxlab

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("no_lab")]

# A profile is the firmware's; that another driver makes the same of it is worth no boot of its own
# in every run.
each_kernel = pytest.mark.parametrize(
    "kernel", [KERNEL, pytest.param(CARRIED, marks=pytest.mark.slow)]
)


def migrated(
    kernel: str, out: Path, profile: str, *options: str, fw: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Migrate once in a lab with ``profile``; return the client's summary."""
    words = mlxlab("run", "--kernel", kernel, "--out", out, "--profile", profile)
    words += [word for setting in fw for word in ("--fw", setting)]
    script = (
        "mlxlab fw $MLXLAB_VF0 >$MLXLAB_OUT/knobs && exec mlxtrace migrate --source $MLXLAB_VF0 "
        f"--target $MLXLAB_VF1 --json $MLXLAB_OUT/client.json {' '.join(options)}"
    )
    done = subprocess.run(
        [*words, "--timeout", "900", "--", "sh", "-c", script],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    client = dict(json.loads((out / "client.json").read_text()))
    assert client["state_hashes_equal"] is True
    return client


@each_kernel
def test_an_idle_vf_has_nothing_left_to_send(kernel: str, tmp_path: Path) -> None:
    client = migrated(kernel, tmp_path, "idle", fw=("latency_us=700",))
    assert client["middle_images"] == 0
    assert client["rounds"][-2]["dirty_bytes"] == 0
    assert "latency_us           700" in (tmp_path / "knobs").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [KERNEL, CARRIED])
def test_a_vf_that_never_converges_is_stopped_by_the_limit_of_rounds(
    kernel: str, tmp_path: Path
) -> None:
    client = migrated(kernel, tmp_path, "never-converges", "--max-rounds", "4")
    assert client["stop_reason"] == StopReason.MAX_ROUNDS
    # What is left never gets small: each middle image is nearly the whole working set again.
    assert min(client["image_bytes"][1:]) > 16 << 20


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [KERNEL, CARRIED])
def test_a_huge_image_is_above_512_mib(kernel: str, tmp_path: Path) -> None:
    client = migrated(kernel, tmp_path, "huge", "--no-precopy")
    assert client["image_bytes"][0] > 512 << 20
