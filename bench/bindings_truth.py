# SPDX-License-Identifier: GPL-2.0-or-later
"""What the C compiler says of a header, and how much of it a Python module has right.

The truth is computed by a C program; from gen-bindings come only the names to ask for. The judging
half runs alone, in the interpreter of the generator that wrote the module:
``bindings_truth.py TRUTH.json MODULE.py``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# How generators spell the class of a struct.
SPELLINGS = ("{}", "struct_{}", "union_{}")


def truth(found: Any, source: str, options: list[str], folder: Path) -> dict[str, Any]:
    """Return sizes, offsets and values of everything in the model ``found``, asked of cc.

    ``found`` gives the names (in the bit dialect, sizes are bits).
    """
    asked: list[tuple[str, str, str]] = []
    for struct in found.own_structs():
        if "." in struct.name:
            continue
        asked.append(("size", struct.name, f"sizeof({struct.spelling})"))
        for field in found.flat_fields(struct):
            path = f"{struct.name} {field.name}"
            asked.append(("offset", path, f"__builtin_offsetof({struct.spelling}, {field.name})"))
    for enum in found.enums:
        asked += [("enumerator", name, f"(unsigned long long)({name})") for name in enum.values]
    for name, constant in found.constants.items():
        if isinstance(constant.value, int):
            asked.append(("macro", name, f"(unsigned int)({name})"))
    asked += [("ioctl", name, f"(unsigned int)({name})") for name in found.ioctls]
    lines = [
        f'printf("%llu\\n", (unsigned long long)({expression}));' for _, _, expression in asked
    ]
    text = "\n".join(["#include <stdio.h>", source, "int main(void) {", *lines, "return 0; }"])
    (folder / "truth.c").write_text(text)
    program = str(folder / "truth")
    subprocess.run(["cc", "-w", *options, "-o", program, str(folder / "truth.c")], check=True)
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    result: dict[str, Any] = {"structs": {}, "enumerators": {}, "macros": {}, "ioctls": {}}
    for (kind, name, _), value in zip(asked, map(int, output.split()), strict=True):
        if kind == "size":
            result["structs"][name] = {"size": value, "offsets": {}}
        elif kind == "offset":
            struct_name, field_name = name.split()
            result["structs"][struct_name]["offsets"][field_name] = value
        else:
            result[f"{kind}s"][name] = value
    strings = {n: c.value for n, c in found.constants.items() if isinstance(c.value, str)}
    result["macros"].update(strings)
    return result


def judge(expected: dict[str, Any], path: Path) -> dict[str, float]:
    """Import the module at ``path``; return how much of ``expected`` it has, and the time in ms."""
    begin = time.perf_counter()
    spec = importlib.util.spec_from_file_location("judged", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["judged"] = module
    spec.loader.exec_module(module)
    found: dict[str, float] = {"import_ms": 1e3 * (time.perf_counter() - begin)}
    found["structs"] = sum(
        _struct(module, name, struct) for name, struct in expected["structs"].items()
    )
    for kind in ("enumerators", "macros", "ioctls"):
        found[kind] = sum(_number(module, name, value) for name, value in expected[kind].items())
    return found


def _struct(module: Any, name: str, expected: dict[str, Any]) -> bool:
    short = name.removeprefix("mlx5_ifc_").removesuffix("_bits")
    names = [spelling.format(name) for spelling in SPELLINGS] + [short]
    kind = next((getattr(module, each) for each in names if hasattr(module, each)), None)
    if kind is None:
        return False
    if hasattr(kind, "BITS"):
        # Reserved fields are not in the class; of the others, every offset.
        offsets = {field: at for field, at in expected["offsets"].items() if field in kind.FIELDS}
        named = {field for field in expected["offsets"] if not field.startswith("rese")}
        exact = all(kind.FIELDS[field].offset == at for field, at in offsets.items())
        return bool(expected["size"] == kind.BITS and exact and named <= set(kind.FIELDS))
    try:
        exact = ctypes.sizeof(kind) == expected["size"]
        return exact and all(
            getattr(kind, field).offset == at for field, at in expected["offsets"].items()
        )
    except (AttributeError, TypeError):
        return False


def _number(module: Any, name: str, expected: int | str) -> bool:
    value = getattr(module, name, None)
    if isinstance(expected, str):
        return value in (expected, expected.encode())
    if isinstance(value, int):
        return value & 0xFFFFFFFFFFFFFFFF == expected or value & 0xFFFFFFFF == expected
    return isinstance(value, str) and len(value) == 1 and ord(value) == expected


if __name__ == "__main__":
    print(json.dumps(judge(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))))
