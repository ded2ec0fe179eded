# SPDX-License-Identifier: GPL-2.0-or-later
"""mlx5_ifc.h of two kernels: every settable field against the kernel's own MLX5_SET."""

from __future__ import annotations

import importlib.util
import mmap
import random
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from genbindings import ifc
from genbindings.backends import render
from genbindings.generate import Options, model
from genbindings.ifc_commands import commands
from genbindings.lint import lint
from genbindings.model import RecordRef
from mlxuapi import mlx5_ifc

if TYPE_CHECKING:
    from types import ModuleType

    from genbindings.model import Header

Sources = Callable[[str], Path]

# Structs and unions, enums, enumerators, reserved_at_X at another offset: counted in gcc's DWARF.
COUNTS = {"6.1": (676, 143, 765, 11), "6.12": (719, 159, 846, 19)}
# What MLX5_SET, MLX5_SET64 and their array forms can reach, at least.
VECTORS = {"6.1": 3750, "6.12": 4050}
ROOM = 3


@pytest.fixture(scope="module", params=list(COUNTS))
def kernel(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def found(kernel: str, kernel_source: Sources) -> Header:
    return model(Options("mlx5_ifc.h", kernel=kernel_source(kernel)))[0]


@pytest.fixture(scope="module")
def module(found: Header, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    path = tmp_path_factory.mktemp("generated") / "generated_ifc.py"
    path.write_text(render(found, "ctypes"))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@dataclass(frozen=True)
class Vector:
    """One field set to one value: the struct and path in C, and how many bytes it is set in."""

    struct: str
    path: str
    width: int
    value: int
    size: int


def vectors(found: Header) -> list[Vector]:
    """Return every field that the kernel's macros can set, with a random value."""
    chosen = random.Random(1)
    result: list[Vector] = []
    for struct in found.own_structs():
        # The macros add prefix and suffix themselves, and refuse a partial dword.
        if not struct.name.endswith("_bits") or struct.kind == "union" or struct.size % 32:
            continue
        for field in found.flat_fields(struct):
            if isinstance(field.type, RecordRef) or ifc.is_reserved(field.name):
                continue
            width = field.type.size
            fits = width <= 32 and field.offset % 32 + width <= 32
            if not (fits or (width == 64 and field.offset % 64 == 0)):
                continue
            size = struct.size // 8
            paths = [field.name]
            if field.count:
                count = field.count[0] or ROOM
                paths = [f"{field.name}[{number}]" for number in range(count)]
                size = max(size, (field.offset + count * width) // 8)
            for path in paths:
                if field.count == (None,) or (len(field.count) > 1):
                    continue
                value = chosen.getrandbits(width)
                result.append(Vector(ifc.short_name(struct.name), path, width, value, size))
    return result


def kernel_macros(tree: Path) -> str:
    """Return the kernel's own accessor macros, from its device.h."""
    text = (tree / "include/linux/mlx5/device.h").read_text()
    macros = re.findall(r"^#define (?:__mlx5|MLX5_|__MLX5)(?:.*\\\n)*.*$", text, re.MULTILINE)
    wanted = re.compile(r"#define (__mlx5_\w+|MLX5_SET|MLX5_SET64|__MLX5_SET64)\(")
    return "\n".join(macro for macro in macros if wanted.match(macro))


def oracle(tree: Path, tests: list[Vector], folder: Path) -> list[bytes]:
    """Run MLX5_SET on each vector in a buffer full of 0x5a; return the buffers."""
    header = tree / "include/linux/mlx5/mlx5_ifc.h"
    lines = [
        "#include <endian.h>\n#include <stddef.h>\n#include <stdint.h>",
        "#include <stdio.h>\n#include <string.h>",
        "typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;",
        "typedef uint32_t __be32; typedef uint64_t __be64;",
        "#define cpu_to_be32 htobe32\n#define be32_to_cpu be32toh\n#define cpu_to_be64 htobe64",
        '#define BUILD_BUG_ON(x) _Static_assert(!(x), "the kernel refuses this")',
        ifc.prelude(),
        f'#include "{header}"',
        kernel_macros(tree),
        "static unsigned char buf[1 << 16] __attribute__((aligned(8)));",
        "#define BEGIN memset(buf, 0x5a, sizeof(buf));",
    ]
    parts = [tests[at : at + 500] for at in range(0, len(tests), 500)]
    for number, part in enumerate(parts):
        lines.append(f"static void part{number}(void) {{")
        for test in part:
            macro = "MLX5_SET64" if test.width == 64 else "MLX5_SET"
            call = f"{macro}({test.struct}, buf, {test.path}, {test.value}ULL);"
            lines.append(f"BEGIN {call} fwrite(buf, {test.size}, 1, stdout);")
        lines.append("}")
    calls = " ".join(f"part{number}();" for number in range(len(parts)))
    lines.append(f"int main(void) {{ {calls} return 0; }}")
    source = folder / "oracle.c"
    source.write_text("\n".join(lines))
    program = folder / "oracle"
    subprocess.run(["cc", "-O0", "-w", "-o", str(program), str(source)], check=True)
    output = subprocess.run([str(program)], check=True, capture_output=True).stdout
    dumped: list[bytes] = []
    at = 0
    for test in tests:
        dumped.append(output[at : at + test.size])
        at += test.size
    assert at == len(output)
    return dumped


def test_every_settable_field_agrees_with_the_kernels_macros(
    kernel: str, found: Header, module: ModuleType, kernel_source: Sources, tmp_path: Path
) -> None:
    tests = vectors(found)
    assert len(tests) >= VECTORS[kernel]
    wrong: list[str] = []
    for test, expected in zip(tests, oracle(kernel_source(kernel), tests, tmp_path), strict=True):
        buffer = bytearray(b"\x5a" * test.size)
        view = getattr(module, test.struct).from_buffer(buffer)
        view[test.path] = test.value
        if bytes(buffer) != expected or view[test.path] != test.value:
            wrong.append(f"{test.struct}.{test.path}")
    assert wrong == []


def test_nothing_is_missing(kernel: str, found: Header) -> None:
    tagged = [struct for struct in found.own_structs() if "." not in struct.name]
    enumerators = sum(len(enum.values) for enum in found.enums)
    lying = [finding for finding in lint(found) if finding.rule == "reserved-offset"]
    assert COUNTS[kernel] == (len(tagged), len(found.enums), enumerators, len(lying))


def test_every_class_can_be_built_and_decoded(found: Header, module: ModuleType) -> None:
    for struct in found.own_structs():
        kind = getattr(module, ifc.short_name(struct.name).replace(".", "_"))
        assert struct.size == kind.BITS
        view = kind.from_buffer(bytes(range(256)) * (kind.BYTES // 256 + 1))
        decoded = view.to_dict()
        assert list(decoded) == list(kind.FIELDS)
        for name, field in kind.FIELDS.items():
            if not (field.dimensions or field.layout):
                assert decoded[name] == getattr(view, field.attribute), (struct.name, name)


def test_every_command_input_has_an_opcode(kernel: str, found: Header) -> None:
    table = commands(found)
    assert table.without_opcode == ()
    assert len([command for command in table.table if command.input]) >= 186
    assert {command.input for command in table.table} > {"qp_2err_in", "set_fte_in", "arm_dct_in"}
    expected = 10 if kernel == "6.1" else 11
    assert len(table.without_layout) == expected


def test_accessors() -> None:
    message = mlx5_ifc.save_vhca_state_in()
    message.opcode = 0x118
    assert bytes(message) == b"\x01\x18" + bytes(30)
    assert isinstance(message.opcode, IntEnum)
    assert message.opcode == mlx5_ifc.cmd_op.MLX5_CMD_OP_SAVE_VHCA_STATE
    assert mlx5_ifc.command(0x118) == (mlx5_ifc.save_vhca_state_in, mlx5_ifc.save_vhca_state_out)
    assert repr(message) == "save_vhca_state_in(opcode=MLX5_CMD_OP_SAVE_VHCA_STATE (0x118))"
    qp = mlx5_ifc.create_qp_in.with_room(2, opcode=0x500)
    qp.qpc.log_rq_size = 4
    assert qp["qpc.log_rq_size"] == 4
    qp.pas[1] = 1 << 63
    assert list(qp.pas) == [0, 1 << 63]
    assert bytes(qp)[-8:] == b"\x80" + bytes(7)
    with pytest.raises(IndexError, match="index 2 is outside its 2 elements"):
        qp.pas[2]
    with pytest.raises(OverflowError, match=r"log_rq_size: 0x10 does not fit in 4 bits"):
        qp.qpc.log_rq_size = 16
    with pytest.raises(OverflowError):
        qp.qpc.log_rq_size = -1
    with pytest.raises(AttributeError):
        qp.qpc.no_such = 1  # type: ignore[attr-defined]
    with pytest.raises(KeyError, match="has no field 'no_such'"):
        qp["qpc.no_such"]
    with pytest.raises(ValueError, match="needs 32 bytes, the buffer has 8"):
        mlx5_ifc.save_vhca_state_in.from_buffer(bytes(8))


def test_any_buffer() -> None:
    kind = mlx5_ifc.query_vhca_migration_state_out
    mapped = mmap.mmap(-1, 4096)
    plain = bytearray(kind.BYTES)
    buffers: list[Any] = [plain, memoryview(bytearray(kind.BYTES)), mapped]
    for buffer in buffers:
        view = kind.from_buffer(buffer)
        view.required_umem_size = 0xABCDEF
        assert view.required_umem_size == 0xABCDEF
        assert kind.from_buffer(bytes(view)).to_dict()["required_umem_size"] == 0xABCDEF
    with pytest.raises(TypeError):
        kind.from_buffer(bytes(kind.BYTES)).required_umem_size = 1
    mapped.close()


def test_wide_fields_unions_and_nested_assignment() -> None:
    alias = mlx5_ifc.alias_context()
    alias.access_key_raw = (1 << 256) - 2
    assert alias.access_key_raw == (1 << 256) - 2
    with pytest.raises(OverflowError):
        alias.access_key_raw = 1 << 256
    message = mlx5_ifc.create_qp_in(qpc={"log_sq_size": 3})
    other = mlx5_ifc.qpc(log_sq_size=5)
    message.qpc = other
    assert message.qpc == other
    assert message.to_dict()["qpc"]["log_sq_size"] == 5
    union = mlx5_ifc.hca_cap_union()
    union.cmd_hca_cap.migration = 1
    assert union.to_dict()["cmd_hca_cap"]["migration"] == 1
