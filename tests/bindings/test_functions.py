# SPDX-License-Identifier: GPL-2.0-or-later
"""Function-like macros: translated only where the compiler agrees, left out with a reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genbindings import functions
from genbindings.expression import Untranslatable, translate
from genbindings.generate import Options, text
from mlxuapi import vfio

Write = Callable[..., Path]

TRANSLATED = {
    "F_ADD(a, b) ((a) + (b))": ((2, 3), 5),
    "F_MASK(x) ((x) & ~F_ALL)": ((0xFF,), 0xF8),
    "F_VALID(x) ((x) & F_LOW ? ((x) & F_ALL) == F_LOW : 1)": ((3,), 0),
    "F_BOTH(a, b) ((a) && (b))": ((5, 3), 1),
    "F_EITHER(a, b) (!(a) || (b) > 2)": ((1, 3), 1),
    "F_NOT(x) (!!(x))": ((8,), 1),
    "F_ANY(x) ((x) == F_LOW || (x) == F_ALL || 3 == (x))": ((7,), 1),
    "F_CODE(a, b, c, d) ((__u32)(a) | (__u32)(b) << 8 | (__u32)(c) << 16 | (__u32)(d) << 24)": (
        (1, 2, 3, 4),
        0x04030201,
    ),
    "F_BIT(n) (1 << (n))": ((31,), 0x80000000),
    "F_HALF(x) ((x) / 2 % 5)": ((9,), 4),
    "F_TWICE(x) F_ADD(x, F_ADD(x, 0))": ((4,), 8),
    "F_NONE() (F_ALL + 010 + 'a')": ((), 7 + 8 + 97),
    "F_PICK(type, l) ((type) ? (l) : F_ENUM)": ((0, 9), 3),
    "F_REST(x, y) ((x) | 1)": ((4, 0), 5),
    "F_TEXTUAL(x) (F_SUM * (x))": ((2,), None),
}
OMITTED = {
    "F_PASTE(x) (F_##x)": "it makes text or names of its arguments",
    "F_TEXT(x) #x": "it makes text or names of its arguments",
    "F_MANY(x, ...) ((x) + 1)": "it takes any number of arguments",
    "F_EMPTY(x)": "it has no value",
    "F_LOOP(x) do { (x)++; } while (0)": "it is not an expression",
    "F_SIZE(x) sizeof(x)": "it applies sizeof",
    "F_MEMBER(x) ((x)->value)": "it reaches into a struct",
    "F_ITEM(x) ((x)[1])": "it reaches into an array",
    "F_UNKNOWN(x) (undeclared_name + (x))": "it uses undeclared_name",
    "F_SIGN(x) ((signed char)(x))": "it casts to signed char",
    'F_STRING(x) ((x) ? "a" : "b")': "it is not an expression over numbers",
    "F_WIDTH(x) (~(x))": "in C, F_WIDTH(0U) is not -1",
    "F_USES_WIDTH(x) (F_WIDTH(x) + 1)": "in C, F_USES_WIDTH(1U) is not -1",
    "F_HIDES_WIDTH(x) (F_WIDTH(x) & 0)": "it uses F_WIDTH, which has no counterpart",
    "F_SELF(x) F_SELF(x)": "it uses F_SELF",
    "F_VALUE(x) (F_ADD + (x))": "not a constant for constant arguments",
    "f_struct(x) (x)": "a struct has its name",
}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    lines = [
        "#include <linux/types.h>",
        "#define F_ALL 7",
        "#define F_LOW 1",
        "#define F_SUM 1 + 2",
        "enum { F_ENUM = 3 };",
        "struct f_struct { int x; };",
        *(f"#define {macro}" for macro in (*TRANSLATED, *OMITTED)),
    ]
    path = tmp_path_factory.mktemp("functions") / "sample.h"
    path.write_text("\n".join(lines) + "\n")
    rendered, _, _ = text(Options(str(path)), "ctypes")
    namespace: dict[str, Any] = {"__name__": "sample"}
    exec(compile(rendered, "sample", "exec"), namespace)
    return namespace, rendered


@pytest.mark.parametrize(
    "macro", [name for name, case in TRANSLATED.items() if case[1] is not None]
)
def test_translated(macro: str, generated: tuple[dict[str, Any], str]) -> None:
    arguments, expected = TRANSLATED[macro]
    function = generated[0][macro.partition("(")[0]]
    found = function(*arguments)
    assert (found, type(found)) == (expected, int)
    assert function.__doc__.startswith("In C, F_")


@pytest.mark.parametrize("macro", OMITTED)
def test_left_out_with_a_reason(macro: str, generated: tuple[dict[str, Any], str]) -> None:
    name = macro.partition("(")[0]
    assert not callable(generated[0].get(name)) or name == "f_struct"
    listed = re.search(rf"^  {name} \(sample\.h:\d+\): (.*)$", generated[1], re.MULTILINE)
    assert listed, f"{name} is not listed"
    assert listed[1].startswith(f"function-like macro: {OMITTED[macro]}")


def test_a_macro_whose_text_binds_otherwise_in_c_is_left_out(
    generated: tuple[dict[str, Any], str],
) -> None:
    # F_SUM * 2 is 1 + 2 * 2 in C, and 3 * 2 in a translation that takes names for values.
    assert "F_TEXTUAL" not in generated[0]
    assert "in C, F_TEXTUAL(0) is not 0" in generated[1]


def test_vfio_states() -> None:
    resuming, running = vfio.VFIO_DEVICE_STATE_V1_RESUMING, vfio.VFIO_DEVICE_STATE_V1_RUNNING
    assert vfio.VFIO_DEVICE_STATE_VALID(resuming | running) == 0
    assert vfio.VFIO_DEVICE_STATE_VALID(resuming) == 1
    assert vfio.VFIO_DEVICE_STATE_VALID(running) == 1
    error = vfio.VFIO_DEVICE_STATE_SET_ERROR(running)
    assert vfio.VFIO_DEVICE_STATE_IS_ERROR(error) == 1
    assert vfio.VFIO_DEVICE_STATE_IS_ERROR(resuming) == 0


def test_the_compiler_has_the_last_word(header: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> tuple[str, list[str]]:
        found, names = translate(*arguments)
        return found.replace("+", "-"), names

    monkeypatch.setattr(functions, "translate", wrong)
    source = header("#define ADD(a, b) ((a) + (b))\n#define ONE(x) ((x) | 1)\n")
    _, found, _ = text(Options(str(source)), "ctypes")
    assert list(found.functions) == ["ONE"]
    assert [item.name for item in found.omitted] == ["ADD"]
    assert "in C, ADD(0, 5) is not -5" in found.omitted[0].reason


def test_selected_macros_bring_what_they_use(header: Write) -> None:
    source = header(
        "#define LOW 1\n#define OTHER 2\nenum { HIGH = 8, LOWER };\n"
        "#define BOTH(x) ((x) & (LOW | HIGH))\n#define CALLS(x) BOTH((x) + 1)\n"
    )
    _, found, _ = text(Options(str(source), select="^CALLS$"), "ctypes")
    assert (list(found.functions), list(found.constants)) == (["BOTH", "CALLS"], ["LOW"])
    assert [dict(enum.values) for enum in found.enums] == [{"HIGH": 8}]


@pytest.mark.parametrize("given", ["x); int y = (2", "", "x +", "({ int y; })", "0x1.8p3", "'ab'"])
def test_what_is_no_expression(given: str) -> None:
    with pytest.raises(Untranslatable):
        translate(given, ["x"], lambda name: name)
