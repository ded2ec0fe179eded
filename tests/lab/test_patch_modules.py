# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules of a patched tree load: as dkms builds them, and as mlxpatch installs them on a host."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from mlxpatch import build, dkms, drivers, kernels, modinfo
from mlxpatch.progress import Progress
from tests.lab.conftest import GUEST, STOCK
from tests.patches import small_series
from tests.patches.dkms_build import dkms_build

if TYPE_CHECKING:
    from pathlib import Path

    from mlxpatch.kernels import Kernel
    from tests.lab.conftest import Labs

pytestmark = [pytest.mark.lab, pytest.mark.slow]
PROGRESS = Progress("tests")


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return kernels.ensure("6.1", PROGRESS)[0]


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series that touches the VFIO core, its headers and the driver."""
    source = kernels.ensure_source("6.1", PROGRESS).root
    return small_series.make(source, tmp_path_factory.mktemp("series") / "v1", small_series.V1)


def test_what_dkms_builds_loads_beside_the_distributions_mlx5_core(
    labs: Labs, kernel: Kernel, series: Path, tmp_path: Path
) -> None:
    package = tmp_path / "package"
    goal = drivers.target(kernel.release, kernel.headers, None, PROGRESS)
    with drivers.prepared(series, goal.source, PROGRESS) as prepared:
        names = [path.stem for path in drivers.built(prepared, goal, PROGRESS).modules]
        dkms.write(prepared, names, "6.1", "1", package)
    modules = dkms_build(package, dkms.NAME, "1", kernel, tmp_path / "dkms")
    core = kernel.modules / "kernel/drivers/net/ethernet/mellanox/mlx5/core/mlx5_core.ko"
    lab = labs.on(STOCK)
    done = lab.run("dkms", "sh", GUEST / "beside_mlx5_core.sh", core, modules)
    assert done.returncode == 0, done.stdout + done.stderr
    out = lab.out / "dkms"
    loaded = {
        line.split()[0]: line.split()[3] for line in (out / "modules").read_text().splitlines()
    }
    assert "mlx5_lab" not in loaded
    # The driver really is linked with the distribution's module.
    assert "mlx5_vfio_pci" in loaded["mlx5_core"].split(",")
    assert "mlx5_vfio_pci" in (out / "drivers").read_text().split()
    for name, file in (
        ("mlx5_core", core),
        ("mlx5_vfio_pci", modules / "mlx5-vfio-pci.ko"),
        ("vfio", modules / "vfio.ko"),
    ):
        assert (out / f"{name}.build-id").read_text() == modinfo.read(file).build_id


@pytest.fixture(scope="module")
def installed(labs: Labs, kernel: Kernel, series: Path, tmp_path_factory: Any) -> Path:
    """Install the patched modules in the guest, migrate, and go back to the stock ones."""
    goal = drivers.target(kernel.release, kernel.headers, None, PROGRESS)
    firmware = build.build(build.lab_firmware(), kernel.headers, PROGRESS)
    folder = tmp_path_factory.mktemp("modules")
    with drivers.prepared(series, goal.source, PROGRESS) as prepared:
        for path in drivers.built(prepared, goal, PROGRESS, [firmware.symvers]).modules:
            shutil.copy2(path, folder)
    lab = labs.on(STOCK)
    done = lab.run("install", "sh", GUEST / "install.sh", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return lab.out / "install"


def status(out: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((out / name).read_text()))


def driver(out: Path, name: str) -> dict[str, Any]:
    modules = {module["name"]: module for module in status(out, name)["modules"]}
    return dict(modules["mlx5_vfio_pci"])


def test_installing_is_refused_while_a_vf_is_open(installed: Path) -> None:
    assert (installed / "refused.status").read_text() == "1\n"
    assert "error: a VF is in use: " in (installed / "refused").read_text()


def test_the_installed_modules_are_those_that_run_and_migrate(installed: Path) -> None:
    waiting = driver(installed, "not-yet-loaded.json")
    assert (waiting["ours"], waiting["loaded"], waiting["current"]) == (True, True, False)
    assert "loaded are still the earlier ones of" in (installed / "install").read_text()
    now = driver(installed, "installed.json")
    assert (now["ours"], now["loaded"], now["current"]) == (True, True, True)
    assert len(status(installed, "installed.json")["vfs"]) >= 2
    for module in status(installed, "installed.json")["modules"]:
        assert module["ours"]
        assert module["current"] in ((True,) if module["loaded"] else (None,))
    client = json.loads((installed / "ours.json").read_text())
    assert client["state_hashes_equal"] is True


def test_uninstalling_goes_back_to_the_stock_modules(installed: Path) -> None:
    back = driver(installed, "uninstalled.json")
    assert (back["ours"], back["loaded"], back["current"]) == (False, True, True)
    names = [module["name"] for module in status(installed, "uninstalled.json")["modules"]]
    assert names == ["mlx5_vfio_pci", "vfio"]
    client = json.loads((installed / "stock.json").read_text())
    assert client["state_hashes_equal"] is True
