# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout resolver on drivers that nobody has seen: fields moved, renamed, absent, garbage."""

from __future__ import annotations

import struct
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genbindings.dwarf.sections import read_object
from genbindings.errors import Error
from mlxtrace import layout
from mlxtrace.layout import WANTED

if TYPE_CHECKING:
    from pathlib import Path

FILE, DEVICE, BUFFER = "mlx5_vf_migration_file", "mlx5vf_pci_core_device", "mlx5_vhca_data_buffer"
# Embedded ones come first, as C wants it.
STRUCTS: dict[str, dict[str, str]] = {
    "kobject": {"name": "const char *"},
    "device": {"kobj": "struct kobject ", "driver_data": "void *"},
    "pci_dev": {"dev": "struct device "},
    "file": {"private_data": "void *", "f_pos": "long long "},
    "vfio_device": {"dev": "struct device *"},
    "vfio_pci_core_device": {"vdev": "struct vfio_device "},
    "mlx5_async_work": {"out": "void *"},
    "mlx5vf_async_data": {"cb_work": "struct mlx5_async_work "},
    DEVICE: {
        "core_device": "struct vfio_pci_core_device ",
        "mdev": "void *",
        "vhca_id": "unsigned short ",
        "mig_state": "unsigned int ",
        "saving_migf": "void *",
        "resuming_migf": "void *",
    },
    FILE: {
        "mvdev": f"struct {DEVICE} *",
        "max_pos": "unsigned long long ",
        "async_data": "struct mlx5vf_async_data ",
    },
    BUFFER: {
        "start_pos": "long long ",
        "length": "unsigned long long ",
        "allocated_length": "unsigned long long ",
        "npages": "unsigned int ",
        "migf": f"struct {FILE} *",
    },
    "vfio_precopy_info": {"initial_bytes": "unsigned long ", "dirty_bytes": "unsigned long "},
}
FORMATS = ["-gdwarf-3", "-gdwarf-4", "-gdwarf-5", "-gbtf"]
FEW = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FUZZ = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", params=FORMATS)
def debug(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A kind of debug information that this compiler writes."""
    flag = str(request.param)
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.c").write_text("int x;")
    command = ["gcc", "-c", flag, str(folder / "probe.c"), "-o", str(folder / "probe.o")]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"this gcc does not know {flag}")
    return flag


def source(structs: dict[str, list[str]], oracle: list[str]) -> str:
    """C that defines ``structs`` from their member declarations, and the offsets in a section."""
    lines = [f"struct {name} {{ {' '.join(body)} }};" for name, body in structs.items()]
    lines += [f"struct {name} a_{name};" for name in structs]
    offsets = ", ".join(f"__builtin_offsetof(struct {what})" for what in oracle)
    if oracle:
        lines.append(
            f'unsigned long long oracle[] __attribute__((section(".oracle"))) = {{ {offsets} }};'
        )
    return "\n".join(lines) + "\n"


def plain() -> dict[str, list[str]]:
    """The structs without anything else in them."""
    return {name: [f"{t}{n};" for n, t in fields.items()] for name, fields in STRUCTS.items()}


def compiled(folder: Path, text: str, flag: str) -> Path:
    path = folder / "driver.c"
    path.write_text(text)
    subprocess.run(["gcc", "-c", flag, path, "-o", path.with_suffix(".o")], check=True)
    return path.with_suffix(".o")


@st.composite
def moved(draw: st.DrawFn, name: str) -> list[str]:
    """The members of a struct in any order, between others, inside anonymous ones."""
    body: list[str] = []
    for number, field in enumerate(draw(st.permutations(list(STRUCTS[name])))):
        declaration = f"{STRUCTS[name][field]}{field};"
        filler = draw(
            st.sampled_from(["", "char f{0}[7];", "unsigned f{0} : 3;", "long f{0}; char : 0;"])
        ).format(number)
        around = draw(
            st.sampled_from(
                [
                    "{0} {1}",
                    "struct {{ {0} {1} }};",
                    "union {{ char u{2}[40]; struct {{ {0} {1} }}; }};",
                    "const struct {{ union {{ {1} }}; }};",
                ]
            )
        )
        body.append(around.format(filler, declaration, number))
    return body


@FEW
@given(data=st.data())
def test_fields_are_found_wherever_they_went(
    tmp_path: Path, debug: str, data: st.DataObject
) -> None:
    structs = {name: data.draw(moved(name), label=name) for name in STRUCTS}
    if old := data.draw(st.booleans(), label="before Linux 6.2"):
        del structs[BUFFER], structs["vfio_precopy_info"]
        structs[FILE] = [text.replace("max_pos", "total_length") for text in structs[FILE]]
    oracle, macros = [], []
    for wanted in WANTED:
        if wanted.parts[0][0] not in structs:
            continue
        names = [n if isinstance(n, str) else n[old] for _, n in wanted.parts]
        macros.append(wanted.macro)
        oracle.append(f"{wanted.parts[0][0]}, {'.'.join(names)}")
    path = compiled(tmp_path, source(structs, oracle), debug)
    found = layout.of_file(path)
    _, sections = read_object(path, [".oracle"])
    assert found.offsets == dict(
        zip(macros, (n for (n,) in struct.iter_unpack("<Q", sections[".oracle"])), strict=True)
    )
    assert found.has_buffers is found.has_precopy_info is not old


_OPTIONAL = {part for wanted in WANTED if not wanted.needed for part in wanted.parts}
NEEDED = [
    (name, field)
    for name, fields in STRUCTS.items()
    for field in fields
    if (name, field) not in _OPTIONAL
]


@pytest.mark.parametrize("debug", ["-gdwarf-5", "-gbtf"], indirect=True)
@pytest.mark.parametrize(("name", "field"), NEEDED)
def test_a_needed_field_that_was_renamed_is_named(
    tmp_path: Path, name: str, field: str, debug: str
) -> None:
    structs = plain()
    structs[name] = [
        text.replace(f"{field};", f"{field}_of_another_name;") for text in plain()[name]
    ]
    with pytest.raises(Error, match=rf"has no {name}\.{field}") as failure:
        layout.of_file(compiled(tmp_path, source(structs, []), debug))
    assert "report it" in failure.value.hint


def test_all_that_is_missing_is_named_at_once(tmp_path: Path, debug: str) -> None:
    structs = {
        FILE: ["char *inner;"],
        DEVICE: ["struct { int vhca_id : 4; };", "int mig_state;"],
    }
    with pytest.raises(Error) as failure:
        layout.of_file(compiled(tmp_path, source(structs, []), debug))
    said = str(failure.value)
    assert f"{FILE}.max_pos/total_length" in said
    assert f"{DEVICE}.vhca_id" in said, "a bitfield has no offset in bytes"
    assert f"{DEVICE}.mig_state" not in said


def test_optional_fields_that_are_absent_switch_their_part_off(tmp_path: Path, debug: str) -> None:
    structs = plain()
    structs[BUFFER] = ["long long start_pos;"]
    structs["vfio_precopy_info"] = ["unsigned argsz;"]
    found = layout.of_file(compiled(tmp_path, source(structs, []), debug))
    assert not found.has_buffers
    assert not found.has_precopy_info
    assert not found.has_owners


@st.composite
def damage(draw: st.DrawFn, whole: bytes) -> bytes:
    """``whole`` cut, with bits flipped, or with garbage in it."""
    at = draw(st.integers(0, len(whole) - 1))
    kind = draw(st.sampled_from(["cut", "flip", "garbage"]))
    if kind == "cut":
        return whole[:at]
    data = bytearray(whole)
    if kind == "flip":
        for where in draw(st.lists(st.integers(0, 8 * len(whole) - 1), min_size=1, max_size=8)):
            data[where // 8] ^= 1 << where % 8
    else:
        new = draw(st.binary(min_size=1, max_size=64))
        data[at : at + len(new)] = new
    return bytes(data)


@FUZZ
@given(data=st.data())
def test_a_damaged_module_is_an_error_and_never_a_crash(module: Path, data: st.DataObject) -> None:
    damaged = module.with_suffix(".damaged.o")
    damaged.write_bytes(data.draw(damage(module.read_bytes())))
    try:
        found = layout.of_file(damaged)
    except Error:
        return
    assert {wanted.macro for wanted in WANTED if wanted.needed} <= set(found.offsets)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory, debug: str) -> Path:
    folder = tmp_path_factory.mktemp("module")
    return compiled(folder, source(plain(), []), debug)


@FUZZ
@given(data=st.binary(max_size=256), magic=st.sampled_from([b"", b"\x7fELF\2\1\1", b"\x9f\xeb\1"]))
def test_garbage_is_an_error(tmp_path: Path, data: bytes, magic: bytes) -> None:
    garbage = tmp_path / "garbage.ko"
    garbage.write_bytes(magic + data)
    with pytest.raises(Error, match="neither BTF nor DWARF"):
        layout.of_file(garbage)
