# SPDX-License-Identifier: GPL-2.0-or-later
"""What the bindings' tests share: kernel headers, and the C compiler as an oracle."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mlxpatch.kernels import ensure_source
from mlxpatch.progress import Progress

Values = Callable[[str, dict[str, str], list[str]], dict[str, int]]
Sources = Callable[[str], Path]


@pytest.fixture(scope="session")
def kernel_source() -> Sources:
    """Return a function that gives the sources of Linux ``X.Y``, downloaded once into the cache."""

    @functools.cache
    def tree(series: str) -> Path:
        return ensure_source(series, Progress("tests", quiet=True)).root

    return tree


@pytest.fixture
def c_values(tmp_path: Path) -> Values:
    """Return a function that compiles and runs C expressions: the oracle of the bindings.

    It takes a C text, expressions by key, and compiler options; it returns the values by key.
    """

    def values(source: str, expressions: dict[str, str], options: list[str]) -> dict[str, int]:
        prints = [
            f'  printf("%llu\\n", (unsigned long long)({expression}));'
            for expression in expressions.values()
        ]
        program = tmp_path / "oracle.c"
        program.write_text(
            "\n".join(["#include <stdio.h>", source, "int main(void) {", *prints, "return 0; }"])
        )
        command = ["cc", "-w", *options, "-o", str(tmp_path / "oracle"), str(program)]
        subprocess.run(command, check=True)
        run = subprocess.run([str(tmp_path / "oracle")], check=True, capture_output=True, text=True)
        return dict(zip(expressions, map(int, run.stdout.split()), strict=True))

    return values


@pytest.fixture
def header(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a header with the given text and returns its path."""

    def write(text: str, name: str = "sample.h") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write
