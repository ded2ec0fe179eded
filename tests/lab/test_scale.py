# SPDX-License-Identifier: GPL-2.0-or-later
"""Much at once, and much in a row: 8 VFs that migrate to 8 others, and a stream of 10 GB."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.conftest import CARRIED, REPOSITORY, mlxlab

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.conftest import Labs

pytestmark = pytest.mark.lab

on_carried = pytest.mark.parametrize("kernel", [CARRIED])
MIB = 1 << 20


@on_carried
@pytest.mark.parametrize(
    ("stream_bytes", "state_bytes"),
    [
        pytest.param(256 * MIB, 8 * MIB, id="256 MiB", marks=pytest.mark.slow),
        pytest.param(10**10, 64 * MIB, id="10 GB", marks=pytest.mark.slow),
    ],
)
def test_a_long_stream_takes_bounded_kernel_memory(
    labs: Labs, kernel: str, stream_bytes: int, state_bytes: int
) -> None:
    lab = labs.on(kernel)
    name = f"long-{stream_bytes // MIB}"
    result = lab.out / name / "result.json"
    words = ["python", "-m", "tests.lab.guest.scale", str(result), "long"]
    words += [str(stream_bytes), str(state_bytes)]
    done = lab.run(name, *words, timeout_s=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    assert found["state_hashes_equal"] is True
    assert found["read_bytes"] == found["written_bytes"] > stream_bytes
    # The source holds one image and what it has set aside for the last one, an eighth more than the
    # state; the target one image. A hundredth of it is for lists of pages and commands, the rest
    # for files, threads and page tables.
    image = max(found["image_bytes"])
    bound = (1 + 9 / 8 + 1) * image * 1.01 + 2 * MIB
    assert image < found["most_kernel_bytes"] < bound
    assert found["left_kernel_bytes"] < MIB
    # Nothing of it escapes the cgroup: the whole guest has little less than before.
    assert found["used_bytes"] < bound + 32 * MIB


@on_carried
@pytest.mark.slow
@pytest.mark.usefixtures("no_lab")
def test_eight_vfs_migrate_to_eight_others_at_once(kernel: str, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    words = mlxlab("run", "--kernel", kernel, "--vfs", "16", "--out", tmp_path, "--timeout", "400")
    done = subprocess.run(
        [*words, "--", "python", "-m", "tests.lab.guest.scale", str(result), "at-once"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(result.read_text())
    assert len({each["source"] for each in found} | {each["target"] for each in found}) == 16
    for each in found:
        assert each["result"] == "done", each.get("error")
        assert each["state_hashes_equal"] is True
        assert (each["initial_images"], each["final_images"]) == (1, 1)
        assert each["middle_images"] >= 2
    # Different states went different ways.
    assert len({each["source_state_hash"] for each in found}) == 8
