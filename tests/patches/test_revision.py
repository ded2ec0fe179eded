# SPDX-License-Identifier: GPL-2.0-or-later
"""A revision is frozen whole or not at all, and what changed since the last is drafted."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from genbindings.errors import Error, UsageError
from mlxpatch import checksums, revision
from tests.patches import carried

SCRIPT = str(Path(sys.executable).parent / "mlxpatch")


def second(work: Path, folder: Path) -> None:
    """Put version 2 in the place of version 1: one patch changed, one dropped, one new."""
    first, hold, _ = carried.TINY_STEPS
    changed = carried.changed((first, hold), 1, "sizeof", "1 * sizeof")
    new = carried.Step("vfio: Add a licence", ((carried.TINY, "", 'MODULE_INFO(lab, "2");\n'),))
    made, _ = carried.tiny(work, (*changed, new), version=2)
    for path in folder.glob("*.patch"):
        path.unlink()
    for path in made.iterdir():
        shutil.copy(path, folder)


def test_two_revisions(tmp_path: Path) -> None:
    folder, tree = carried.tiny(tmp_path)
    names = {path.name for path in folder.iterdir()}
    first = revision.freeze(folder, None, carried.PROGRESS)
    assert (first.folder, first.changes, first.range_diff) == (folder / "revisions/v1", "", None)
    assert {path.name for path in first.folder.iterdir()} == {*names, checksums.NAME}
    # Oracle: sha256sum itself.
    subprocess.run(["sha256sum", "--quiet", "-c", checksums.NAME], cwd=first.folder, check=True)
    with pytest.raises(Error, match="the patches say v1, and v1 is frozen already"):
        revision.freeze(folder, str(tree), carried.PROGRESS)
    second(tmp_path, folder)
    command = [SCRIPT, "new-revision", str(folder), "--base", str(tree)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "Changes since v1:\n"
        "- patch 1, vfio: Describe a sample: unchanged\n"
        "- patch 2, vfio: Hold the size of a sample: changed: TODO say what and why\n"
        "- v1 patch 3, vfio: Say that there are samples: dropped: TODO say why\n"
        "- patch 3, vfio: Add a licence: new: TODO say why\n"
    )
    text = (folder / "revisions/range-diff-v1-v2.txt").read_text()
    assert "1 * sizeof" in text
    assert checksums.differences(folder / "revisions/v2") == []
    assert checksums.differences(folder / "revisions/v1") == []


def test_a_changed_frozen_revision_is_not_built_upon(tmp_path: Path) -> None:
    folder, tree = carried.tiny(tmp_path)
    frozen = revision.freeze(folder, None, carried.PROGRESS).folder
    (frozen / "series").write_text("0001.patch\n")
    second(tmp_path, folder)
    with pytest.raises(Error, match="revisions/v1/series was changed"):
        revision.freeze(folder, str(tree), carried.PROGRESS)
    assert not (folder / "revisions/v2").exists()


def test_nothing_is_left_of_a_revision_that_does_not_apply(tmp_path: Path) -> None:
    folder, tree = carried.tiny(tmp_path)
    revision.freeze(folder, None, carried.PROGRESS)
    second(tmp_path, folder)
    patch = next(folder.glob("0002-*"))
    patch.write_text(patch.read_text().replace(" MODULE_DESC", " MODULE_DISC"))
    with pytest.raises(Error, match=r"0002-.* does not apply: drivers/vfio/tiny\.c, hunk #1"):
        revision.freeze(folder, str(tree), carried.PROGRESS)
    assert [path.name for path in (folder / "revisions").iterdir()] == ["v1"]


def test_an_inconsistent_series_is_not_frozen(tmp_path: Path) -> None:
    folder, _ = carried.tiny(tmp_path)
    shutil.copy(next(folder.glob("0003-*")), folder / "0004-more.patch")
    with pytest.raises(Error, match=r"0004-more\.patch is there, and not listed"):
        revision.freeze(folder, None, carried.PROGRESS)
    assert not (folder / "revisions").exists()


def test_only_a_folder_can_be_frozen(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only a folder can be frozen"):
        revision.require_folder(tmp_path)
