# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules that a rebuilt vfio.ko locks out are found, and no others."""

from __future__ import annotations

import lzma
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error
from mlxpatch import symvers
from mlxpatch.symvers import Export
from tests.patches import fake_module

if TYPE_CHECKING:
    from pathlib import Path

STOCK = {
    "vfio_kept": Export("vfio", 1),
    "vfio_changed": Export("vfio", 2),
    "vfio_gone": Export("vfio", 3),
    "printk": Export("vmlinux", 4),
}
REBUILT = {"vfio_kept": Export("vfio", 1), "vfio_changed": Export("vfio", 22)}


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    folder = tmp_path / "kernel"
    for name, depends, imports in (
        ("kept", "vfio", {"vfio_kept": 1, "printk": 4}),
        ("changed", "irqbypass,vfio", {"vfio_changed": 2, "vfio_kept": 1}),
        ("gone", "vfio,mdev", {"vfio_gone": 3}),
        ("vfio-pci-core", "vfio", {"vfio_changed": 2}),
        ("other", "vfio_else", {"vfio_changed": 2}),
    ):
        fake_module.make(folder / f"{name}.ko", depends=depends, imports=imports)
    packed = folder / "packed.ko"
    fake_module.make(packed, depends="vfio", imports={"vfio_changed": 2})
    packed.with_suffix(".ko.xz").write_bytes(lzma.compress(packed.read_bytes()))
    packed.unlink()
    return tmp_path


def answer(modules: Path) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    found = symvers.refused(REBUILT, ["vfio", "vfio_pci_core"], STOCK, modules)
    return {module.name: (module.changed, module.missing) for module in found}


EXPECTED = {
    "changed": (("vfio_changed",), ()),
    "gone": ((), ("vfio_gone",)),
    "packed": (("vfio_changed",), ()),
}


def test_the_modules_and_their_symbols_are_named(modules: Path) -> None:
    assert answer(modules) == EXPECTED


def test_depmods_list_gives_the_same(modules: Path) -> None:
    lines = [
        "kernel/kept.ko: kernel/vfio.ko",
        "kernel/changed.ko: kernel/irqbypass.ko kernel/vfio.ko",
        "kernel/gone.ko: kernel/vfio.ko kernel/mdev.ko",
        "kernel/packed.ko.xz: kernel/vfio.ko.xz",
        "kernel/other.ko:",
    ]
    (modules / "modules.dep").write_text("\n".join(lines) + "\n")
    assert answer(modules) == EXPECTED


def test_nothing_is_refused_where_no_crc_changed(modules: Path) -> None:
    same = {name: STOCK[name] for name in ("vfio_kept", "vfio_changed", "vfio_gone")}
    assert symvers.refused(same, ["vfio"], STOCK, modules) == []
    # The changed ones belong to a module that is not replaced.
    assert symvers.refused({}, ["mlx5_vfio_pci"], STOCK, modules) == []


def test_a_symvers_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "Module.symvers"
    path.write_text("0x0000000a\tvfio_one\tdrivers/vfio/pci/vfio-pci-core\tEXPORT_SYMBOL_GPL\t\n")
    assert symvers.read(path) == {"vfio_one": Export("vfio_pci_core", 10)}
    path.write_text("0x1\ta\tb\tEXPORT_SYMBOL\t\nnonsense\n")
    with pytest.raises(Error, match="line 2: not a line of a Module"):
        symvers.read(path)
