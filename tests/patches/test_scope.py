# SPDX-License-Identifier: GPL-2.0-or-later
"""As little is built as a series needs, with the headers that it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error
from mlxpatch import scope

if TYPE_CHECKING:
    from pathlib import Path

DRIVER = "drivers/vfio/pci/mlx5/main.c"
CORE = "drivers/vfio/vfio_main.c"
IFC = "include/linux/mlx5/mlx5_ifc.h"
UAPI = "include/uapi/linux/vfio.h"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "linux"
    for name, text in {
        "drivers/vfio/pci/mlx5/Makefile": "",
        DRIVER: "",
        CORE: "",
        IFC: '#include "mlx5_ifc_fpga.h"\n',
        "include/linux/mlx5/mlx5_ifc_fpga.h": "",
        "include/linux/mlx5/driver.h": "",
        "include/linux/vfio.h": "#include <uapi/linux/vfio.h>\n",
        UAPI: "",
        "include/uapi/linux/iommufd.h": "",
        "drivers/net/ethernet/mellanox/mlx5/core/cmd.c": "",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def overlay(work: Path) -> list[str]:
    folder = work / "include"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.h"))


@pytest.mark.parametrize(
    ("touched", "places", "headers"),
    [
        ([], scope.DRIVER, []),
        ([DRIVER], scope.DRIVER, []),
        ([DRIVER, IFC], scope.DRIVER, ["linux/mlx5/mlx5_ifc.h", "linux/mlx5/mlx5_ifc_fpga.h"]),
        ([CORE], scope.VFIO, []),
        # In front of the kernel's own folders, uapi/linux/vfio.h must not hide linux/vfio.h.
        ([UAPI], scope.VFIO, ["uapi/linux/vfio.h"]),
        (["include/linux/vfio.h", DRIVER], scope.VFIO, ["linux/vfio.h"]),
        # <linux/iommufd.h> is the one in uapi, since there is no other.
        (
            ["include/uapi/linux/iommufd.h"],
            scope.VFIO,
            ["linux/iommufd.h", "uapi/linux/iommufd.h"],
        ),
        ([DRIVER, "Documentation/driver-api/vfio.rst"], scope.DRIVER, []),
    ],
)
def test_what_is_built(
    tree: Path, tmp_path: Path, touched: list[str], places: str, headers: list[str]
) -> None:
    chosen = scope.choose(tree, touched, tmp_path)
    assert chosen.places == (places,)
    assert list(chosen.recipe.folders) == [places]
    assert overlay(tmp_path) == headers
    assert bool(chosen.recipe.includes) == bool(headers)
    assert chosen.remarks == ()


def test_what_the_build_does_not_show_is_said(tree: Path, tmp_path: Path) -> None:
    outside = "drivers/net/ethernet/mellanox/mlx5/core/cmd.c"
    shared = "include/linux/mlx5/driver.h"
    remarks = scope.choose(tree, [DRIVER, outside, shared], tmp_path).remarks
    assert remarks[0].startswith(f"{outside} is not built")
    assert remarks[1].startswith(f"{shared} is shared with mlx5_core")


def test_a_series_without_a_module_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(Error, match="touches nothing that is built as a VFIO module: fs/open"):
        scope.choose(tree, ["fs/open.c"], tmp_path)
