# SPDX-License-Identifier: GPL-2.0-or-later
"""Layouts from debugging information, against the C compiler and against pahole."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from genbindings.dwarf import BitsAt, FieldAt, struct_layouts
from genbindings.errors import Error

if TYPE_CHECKING:
    from pathlib import Path

Values = Callable[[str, dict[str, str], list[str]], dict[str, int]]

SOURCE = """
typedef unsigned int u32;
typedef struct plain { char c; long l; } plain_t;
struct flags { u32 low : 3, high : 7; char tail; };
struct outer {
    u32 first;
    union { u32 word; struct { short a, b; }; plain_t named; };
    plain_t table[2][3];
    volatile const plain_t qualified;
    enum kind { ONE, MANY } kind;
    void (*call)(struct outer *);
    struct flags flags;
    struct { int x; } untagged;
    unsigned char rest[];
};
struct packed { char c; long l; } __attribute__((packed));
struct declared_only;
struct aligned { char c; long l __attribute__((aligned(64))); };
struct bits {
    char first;
    u32 low : 3, : 2, high : 7;
    struct { u32 word; u32 deep : 2; };
};
struct outer instance_NAME;
struct bits bits_NAME;
struct flags flags_NAME;
struct packed packed_NAME;
struct aligned aligned_NAME;
struct declared_only *pointer_NAME;
int function_NAME(void) { struct outer local = { .first = 1 }; return local.first; }
"""
FIELDS = {
    "plain": ["c", "l"],
    "flags": ["tail"],
    "outer": [
        *["first", "word", "a", "b", "named", "table", "qualified", "kind", "call", "flags"],
        "untagged",
    ],
    "packed": ["c", "l"],
    "aligned": ["c", "l"],
}


@pytest.fixture(
    params=["-gdwarf-3", "-gdwarf-4", "-gdwarf-5", "-gdwarf-5 -gz", "-gdwarf-5 -gdwarf64"]
)
def options(request: pytest.FixtureRequest) -> list[str]:
    return str(request.param).split()


def build(folder: Path, options: list[str]) -> Path:
    """Build a relocatable file from two objects, as a kernel module is."""
    objects = []
    for name in ("one", "two"):
        source = folder / f"{name}.c"
        source.write_text(SOURCE.replace("NAME", name))
        objects.append(str(folder / f"{name}.o"))
        subprocess.run(["cc", "-c", *options, "-o", objects[-1], str(source)], check=True)
    linked = folder / "module.ko"
    subprocess.run(["ld", "-r", "-o", str(linked), *objects], check=True)
    return linked


def test_layouts_of_a_relocatable_file(
    tmp_path: Path, options: list[str], c_values: Values
) -> None:
    layouts = struct_layouts(build(tmp_path, options), [*FIELDS, "declared_only", "no_such"])
    assert set(layouts) == set(FIELDS)
    expressions: dict[str, str] = {}
    found: dict[str, int] = {}
    for struct, fields in FIELDS.items():
        expressions[struct] = f"sizeof(struct {struct})"
        found[struct] = layouts[struct].size
        assert layouts[struct].name == struct
        for field in fields:
            at = layouts[struct].fields[field]
            expressions[f"{struct}.{field}"] = f"__builtin_offsetof(struct {struct}, {field})"
            found[f"{struct}.{field}"] = at.offset
            expressions[f"{struct}.{field} size"] = f"sizeof(((struct {struct} *)0)->{field})"
            found[f"{struct}.{field} size"] = at.size
    assert c_values(SOURCE.replace("NAME", "oracle"), expressions, []) == found


def test_embedded_structs_bitfields_and_flexible_arrays(tmp_path: Path) -> None:
    layouts = struct_layouts(build(tmp_path, ["-g"]), FIELDS)
    outer = layouts["outer"].fields
    assert outer["named"] == FieldAt(offset=8, size=16, struct="plain")
    assert outer["qualified"].struct == "plain"
    assert outer["flags"].struct == "flags"
    assert outer["untagged"].struct is None
    assert outer["table"].struct is None
    assert outer["rest"] == FieldAt(offset=layouts["outer"].size, size=0, struct=None)
    assert set(layouts["flags"].fields) == {"tail"}


def test_bitfields_are_counted_in_bits(tmp_path: Path, options: list[str]) -> None:
    layout = struct_layouts(build(tmp_path, options), ["bits"])["bits"]
    assert set(layout.fields) == {"first", "word"}
    # As the x86-64 ABI has it; the two bits without a name are left out.
    assert layout.bits == {"low": BitsAt(8, 3), "high": BitsAt(13, 7), "deep": BitsAt(64, 2)}


@pytest.mark.skipif(shutil.which("pahole") is None, reason="pahole (package dwarves) is missing")
def test_pahole_agrees(tmp_path: Path) -> None:
    module = build(tmp_path, ["-g"])
    layouts = struct_layouts(module, ["plain", "packed", "aligned"])
    for name, layout in layouts.items():
        text = subprocess.run(
            ["pahole", "-C", name, str(module)], check=True, capture_output=True, text=True
        ).stdout
        fields = re.findall(r"\s(\w+)(?:\s+__attribute__\S+)?; +/\* +(\d+) +(\d+) ", text)
        assert {n: (f.offset, f.size) for n, f in layout.fields.items()} == {
            field: (int(offset), int(size)) for field, offset, size in fields
        }


def test_files_without_debugging_information_are_refused(tmp_path: Path) -> None:
    bare = build(tmp_path, ["-g0"])
    with pytest.raises(Error, match="has no debugging information"):
        struct_layouts(bare, ["outer"])
    text = tmp_path / "text.ko"
    text.write_text("not an object\n")
    with pytest.raises(Error, match="is not a readable ELF file"):
        struct_layouts(text, ["outer"])
    with pytest.raises(Error, match=r"cannot read .*: No such file"):
        struct_layouts(tmp_path / "missing.ko", ["outer"])
