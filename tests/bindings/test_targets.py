# SPDX-License-Identifier: GPL-2.0-or-later
"""Other compilers and other machines: their layouts and numbers, read from objects nobody runs."""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from genbindings.backends import render
from genbindings.dwarf.sections import read_object
from genbindings.generate import Options, model
from mlxuapi import vfio
from mlxuapi.runtime import Bits

Sources = Callable[[str], Path]
Write = Callable[..., Path]

# Target, as the compiler says it, and the number of VFIO_GET_API_VERSION there: _IO is 1 << 29
# where reading and writing take three bits.
TARGETS = {
    "powerpc64-linux-gnu-gcc": ("powerpc64", 0x20003B64),
    "clang": ("x86_64", 0x3B64),
    "clang --target=powerpc64-linux-gnu": ("powerpc64", 0x20003B64),
    "clang --target=aarch64-linux-gnu": ("aarch64", 0x3B64),
    "clang --target=mips64el-linux-gnu": ("mips64el", 0x20003B64),
    "clang --target=s390x-linux-gnu": ("s390x", 0x3B64),
    "clang --target=i686-linux-gnu": ("i686", 0x3B64),
}
SAMPLE = """#include <linux/types.h>
struct sample {
	__u8 tag;
	void *next;
	long count;
	long long wide;
	__u32 low : 3, mid : 7;
	__s32 sign : 5;
	__u8 tail;
};
struct packed { __u8 tag; __u64 value; } __attribute__((packed));
struct outer { struct { __u8 a; __u64 b; } __attribute__((packed)) inner; __u8 last; };
"""


def by_hand(compiler: str, source: str, expressions: list[str], folder: Path) -> list[int]:
    """Return constant expressions as ``compiler`` writes them into an object, not run."""
    values = ", ".join(f"(unsigned long long)({text})" for text in expressions)
    (folder / "oracle.c").write_text(
        f"{source}\nconst unsigned long long values[]"
        f' __attribute__((section(".oracle"), used)) = {{ {values} }};\n'
    )
    output = folder / "oracle.o"
    command = [*compiler.split(), "-w", "-g", "-c", "-o", str(output), str(folder / "oracle.c")]
    subprocess.run(command, check=True)
    order, sections = read_object(output, (".oracle",))
    byteorder: Literal["little", "big"] = "big" if order == ">" else "little"
    data = sections[".oracle"]
    return [int.from_bytes(data[at : at + 8], byteorder) for at in range(0, len(data), 8)]


@pytest.mark.parametrize("compiler", TARGETS)
def test_vfio_of_a_target(compiler: str, kernel_source: Sources) -> None:
    target, number = TARGETS[compiler]
    found, _ = model(Options("vfio.h", kernel=kernel_source("6.12"), cc=compiler))
    assert found.target.split("-")[0] == target
    assert found.ioctls["VFIO_GET_API_VERSION"].number == number
    assert (len(list(found.own_structs())), len(found.ioctls), len(found.constants)) == (
        49,
        34,
        142,
    )
    text = render(found, "ctypes")
    assert f"VFIO_GET_API_VERSION = Ioctl(\n    0x{number:X}," in text
    assert f"those of {found.target}, as" in text


def test_clang_says_what_gcc_says(kernel_source: Sources) -> None:
    for header in ("vfio.h", "mlx5_ifc.h"):
        for kernel in ("6.1", "6.12"):
            gcc, _ = model(Options(header, kernel=kernel_source(kernel)))
            clang, _ = model(Options(header, kernel=kernel_source(kernel), cc="clang"))
            assert render(gcc, "json") == render(clang, "json"), (header, kernel)


@pytest.mark.parametrize("compiler", [*TARGETS, "cc -m32"])
def test_layouts_of_a_target(compiler: str, header: Write, tmp_path: Path) -> None:
    source = header(SAMPLE.replace("<linux/types.h>", '"types.h"'))
    (tmp_path / "types.h").write_text(
        "typedef unsigned char __u8;\ntypedef unsigned int __u32;\ntypedef int __s32;\n"
        "typedef unsigned long long __u64;\n"
    )
    found, _ = model(Options(str(source), cc=compiler))
    described: dict[str, Any] = json.loads(render(found, "json"))["structs"]
    expressions: dict[str, int] = {}
    for name in ("sample", "packed", "outer"):
        struct = described[name]
        expressions[f"sizeof(struct {name})"] = struct["size"]
        expressions[f"_Alignof(struct {name})"] = struct["align"]
        for field in struct["fields"]:
            if "bit_size" not in field:
                at = f"__builtin_offsetof(struct {name}, {field['name']})"
                expressions[at] = field["offset"]
    text = source.read_text().replace('"types.h"', f'"{tmp_path}/types.h"')
    assert by_hand(compiler, text, list(expressions), tmp_path) == list(expressions.values())


@pytest.mark.parametrize("compiler", ["cc", "powerpc64-linux-gnu-gcc", "clang"])
def test_bitfields_are_where_the_target_has_them(
    compiler: str, header: Write, tmp_path: Path
) -> None:
    body = SAMPLE.replace("#include <linux/types.h>", "").replace("__u", "u").replace("__s", "s")
    types = "typedef unsigned char u8; typedef unsigned int u32; typedef int s32;"
    source = header(f"{types} typedef unsigned long long u64;\n{body}")
    found, _ = model(Options(str(source), cc=compiler))
    (tmp_path / "value.c").write_text(
        f'#include "{source}"\nconst struct sample value'
        ' __attribute__((section(".value"), used)) = { .low = 5, .mid = 99, .sign = -7 };\n'
    )
    output = str(tmp_path / "value.o")
    subprocess.run(
        [*compiler.split(), "-g", "-c", "-o", output, str(tmp_path / "value.c")], check=True
    )
    order, sections = read_object(Path(output), (".value",))
    values = {"low": 5, "mid": 99, "sign": -7}
    for field in found.structs["sample"].fields:
        if field.bit_size is None:
            continue
        assert field.bit_offset is not None
        bits = Bits(
            field.bit_offset,
            field.bit_size,
            signed=field.name == "sign",
            order="big" if order == ">" else "little",
        )
        # A class of its own, large enough: the descriptor reads its owner's bytes.
        owner: Any = type(
            "Owner", (ctypes.Structure,), {"_fields_": [("all", ctypes.c_ubyte * 64)]}
        )
        record = owner.from_buffer_copy(sections[".value"].ljust(64, b"\0"))
        assert bits.__get__(record) == values[field.name]
        bits.__set__(record, 1)
        assert bits.__get__(record) == 1


def test_a_tree_without_the_target_says_so(kernel_source: Sources, tmp_path: Path) -> None:
    """The header of a tree that lacks the target's part is refused, not taken from elsewhere."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("include", "scripts"):
        (tree / name).symlink_to(kernel_source("6.12") / name)
    from genbindings.errors import Error

    with pytest.raises(Error, match=r"types\.h:\d+: .*asm/types\.h"):
        model(Options("vfio.h", kernel=tree, cc="powerpc64-linux-gnu-gcc"))


def test_shipped_numbers_are_those_of_this_machine() -> None:
    assert re.search(r"those of x86_64", vfio.__doc__ or "")
    assert vfio.VFIO_GET_API_VERSION == 0x3B64
