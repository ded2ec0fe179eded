# SPDX-License-Identifier: GPL-2.0-or-later
"""The summary of ``mlxtrace migrate`` for programs: where it goes, and where it cannot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from mlxtrace.vfio import State

from .fake_faults import Faults
from .fake_kernel import BDF, OTHER_BDF

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .fake_device import FakeDevice


def test_text_and_json_file(
    run: Callable[..., tuple[int, str, str]], vfs: dict[str, FakeDevice], tmp_path: Path
) -> None:
    path = tmp_path / "summary.json"
    status, out, err = run("--source", BDF, "--target", OTHER_BDF, "--json", str(path))
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"migrated: {BDF} -> {OTHER_BDF}"
    assert max(map(len, lines)) <= 126, "the downtime in its parts, each of them long"
    assert any(line.startswith("downtime ") for line in lines)
    assert not any("hash" in line for line in lines), "silent without the lab"
    summary = json.loads(path.read_text())
    assert summary["result"] == "done"
    assert summary["middle_images"] >= 2
    assert all(each.closed for each in vfs.values())


def test_json_to_stdout_is_one_line(
    run: Callable[..., tuple[int, str, str]], vfs: dict[str, FakeDevice]
) -> None:
    status, out, _ = run("--source", BDF, "--target", OTHER_BDF, "--json", "-")
    assert status == 0
    assert json.loads(out)["source_state"].startswith("STOP")
    assert vfs[OTHER_BDF].current is State.RUNNING


def test_a_place_for_the_summary_that_does_not_exist(
    run: Callable[..., tuple[int, str, str]], vfs: dict[str, FakeDevice], tmp_path: Path
) -> None:
    target = tmp_path / "none/summary.json"
    status, _, err = run("--source", BDF, "--target", OTHER_BDF, "--json", str(target))
    assert status == 1
    assert "cannot write" in err
    assert vfs[BDF].log == [State.RUNNING], "it is noticed before anything is done"


@pytest.mark.parametrize("fails", [False, True])
def test_a_summary_that_cannot_be_written_is_a_failure(
    run: Callable[..., tuple[int, str, str]], vfs: dict[str, FakeDevice], fails: bool
) -> None:
    """Whoever reads it would take what is there for this run's."""
    if fails:
        vfs[BDF].faults = Faults(read_error_at=1000)
    status, out, err = run("--source", BDF, "--target", OTHER_BDF, "--json", "/dev/full")
    assert status == 1
    assert "cannot write /dev/full: No space left on device" in err
    assert out.splitlines()[0].startswith("FAILED: " if fails else "migrated: ")
    assert ("reading migration data: ENODEV" in err) is fails
