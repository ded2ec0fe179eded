# SPDX-License-Identifier: GPL-2.0-or-later
"""A module's DWARF is found in whatever file has it: compressed, for debugging; without kmod."""

from __future__ import annotations

import gzip
import lzma
import platform
import shutil
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error
from mlxtrace import btf, layout, modulefiles

from .test_layouts import compiled, plain, source

if TYPE_CHECKING:
    from pathlib import Path

RELEASE = "6.1.0-test"
KO = "kernel/drivers/vfio/pci/mlx5/mlx5-vfio-pci.ko"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the kernel's modules, on a host without kmod's tools and without BTF."""
    monkeypatch.setattr(modulefiles, "MODULES", tmp_path / "lib/modules")
    monkeypatch.setattr(modulefiles, "DEBUG_FILES", tmp_path / "debug")
    monkeypatch.setattr(platform, "release", lambda: RELEASE)
    monkeypatch.setattr(btf, "SYSFS", tmp_path / "none")
    monkeypatch.setenv("PATH", "/nowhere")
    return tmp_path / "lib/modules" / RELEASE


def put(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def put_debug(name: str) -> Path:
    return put(modulefiles.DEBUG_FILES / RELEASE / name)


@pytest.mark.parametrize("suffix", ["", ".xz", ".zst", ".gz"])
def test_debug_files_of_all_distributions(root: Path, suffix: str) -> None:
    own = put(root / f"{KO}{suffix}")
    assert modulefiles.candidates("mlx5_vfio_pci") == [own]
    names = dict.fromkeys((KO, f"{KO}.debug", f"{KO}{suffix}", f"{KO}{suffix}.debug"))
    files = [put_debug(name) for name in names]
    assert modulefiles.candidates("mlx5_vfio_pci") == [own, *files]


def test_the_file_is_the_one_that_modprobe_loads(root: Path) -> None:
    assert modulefiles.candidates("mlx5_vfio_pci") == []
    put(root / KO)
    own = put(root / "updates/dkms/mlx5_vfio_pci.ko.xz")
    put(root / "a/mlx5-vfio-pci-other.ko")
    listing = "other/vfio.ko: kernel/x.ko\nupdates/dkms/mlx5_vfio_pci.ko.xz: kernel/y.ko.xz\n"
    put(root / "modules.dep", listing.encode())
    assert modulefiles.candidates("mlx5_vfio_pci") == [own]
    # What depmod does not know, or is gone, is searched for.
    for stale in (b"", b"gone/mlx5-vfio-pci.ko:\n", b"/etc/mlx5-vfio-pci.ko:\n"):
        put(root / "modules.dep", stale)
        assert modulefiles.candidates("mlx5_vfio_pci") == [root / KO]


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module with DWARF."""
    return compiled(tmp_path_factory.mktemp("module"), source(plain(), []), "-g")


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".xz", lzma.compress), (".gz", gzip.compress)]
)
def test_layouts_from_a_module_that_is_compressed(
    root: Path, module: Path, suffix: str, pack: object
) -> None:
    assert callable(pack)
    own = put(root / f"{KO}{suffix}", pack(module.read_bytes()))
    assert layout.of_running_module().source == f"DWARF of {own}"


def test_zstd_takes_the_tool(root: Path, module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = put(root / f"{KO}.zst", b"\x28\xb5\x2f\xfd")
    with pytest.raises(Error, match=rf"{own} \(cannot be decompressed: zstd is not installed\)"):
        layout.of_running_module()
    # A stand-in for the tool, which need not be here.
    put(root.parents[2] / "bin/zstd", f"#!/bin/sh\n/bin/cat {module}\n".encode()).chmod(0o755)
    monkeypatch.setenv("PATH", str(root.parents[2] / "bin"))
    assert layout.of_running_module().source == f"DWARF of {own}"
    put(root.parents[2] / "bin/zstd", b"#!/bin/sh\nexit 1\n")
    with pytest.raises(Error, match="zstd says that it is damaged"):
        layout.of_running_module()


@pytest.mark.parametrize("suffix", [".xz", ".gz"])
def test_a_damaged_module_is_said(root: Path, suffix: str) -> None:
    put(root / f"{KO}{suffix}", b"no such format")
    with pytest.raises(Error, match=rf"{suffix} \(cannot be decompressed: "):
        layout.of_running_module()


def test_the_debug_package_s_file_is_used(root: Path, module: Path) -> None:
    put(root / f"{KO}.xz", lzma.compress(b"stripped"))
    shutil.copyfile(module, found := put_debug(f"{KO}.debug"))
    assert layout.of_running_module().source == f"DWARF of {found}"


@pytest.mark.parametrize("generic", [False, True])
def test_no_file_and_no_tool_is_an_error_for_people(root: Path, generic: bool) -> None:
    del root
    assert shutil.which("modinfo") is None
    with pytest.raises(Error, match="no DWARF in any file of it"):
        (layout.of_running_core if generic else layout.of_running_module)()
