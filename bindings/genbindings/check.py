# SPDX-License-Identifier: GPL-2.0-or-later
"""Generated files under version control: declared in pyproject.toml, regenerated, compared."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genbindings.backends import formats
from genbindings.errors import Error, UsageError
from genbindings.generate import Options, text
from genbindings.locate import kernel_tree

if TYPE_CHECKING:
    from pathlib import Path

_KEYS = {"header", "kernel", "output", "select", "format"}


@dataclass(frozen=True, slots=True)
class Declared:
    """A generated file: how it is made, and where it is."""

    options: Options
    output: Path
    output_format: str

    def text(self) -> str:
        """Return what the file has to hold.

        Raises:
            Error: it cannot be generated.
        """
        return text(self.options, self.output_format)[0]


def declared(project: Path) -> list[Declared]:
    """Return the ``[[tool.gen-bindings.module]]`` tables of ``project``, a pyproject.toml.

    Each has ``header`` and ``output`` (relative to the file), and may have ``kernel`` (a kernel
    tree, or a source package such as ``linux-source-6.12`` that is in the cache), ``select`` and
    ``format``.

    Raises:
        Error: there is no such file or table, or a table is wrong.
    """
    try:
        content = tomllib.loads(project.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {project}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise Error(f"{project}: {error}") from None
    tables = content.get("tool", {}).get("gen-bindings", {}).get("module", [])
    if not tables:
        raise Error(f"{project} declares no [[tool.gen-bindings.module]]")
    return [_declared(table, project) for table in tables]


def _declared(table: dict[str, Any], project: Path) -> Declared:
    where = f"{project}: [[tool.gen-bindings.module]]"
    for key, value in table.items():
        if key not in _KEYS:
            raise Error(f"{where}: unknown key {key!r}", f"known: {', '.join(sorted(_KEYS))}")
        if not isinstance(value, str):
            raise Error(f"{where}: {key} is not a string")
    for key in ("header", "output"):
        if key not in table:
            raise Error(f"{where}: no {key}")
    output_format = table.get("format", "ctypes")
    if output_format not in formats():
        raise Error(f"{where}: unknown format {output_format!r}", f"one of {', '.join(formats())}")
    kernel = kernel_tree(table["kernel"], project.parent) if "kernel" in table else None
    options = Options(table["header"], kernel=kernel, select=table.get("select"))
    return Declared(options, project.parent / table["output"], output_format)
