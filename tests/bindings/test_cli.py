# SPDX-License-Identifier: GPL-2.0-or-later
"""The command: every diagnostic, formats, selection, diff, check, and whole output files only."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Sources = Callable[[str], Path]
Write = Callable[..., Path]
# One folder per diagnostic: `sample.h`, `args` (a line of arguments), `err` (standard error).
DIAGNOSTICS = sorted(path for path in Path(__file__).with_name("diagnostics").iterdir())

# Typographic quotes of compilers to plain ones.
_QUOTES = {0x2018: "'", 0x2019: "'"}

SAMPLE = """/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/* Sample interface */
#include <linux/types.h>
#include <linux/ioctl.h>

#define SAMPLE_FLAG (1 << 31)	/* the highest */
#define SAMPLE_NAME "sam" "ple"
#define SAMPLE_NEGATIVE -1
#define SAMPLE_BIG 0xFFFFFFFFFFFFFFFFULL
#define SAMPLE_CALL(x) ((x) + 1)

/**
 * struct sample_arg - what it is about
 * @pair: two numbers
 */
struct sample_arg {
	__u32 argsz;
	struct { __u8 low, high; } pair;
	union { __u64 wide; struct { __u32 lo, hi; }; };
	__u8 name[4][2];
	struct sample_arg *next;	/* a list */
	__s16 rest[];
};

struct sample_packed { __u8 tag; __u32 value; } __attribute__((packed));
struct sample_bits { __u32 low : 3, mid : 7; __s32 sign : 5; __u8 tail; };
struct sample_pass { __u8 from; struct sample_packed sample_packed; };
enum sample_state { SAMPLE_DOWN = -2, SAMPLE_UP };

#define SAMPLE_GET _IOWR('s', 1, struct sample_arg)
"""


def run(
    *arguments: str | Path, cwd: Path | None = None, cache: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("gen-bindings")), *map(str, arguments)]
    env = {**os.environ, **({"XDG_CACHE_HOME": str(cache)} if cache else {})}
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd, env=env)


def load(path: Path) -> Any:
    namespace: dict[str, Any] = {"__name__": path.stem}
    exec(compile(path.read_text(), path.name, "exec"), namespace)
    return namespace


@pytest.mark.parametrize("case", DIAGNOSTICS, ids=lambda path: path.name)
def test_diagnostics(case: Path, tmp_path: Path) -> None:
    done = run(*shlex.split((case / "args").read_text()), cwd=case, cache=tmp_path)
    text = done.stderr.replace(str(case), "CASE").replace(str(tmp_path), "CACHE")
    text = re.sub(r"(not found in )\d+", r"\1N", text).translate(_QUOTES)
    status = int((case / "status").read_text())
    assert (text, done.returncode) == ((case / "err").read_text(), status)
    assert done.stdout == ""


def test_a_header_with_everything(header: Write, tmp_path: Path) -> None:
    output = tmp_path / "sample.py"
    done = run("--header", header(SAMPLE), "-o", output)
    assert done.returncode == 0, done.stderr
    module = load(output)
    assert module["SAMPLE_FLAG"] == 0x80000000
    assert module["SAMPLE_NAME"] == "sample"
    assert module["SAMPLE_NEGATIVE"] == -1
    assert module["SAMPLE_BIG"] == 0xFFFFFFFFFFFFFFFF
    assert (module["SAMPLE_DOWN"], module["SAMPLE_UP"]) == (-2, -1)
    arg = module["sample_arg"]
    assert "pair: two numbers" in arg.__doc__
    assert "next: a list" in arg.__doc__
    record = arg(wide=0x1_0000_0002)
    assert (record.lo, record.hi) == (2, 1)
    record.pair.high = 3
    assert bytes(record)[5] == 3
    get = module["SAMPLE_GET"]
    assert get.struct is arg
    assert get == 0xC0007301 | ctypes.sizeof(arg) << 16
    packed = module["sample_packed"]
    assert (ctypes.sizeof(packed), ctypes.alignment(packed)) == (5, 1)
    value = packed.from_buffer(bytearray(b"\x01\x02\x03\x04\x05"))
    assert (value.tag, value.value) == (1, 0x05040302)
    value.value = 7
    assert bytes(value) == b"\x01\x07\0\0\0"
    bits = module["sample_bits"]()
    bits.low, bits.mid, bits.sign, bits.tail = 5, 100, -3, 9
    assert (bits.low, bits.mid, bits.sign, bits.tail) == (5, 100, -3, 9)
    with pytest.raises(OverflowError):
        bits.low = 8
    assert module["SAMPLE_CALL"](4) == 5
    assert "_pack_" not in output.read_text()


def test_generated_modules_pass_the_strict_checkers(header: Write, tmp_path: Path) -> None:
    source = header(SAMPLE)
    for name, form in (("sample.py", "ctypes"), ("stub/sample.pyi", "pyi")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        assert run("--header", source, "--format", form, "-o", path).returncode == 0
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, path.name],
            check=False,
            capture_output=True,
            text=True,
            cwd=path.parent,
        )
        assert done.returncode == 0, done.stdout


def test_json(header: Write) -> None:
    done = run("--header", header(SAMPLE), "--format", "json")
    found = json.loads(done.stdout)
    assert set(found) == {"header", "structs", "enums", "constants", "ioctls", "omitted"}
    fields = {field["name"]: field for field in found["structs"]["sample_arg"]["fields"]}
    assert fields["lo"]["offset"] == fields["wide"]["offset"] == 8
    assert fields["name"]["count"] == [4, 2]
    rest = {"name": "rest", "offset": 32, "size": 0, "type": "__s16", "count": None, "doc": ""}
    assert fields["rest"] == rest
    assert fields["pair"]["type"] == "sample_arg.pair"
    assert found["structs"]["sample_arg.pair"]["size"] == 2
    assert found["structs"]["sample_arg"]["location"] == "sample.h:16"
    assert found["enums"] == {"sample_state": {"SAMPLE_DOWN": -2, "SAMPLE_UP": -1}}
    assert found["ioctls"]["SAMPLE_GET"]["direction"] == "read-write"
    assert [item["name"] for item in found["omitted"]] == ["SAMPLE_CALL"]


def test_c_assertions_compile(header: Write, tmp_path: Path) -> None:
    source = header(SAMPLE)
    path = tmp_path / "check.c"
    assert run("--header", source, "--format", "c-assert", "-o", path).returncode == 0
    subprocess.run(["cc", "-w", "-fsyntax-only", str(path)], check=True)
    source.write_text(SAMPLE.replace("__u32 argsz", "__u64 argsz"))
    assert subprocess.run(["cc", "-fsyntax-only", str(path)], capture_output=True).returncode


def test_selection(header: Write) -> None:
    done = run("--header", header(SAMPLE), "--select", "^SAMPLE_GET$", "--format", "json")
    found = json.loads(done.stdout)
    assert set(found["structs"]) == {"sample_arg", "sample_arg.pair"}
    assert set(found["constants"]) == {"SAMPLE_GET"}
    assert found["enums"] == {}


def test_output_is_left_alone_when_it_is_the_same_or_cannot_be_made(
    header: Write, tmp_path: Path
) -> None:
    source, output = header(SAMPLE), tmp_path / "out.py"
    run("--header", source, "-o", output)
    before = output.stat()
    run("--header", source, "-o", output)
    assert output.stat().st_mtime_ns == before.st_mtime_ns
    assert output.stat().st_ino == before.st_ino
    source.write_text(SAMPLE + "struct broken { no_such_type x; };\n")
    assert run("--header", source, "-o", output).returncode == 1
    assert output.stat().st_ino == before.st_ino
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.py", "sample.h"]


def test_diff(tmp_path: Path) -> None:
    for name, text in (
        ("old", SAMPLE),
        ("new", SAMPLE.replace("__u8 low, high", "__u8 high, low")),
    ):
        folder = tmp_path / name / "include"
        folder.mkdir(parents=True)
        (folder / "sample.h").write_text(text)
    same = run("diff", tmp_path / "old", tmp_path / "old", "--header", "sample.h")
    assert (same.returncode, same.stdout) == (0, "sample.h: no changes\n")
    moved = run("diff", tmp_path / "old", tmp_path / "new", "--header", "sample.h")
    assert moved.returncode == 1
    assert moved.stdout.splitlines() == [
        "moved    field sample_arg.pair.low  0 to 1",
        "moved    field sample_arg.pair.high  1 to 0",
        "sample.h: 2 fields moved",
    ]


def test_diff_of_two_kernels(kernel_source: Sources) -> None:
    old, new = kernel_source("6.1"), kernel_source("6.12")
    done = run("diff", old, new, "--header", "mlx5_ifc.h")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("added    struct")]) == 47
    assert len([line for line in lines if line.startswith("removed  struct")]) == 4
    moved = [line.split()[2].split("_bits.")[1] for line in lines if line.startswith("moved")]
    assert sorted(moved) == ["log_page_size", "prio_tc", "relaxed_ordering_read", "shampo"]
    assert len([line for line in lines if line.startswith("resized  struct")]) == 7


def test_check(tmp_path: Path, header: Write) -> None:
    header(SAMPLE)
    project = tmp_path / "pyproject.toml"
    project.write_text(
        f'[[tool.gen-bindings.module]]\nheader = "{tmp_path}/sample.h"\noutput = "sample.py"\n'
    )
    assert run("check", "--project", project).stdout.endswith("sample.py: missing\n")
    assert run("check", "--project", project, "--write").returncode == 0
    assert run("check", "--project", project).returncode == 0
    (tmp_path / "sample.py").write_text("# edited\n")
    done = run("check", "--project", project)
    assert (done.returncode, done.stdout.split(": ")[1]) == (1, "differs\n")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs a compiler that knows -m32")
def test_another_target(header: Write, tmp_path: Path) -> None:
    source = header("struct sample_arg { void *next; long count; long long wide; };\n")
    done = run("--header", source, "--cc", "cc -m32", "--format", "json")
    fields = {f["name"]: f for f in json.loads(done.stdout)["structs"]["sample_arg"]["fields"]}
    assert (fields["next"]["size"], fields["count"]["offset"], fields["wide"]["offset"]) == (
        4,
        4,
        8,
    )
    output = tmp_path / "sample.py"
    assert run("--header", source, "--cc", "cc -m32", "-o", output).returncode == 0
