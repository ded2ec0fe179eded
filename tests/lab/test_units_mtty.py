# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab with mtty instead of VFs: what it is built of and needs, and what does not go with it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error, UsageError
from mlxlab import mtty, needs, tree
from mlxlab.table import Entry
from mlxpatch import kernels
from mlxpatch.progress import Progress
from tests.lab.conftest import mlxlab

if TYPE_CHECKING:
    from pathlib import Path

    from mlxpatch.kernels import Kernel, Source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Kernel sources with an mtty that migrates."""
    folder = tmp_path / "linux"
    (folder / "samples/vfio-mdev").mkdir(parents=True)
    (folder / "samples/vfio-mdev/mtty.c").write_text("static const struct vfio_migration_ops x;\n")
    return folder


def test_it_is_built_from_the_kernels_samples(source: Path) -> None:
    recipe = mtty.recipe(source, "Linux 6.12")
    assert recipe.folders == {"samples/vfio-mdev": source / "samples/vfio-mdev"}
    assert recipe.config == {"CONFIG_SAMPLE_VFIO_MDEV_MTTY": "m"}


def test_one_without_migration_is_refused(source: Path) -> None:
    (source / "samples/vfio-mdev/mtty.c").write_text("int x;\n")
    with pytest.raises(Error, match=r"the mtty driver of Linux 6\.1 offers no migration") as caught:
        mtty.recipe(source, "Linux 6.1")
    assert "--kernel upstream-6.12" in caught.value.hint
    (source / "samples/vfio-mdev/mtty.c").unlink()
    with pytest.raises(Error, match=r"Linux 6\.1 has no mtty"):
        mtty.recipe(source, "Linux 6.1")


def test_the_kernel_must_have_mediated_devices_for_it() -> None:
    lacking = set(needs.missing({}, (), "mtty")) - set(needs.missing({}, ()))
    assert lacking == {"CONFIG_VFIO_MDEV=y or m is missing: mtty makes mediated devices"}


def test_a_kernel_of_the_table_is_asked_for_it_before_anything_is_built(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "samples/vfio-mdev/mtty.c").unlink()

    def ensure(*_: object, **__: object) -> tuple[Kernel, Source]:
        return kernels.Kernel("6.1.0", "6.1", tmp_path), kernels.Source("6.1", "6.1", source)

    monkeypatch.setattr(kernels, "ensure", ensure)
    with pytest.raises(Error, match=r"linux-source-6\.1\) has no mtty"):
        tree.prepare(Entry("old", "", "6.1", "stock"), Progress("tests"), device="mtty")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--vfs", "13"], "--vfs 13: mtty has ports for 12 devices"),
        (["--fw", "latency_us=1"], "no firmware"),
        (["--profile", "slow"], "no firmware"),
    ],
)
def test_what_does_not_go_with_it_is_a_usage_error(words: list[str], said: str) -> None:
    command = [*mlxlab("run", "--device", "mtty"), *words, "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr


def test_so_many_devices_can_be_made() -> None:
    mtty.check_count(mtty.MAX_DEVICES)
    with pytest.raises(UsageError):
        mtty.check_count(mtty.MAX_DEVICES + 1)
