# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware's profiles behave as their names say."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace.migrate_policy import StopReason
from tests.lab.conftest import KERNEL, REPOSITORY, mlxlab

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("no_lab")]


def migrated(out: Path, profile: str, *options: str, fw: tuple[str, ...] = ()) -> dict[str, Any]:
    """Migrate once in a lab with ``profile``; return the client's summary."""
    words = mlxlab("run", "--kernel", KERNEL, "--out", out, "--profile", profile)
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


def test_an_idle_vf_has_nothing_left_to_send(tmp_path: Path) -> None:
    client = migrated(tmp_path, "idle", fw=("latency_us=700",))
    assert client["middle_images"] == 0
    assert client["rounds"][-2]["dirty_bytes"] == 0
    assert "latency_us           700" in (tmp_path / "knobs").read_text()


def test_a_vf_that_never_converges_is_stopped_by_the_limit_of_rounds(tmp_path: Path) -> None:
    client = migrated(tmp_path, "never-converges", "--max-rounds", "4")
    assert client["stop_reason"] == StopReason.MAX_ROUNDS
    # What is left never gets small: each middle image is nearly the whole working set again.
    assert min(client["image_bytes"][1:]) > 16 << 20


@pytest.mark.slow
def test_a_huge_image_is_above_512_mib(tmp_path: Path) -> None:
    client = migrated(tmp_path, "huge", "--no-precopy")
    assert client["image_bytes"][0] > 512 << 20
