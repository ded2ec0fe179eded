# SPDX-License-Identifier: GPL-2.0-or-later
"""Small series on Linux 6.1 go through build, dkms and compare: real sources, real compiler."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genbindings.dwarf import struct_layouts
from mlxpatch import kernels, modinfo
from mlxpatch.progress import Progress
from tests.patches import small_series

SCRIPT = str(Path(sys.executable).parent / "mlxpatch")
STRUCT = "mlx5_vf_migration_file"
ALL = {"mdev", "mlx5-vfio-pci", "vfio", "vfio-pci", "vfio-pci-core", "vfio_iommu_type1"}


def mlxpatch(*words: str | Path) -> subprocess.CompletedProcess[str]:
    kernel = kernels.ensure("6.1", Progress("tests"))[0]
    command = [SCRIPT, *map(str, words), "--kernel", kernel.release]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the series v1, v2, fourteen and driver."""
    folder = tmp_path_factory.mktemp("series")
    source = kernels.ensure("6.1", Progress("tests"))[1].root
    for name, steps in (
        ("v1", small_series.V1),
        ("fourteen", small_series.FOURTEEN),
        ("v2", small_series.V2),
        ("driver", small_series.DRIVER_ONLY),
    ):
        small_series.make(source, folder / name, steps)
    return folder


@pytest.fixture(scope="module")
def mbox(series: Path) -> Path:
    """A series of 14 patches in one mailbox, as git format-patch --stdout makes it."""
    path = series / "fourteen.mbox"
    patches = sorted((series / "fourteen").glob("0*.patch"))
    assert len(patches) == 14
    path.write_bytes(b"\n".join(patch.read_bytes() for patch in patches))
    return path


@pytest.fixture(scope="module")
def core(mbox: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A series that touches the core and its headers, built from a mailbox."""
    out = tmp_path_factory.mktemp("core")
    for name in ("left-from-before.ko", "build.log"):
        (out / name).write_text("")
    done = mlxpatch("build", mbox, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_a_series_on_the_core_rebuilds_all_of_vfio(core: tuple[Path, dict[str, Any]]) -> None:
    out, report = core
    assert {Path(name).stem for name in report["modules"]} >= ALL
    assert {path.name for path in out.glob("*.ko")} == {
        Path(name).name for name in report["modules"]
    }


def test_the_headers_of_the_series_take_precedence(core: tuple[Path, dict[str, Any]]) -> None:
    out, _ = core
    layouts = struct_layouts(out / "mlx5-vfio-pci.ko", ["vfio_migration_ops", STRUCT])
    assert "migration_note" in layouts["vfio_migration_ops"].fields
    assert {"notes", "note_3", "note_14"} <= set(layouts[STRUCT].fields)


def test_modules_have_dwarf_and_btf(core: tuple[Path, dict[str, Any]]) -> None:
    out, _ = core
    for module in out.glob("*.ko"):
        said = subprocess.run(["readelf", "-SW", module], capture_output=True, text=True).stdout
        assert " .BTF " in said
        assert " .debug_info " in said


def test_modules_that_no_longer_load_are_named(core: tuple[Path, dict[str, Any]]) -> None:
    _, report = core
    (refused,) = report["refused"]
    assert refused["module"] == "kvmgt"
    assert "vfio_unregister_group_dev" in refused["changed"]
    # The truth is in the module that the distribution built.
    stock = modinfo.read(Path(refused["path"]))
    out, _ = core
    symbols = (out / "Module.symvers").read_text()
    for symbol in refused["changed"]:
        (crc,) = re.findall(rf"^0x(\w+)\t{symbol}\t", symbols, re.MULTILINE)
        assert int(crc, 16) != stock.imports[symbol]


def test_probes_are_told(core: tuple[Path, dict[str, Any]]) -> None:
    _, report = core
    states = {probe["probe"]: probe["state"] for probe in report["probes"]}
    assert states["save-callback"] == states["next-state"] == "present"
    assert states["precopy-ioctl"] == "absent"
    assert states["cmd-exec"] == "elsewhere"


def test_a_series_in_the_driver_builds_the_driver_alone(series: Path, tmp_path: Path) -> None:
    done = mlxpatch("build", series / "driver", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "out").glob("*.ko")] == ["mlx5-vfio-pci.ko"]
    assert "Every other module of this kernel still loads" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_what_does_not_build_names_the_series_and_the_line(series: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for patch in (series / "driver").iterdir():
        text = patch.read_text().replace("+\tu64 notes;", "+\tu64 notes")
        (broken / patch.name).write_text(text)
    done = mlxpatch("build", broken, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert f"{broken}: mlx5-vfio-pci does not build" in done.stderr
    assert "cmd.h" in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_does_not_apply_names_the_patch(series: Path, tmp_path: Path) -> None:
    twice = tmp_path / "twice.mbox"
    (patch,) = (series / "driver").glob("0*.patch")
    twice.write_bytes(patch.read_bytes().replace(b"struct mlx5_vf_migration_file", b"struct none"))
    done = mlxpatch("build", twice, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "does not apply" in done.stderr
    assert "cmd.h" in done.stderr


def test_a_dkms_package_has_sources_headers_and_every_module(series: Path, tmp_path: Path) -> None:
    package = tmp_path / "package"
    done = mlxpatch("dkms", series / "v1", "-o", package)
    assert done.returncode == 0, done.stderr
    conf = (package / "dkms.conf").read_text()
    names = re.findall(r'^BUILT_MODULE_NAME\[\d+\]="(.*)"$', conf, re.MULTILINE)
    assert set(names) >= ALL
    version = re.findall(r'^PACKAGE_VERSION="(.*)"$', conf, re.MULTILINE)
    assert re.fullmatch(r"6\.1\+[0-9a-f]{8}", version[0])
    assert "u64 notes;" in (package / "drivers/vfio/pci/mlx5/cmd.h").read_text()
    assert "migration_note" in (package / "include/linux/vfio.h").read_text()
    assert "vfio/mlx5: Count the notes of a migration" in (package / "README").read_text()
    syntax = subprocess.run(["bash", "-n", package / "dkms.conf"], capture_output=True)
    assert syntax.returncode == 0
    # It replaces its own earlier output, and nothing else.
    assert mlxpatch("dkms", series / "v1", "-o", package, "--version", "2").returncode == 0
    assert 'PACKAGE_VERSION="2"' in (package / "dkms.conf").read_text()
    refused = mlxpatch("dkms", series / "v1", "-o", tmp_path)
    assert refused.returncode == 1
    assert "is not empty, and not a package that mlxpatch dkms made" in refused.stderr
    bad = mlxpatch("dkms", series / "v1", "-o", package, "--version", '"; rm')
    assert (bad.returncode, "cannot be a version" in bad.stderr) == (1, True)


@pytest.fixture(scope="module")
def compared(mbox: Path, series: Path) -> dict[str, Any]:
    done = mlxpatch("compare", mbox, series / "v2", "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_patches_are_paired(compared: dict[str, Any]) -> None:
    pairs = [(pair["kind"], pair["old"], pair["new"]) for pair in compared["patches"]]
    assert pairs[:2] == [("same", 1, 1), ("changed", 2, 2)]
    assert sorted(pairs[2:], key=str) == sorted(
        [("added", None, 3), *(("removed", number, None) for number in range(3, 15))], key=str
    )
    assert "notes_lost" in compared["patches"][1]["diff"]


def test_struct_layouts_are_compared(compared: dict[str, Any]) -> None:
    changes = {change["name"]: change for change in compared["structs"]}
    assert changes[f"field {STRUCT}.notes_lost"]["kind"] == "added"
    resized = changes[f"struct {STRUCT}"]
    assert (resized["kind"], resized["abi"]) == ("resized", True)
    before, after = re.findall(r"\d+", resized["detail"])
    # One field more, twelve fewer.
    assert int(after) - int(before) == (1 - 12) * 8
    assert changes[f"field {STRUCT}.filp"]["kind"] == "moved"
    # Each of the other type, and one bit more.
    assert changes[f"field {STRUCT}.disabled"]["kind"] == "changed"
    assert re.match(
        r"1 bit at bit \d+ to 1 byte at \d+$", changes[f"field {STRUCT}.disabled"]["detail"]
    )
    error = [each for each in compared["structs"] if each["name"] == f"field {STRUCT}.is_err"]
    assert [(each["kind"], each["abi"]) for each in error] == [("moved", True), ("resized", True)]
    assert error[1]["detail"] == "1 to 2 bits"


def test_probes_and_sizes_are_compared(compared: dict[str, Any]) -> None:
    probes = {probe["probe"]: (probe["old"], probe["new"]) for probe in compared["probes"]}
    assert probes["save-callback"] == ("present", "absent")
    assert probes["set-state"] == ("present", "present")
    sizes = {size["module"]: size for size in compared["sizes"]}
    assert sizes["vfio"]["old"] == sizes["vfio"]["new"] > 0


def test_against_stock_the_abi_changes(series: Path) -> None:
    done = mlxpatch("compare", "stock", series / "v1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    header = found["headers"]["include/uapi/linux/vfio.h"]
    assert [(each["kind"], each["name"]) for each in header] == [
        ("added", "constant VFIO_MIGRATION_NOTE")
    ]
    changed = {each["name"] for each in found["exports"] if each["kind"] == "changed"}
    assert "vfio_unregister_group_dev" in changed
    assert [pair["kind"] for pair in found["patches"]] == ["added", "added"]


def test_the_text_fits_a_page(series: Path) -> None:
    done = mlxpatch("compare", series / "v1", series / "v2", "--patches")
    assert done.returncode == 0, done.stderr
    for title in ("Patches", "Exported symbols", "Probes of mlxtrace", "Bytes in memory"):
        assert title in done.stdout
    tables = [line for line in done.stdout.splitlines() if "  " in line[:2]]
    assert max(map(len, tables)) <= 120
