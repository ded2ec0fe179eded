# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel of the table boots with where its drivers have a patch series. No VM."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from genbindings.dwarf import struct_layouts
from genbindings.errors import Error
from mlxlab import table, tree
from mlxpatch import build, kernels
from mlxpatch.progress import Progress
from tests.patches import small_series

if TYPE_CHECKING:
    from pathlib import Path

    from mlxlab.table import Entry

PROGRESS = Progress("tests", quiet=True)


@pytest.fixture
def carried(tmp_path: Path) -> Entry:
    """The table's kernel with a series, and a series of two patches as that."""
    source = kernels.ensure_source("6.1", PROGRESS).root
    folder = small_series.make(source, tmp_path / "carried", small_series.V1)
    return replace(table.load()["carried-6.1"], patches=str(folder))


def modinfo(module: Path, field: str) -> set[str]:
    done = subprocess.run(
        ["/sbin/modinfo", "-F", field, module], capture_output=True, text=True, check=True
    )
    return set(done.stdout.strip().split(","))


def test_it_boots_with_all_of_vfio_patched_and_linked_with_the_stand_in(carried: Entry) -> None:
    assert carried.obstacle == ""
    boot = tree.prepare(carried, PROGRESS)
    updates = {path.stem: path for path in (boot.modules / "updates").iterdir()}
    assert {"mlx5_lab", "mlx5-vfio-pci", "vfio", "vfio-pci-core", "vfio_iommu_type1"} <= set(
        updates
    )
    driver = updates["mlx5-vfio-pci"]
    assert modinfo(driver, "depends") == {"mlx5_lab", "vfio", "vfio-pci-core"}
    record = struct_layouts(driver, ["mlx5_vf_migration_file"])["mlx5_vf_migration_file"]
    assert "notes" in record.fields
    # Only a patched header has it; the headers' own one would have won without precedence.
    ops = struct_layouts(updates["vfio"], ["vfio_migration_ops"])["vfio_migration_ops"]
    assert "migration_note" in ops.fields
    # modprobe takes the patched ones, not those of the image.
    listed = (boot.modules / "modules.dep").read_text().splitlines()
    (line,) = [line for line in listed if line.startswith("updates/mlx5-vfio-pci.ko:")]
    assert set(line.partition(":")[2].split()) >= {"updates/mlx5_lab.ko", "updates/vfio.ko"}


def test_it_is_built_once_for_a_series_and_anew_for_another(
    carried: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tree.prepare(carried, PROGRESS)

    def refuse(recipe: build.Recipe, *_: object) -> None:
        raise Error(f"{recipe.name} is to be built")

    monkeypatch.setattr(build, "_build", refuse)
    assert tree.prepare(carried, PROGRESS) == first
    (patch,) = (tmp_path / "carried").glob("0002-*")
    patch.write_text(patch.read_text().replace("u64 notes;", "u64 others;"))
    with pytest.raises(Error, match="vfio is to be built"):
        tree.prepare(carried, PROGRESS)


def test_a_patch_that_does_not_fit_is_named(carried: Entry, tmp_path: Path) -> None:
    (patch,) = (tmp_path / "carried").glob("0002-*")
    patch.write_text(patch.read_text().replace(" struct mlx5_vf_migration_file {", " struct x {"))
    with pytest.raises(Error, match=f"patch {patch.name} does not apply: .*cmd.h"):
        tree.prepare(carried, PROGRESS)


def test_without_a_list_of_patches_there_is_no_series(carried: Entry, tmp_path: Path) -> None:
    (tmp_path / "carried/series").unlink()
    assert carried.obstacle == "no series yet"


def test_a_series_that_is_in_no_table_is_known_by_its_content(
    carried: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tree.prepare(carried, PROGRESS)
    mails = [path.read_bytes() for path in sorted((tmp_path / "carried").glob("*.patch"))]
    (tmp_path / "v1.mbox").write_bytes(b"".join(mails))

    def refuse(recipe: build.Recipe, *_: object) -> None:
        raise Error(f"{recipe.name} is to be built")

    monkeypatch.setattr(build, "_build", refuse)
    entry = table.of_series(str(tmp_path / "v1.mbox"))
    assert entry.obstacle == ""
    assert tree.prepare(entry, PROGRESS) == known
