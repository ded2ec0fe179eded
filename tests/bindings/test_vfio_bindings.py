# SPDX-License-Identifier: GPL-2.0-or-later
"""vfio.h of two kernels: every number against a C program, and the shipped module up to date."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mlxuapi.vfio
from genbindings import uapi
from genbindings.backends import render
from genbindings.compiler import Compiler
from genbindings.generate import Options, model
from mlxuapi import runtime, vfio

if TYPE_CHECKING:
    from types import ModuleType

    from genbindings.model import Header

Values = Callable[[str, dict[str, str], list[str]], dict[str, int]]
Sources = Callable[[str], Path]

# Structs, flattened members, enums, enumerators, integer and string macros, ioctls: counted in
# gcc's DWARF and by the preprocessor.
COUNTS = {
    "6.1": (42, 167, 5, 28, 123, 5, 30),
    "6.12": (49, 190, 6, 33, 137, 5, 34),
}


@pytest.fixture(scope="module", params=list(COUNTS))
def kernel(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def found(kernel: str, kernel_source: Sources) -> Header:
    return model(Options("vfio.h", kernel=kernel_source(kernel)))[0]


def load(text: str, path: Path) -> ModuleType:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def module(found: Header, tmp_path: Path) -> ModuleType:
    return load(render(found, "ctypes"), tmp_path / "generated_vfio.py")


@pytest.fixture
def installed(kernel: str, kernel_source: Sources) -> tuple[str, list[str]]:
    """The include line and the options that give a C program the same header."""
    tree = kernel_source(kernel)
    path, folder = uapi.install(tree / "include/uapi/linux/vfio.h", tree, Compiler().target)
    assert path.is_file()
    return "#include <stddef.h>\n#include <linux/vfio.h>", [f"-I{folder}"]


def test_nothing_is_missing(kernel: str, found: Header) -> None:
    structs = list(found.own_structs())
    integers = [c for c in found.constants.values() if isinstance(c.value, int)]
    assert COUNTS[kernel] == (
        len(structs),
        sum(len(list(found.flat_fields(struct))) for struct in structs),
        len(found.enums),
        sum(len(enum.values) for enum in found.enums),
        len(integers),
        len(found.constants) - len(integers),
        len(found.ioctls),
    )
    assert found.omitted == ()
    assert len(found.functions) == 3


def test_every_layout_is_the_compilers(
    found: Header, module: ModuleType, installed: tuple[str, list[str]], c_values: Values
) -> None:
    expected: dict[str, int] = {}
    expressions: dict[str, str] = {}
    for struct in found.own_structs():
        kind = getattr(module, struct.name)
        expressions[f"sizeof {struct.name}"] = f"sizeof({struct.spelling})"
        expected[f"sizeof {struct.name}"] = ctypes.sizeof(kind)
        expressions[f"alignof {struct.name}"] = f"_Alignof({struct.spelling})"
        expected[f"alignof {struct.name}"] = ctypes.alignment(kind)
        for field in found.flat_fields(struct):
            key = f"{struct.name}.{field.name}"
            expressions[key] = f"offsetof({struct.spelling}, {field.name})"
            expected[key] = getattr(kind, field.name).offset
            if not field.flexible:
                expressions[f"sizeof {key}"] = f"sizeof((({struct.spelling} *)0)->{field.name})"
                expected[f"sizeof {key}"] = getattr(kind, field.name).size
    assert len(expected) > 400
    assert c_values(installed[0], expressions, installed[1]) == expected


def test_every_number_is_the_compilers(
    found: Header, module: ModuleType, installed: tuple[str, list[str]], c_values: Values
) -> None:
    names = [name for enum in found.enums for name in enum.values]
    names += [name for name, c in found.constants.items() if isinstance(c.value, int)]
    # Constants are unsigned where they are flags, so both sides are reduced to 32 bits.
    values = {name: getattr(module, name) & 0xFFFFFFFF for name in [*names, *found.ioctls]}
    expressions = {name: f"(unsigned int)({name})" for name in values}
    assert c_values(installed[0], expressions, installed[1]) == values


def test_strings_and_signs(module: ModuleType) -> None:
    assert module.VFIO_DEVICE_API_PCI_STRING == "vfio-pci"
    assert ord(";") == module.VFIO_TYPE
    assert module.VFIO_REGION_TYPE_PCI_VENDOR_TYPE == 0x80000000
    assert module.VFIO_PCI_NUM_REGIONS == 9


def test_ioctls_know_their_argument(kernel: str, found: Header, module: ModuleType) -> None:
    ioctl = module.VFIO_DEVICE_GET_INFO
    assert (ioctl, ioctl.name, ioctl.direction) == (0x3B6B, "VFIO_DEVICE_GET_INFO", "read")
    assert ioctl.struct is module.vfio_device_info
    assert "Retrieve information about the device" in ioctl.__doc__
    assert module.IOCTL_NAMES[0x3B70] == (
        "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",
        "VFIO_IOMMU_GET_INFO",
        "VFIO_IOMMU_SPAPR_TCE_GET_INFO",
    )
    stale = {i.name: (i.stale, i.struct) for i in found.ioctls.values() if i.stale}
    assert stale == {
        "VFIO_DEVICE_QUERY_GFX_PLANE": (
            "struct vfio_device_query_gfx_plane",
            "vfio_device_gfx_plane_info",
        ),
        "VFIO_IOMMU_GET_INFO": ("struct vfio_iommu_info", "vfio_iommu_type1_info"),
        "VFIO_IOMMU_MAP_DMA": ("struct vfio_dma_map", "vfio_iommu_type1_dma_map"),
        "VFIO_IOMMU_UNMAP_DMA": ("struct vfio_dma_unmap", "vfio_iommu_type1_dma_unmap"),
    }
    undocumented = [i.name for i in found.ioctls.values() if not i.argument and not i.stale]
    assert "VFIO_EEH_PE_OP" in undocumented
    if kernel == "6.12":
        assert module.VFIO_MIG_GET_PRECOPY_INFO.struct is module.vfio_precopy_info


def test_docs_are_carried(module: ModuleType) -> None:
    assert "num_regions: Max region index + 1" in (module.vfio_device_info.__doc__ or "")
    assert "Argument of VFIO_DEVICE_GET_INFO." in (module.vfio_device_info.__doc__ or "")
    documented = [ioctl for ioctl in module.IOCTLS if ioctl.__doc__]
    assert len(documented) >= len(module.IOCTLS) - 4


def test_argsz_is_set(module: ModuleType) -> None:
    with_argsz = 0
    for name in dir(module):
        kind = getattr(module, name)
        if (
            isinstance(kind, type)
            and issubclass(kind, runtime.Structure)
            and hasattr(kind, "argsz")
        ):
            assert kind().argsz == ctypes.sizeof(kind)
            assert kind(argsz=7).argsz == 7
            with_argsz += 1
    assert with_argsz >= 19


def test_flexible_arrays_are_bounds_checked(found: Header, module: ModuleType) -> None:
    flexible = [(s, found.flexible(s)) for s in found.own_structs() if found.flexible(s)]
    assert len(flexible) == 8
    for struct, member in flexible:
        kind: Any = getattr(module, struct.name)
        assert member is not None
        name = member.name
        empty = getattr(kind(), name)
        assert len(empty) == 0
        record = kind.with_room(3)
        array = getattr(record, name)
        assert len(array) == 3
        assert len(bytes(record)) >= member.offset + 3 * ctypes.sizeof(array._type_)
        with pytest.raises(IndexError):
            array[3]
        if hasattr(kind, "argsz"):
            assert record.argsz == len(bytes(record))


def test_shipped_module_is_up_to_date(kernel_source: Sources) -> None:
    found, _ = model(Options("vfio.h", kernel=kernel_source("6.12")))
    shipped = Path(mlxuapi.vfio.__file__).read_text()
    assert render(found, "ctypes") == shipped


def test_shipped_module_imports_without_warnings() -> None:
    command = [sys.executable, "-W", "error", "-c", "import mlxuapi.vfio"]
    subprocess.run(command, check=True)


def test_generated_modules_are_deterministic_and_clean(found: Header, tmp_path: Path) -> None:
    text = render(found, "ctypes")
    assert text == render(found, "ctypes")
    assert "/" not in text.split("from __future__")[0].replace("mlxuapi/", "")
    path = tmp_path / "generated.py"
    path.write_text(text)
    config = Path(__file__).parents[2] / "pyproject.toml"
    for arguments in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--config", str(config), str(path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_structs_can_be_embedded_and_passed_to_ioctl() -> None:
    class Mine(ctypes.Structure):
        _fields_ = [("tag", ctypes.c_uint8), ("info", vfio.vfio_device_info)]

    assert Mine.info.offset == 4
    feature = vfio.vfio_device_feature.with_room(ctypes.sizeof(vfio.vfio_device_feature_migration))
    migration = vfio.vfio_device_feature_migration.from_buffer(feature.data)
    migration.flags = vfio.VFIO_MIGRATION_PRE_COPY
    assert bytes(feature)[8:16] == vfio.VFIO_MIGRATION_PRE_COPY.to_bytes(8, sys.byteorder)
    again = vfio.vfio_device_feature.with_bytes(bytes(feature))
    assert bytes(again) == bytes(feature)
    assert list(again.data) == list(feature.data)
    with pytest.raises(ValueError, match="fewer than its 8"):
        vfio.vfio_device_feature.with_bytes(b"123")
    with pytest.raises(TypeError, match="does not end with a flexible array"):
        vfio.vfio_device_info.with_room(1)
    assert repr(vfio.vfio_group_status(flags=1)) == "vfio_group_status(argsz=8, flags=1)"


def test_bindings_of_another_kernel(
    kernel_source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = kernel_source("6.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    older = mlxuapi.load("vfio.h", tree)
    assert ctypes.sizeof(older.vfio_device_info) == 20
    assert not hasattr(older, "VFIO_MIG_GET_PRECOPY_INFO")
    assert mlxuapi.load("mlx5_ifc.h", tree).save_vhca_state_in.BITS == 256


def words(text: str) -> str:
    """Return ``text`` without the layout of comments."""
    return " ".join(re.findall(r"\w+", re.sub(r"^\s*\*", "", text, flags=re.MULTILINE)))


def test_every_doc_comment_is_in_the_right_place(
    kernel: str, kernel_source: Sources, module: ModuleType
) -> None:
    text = (kernel_source(kernel) / "include/uapi/linux/vfio.h").read_text()
    source = words(Path(str(module.__file__)).read_text())
    blocks = re.findall(r"/\*\*\n(.*?)\*/", text, re.DOTALL)
    assert len(blocks) == {"6.1": 27, "6.12": 29}[kernel]
    assert [block for block in blocks if words(block) not in source] == []
    ioctls = re.findall(
        r"/\*\*\n((?:(?!\*/).)*? (\w+) - _IO.*?)\*/", text, re.DOTALL | re.MULTILINE
    )
    for block, name in ioctls:
        assert words(getattr(module, name).__doc__) == words(block)
    assert len(ioctls) >= 12
    fields = 0
    for struct, body in re.findall(r"^struct (\w+) \{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE):
        beside = r"^\t\S.*?(\w+)(?:\[\w*\])?;[ \t]*/\*((?:(?!\*/).)*)\*/"
        for name, comment in re.findall(beside, body, re.MULTILINE | re.DOTALL):
            doc = words(getattr(module, struct).__doc__ or "")
            assert words(f"{name} {comment}") in doc, (struct, name)
            fields += 1
    assert fields >= 40
    defines = re.findall(r"^#define (\w+)[^\n]*?/\*(.*?)\*/", text, re.DOTALL | re.MULTILINE)
    assert len(defines) >= 40
    assert [name for name, comment in defines if words(comment) not in source] == []
