# SPDX-License-Identifier: GPL-2.0-or-later
"""Function-like macros as Python functions, alike in every Python module."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.backends.python_text import WIDTH, docstring

if TYPE_CHECKING:
    from genbindings.model import Function, Header


@dataclass(frozen=True, slots=True)
class FunctionText:
    """A function as the templates print it: its ``def`` line, its docstring, its statement."""

    signature: str
    docstring: str
    body: str


def function_text(function: Function) -> FunctionText:
    """Return ``function`` as Python text; its C text is in the docstring."""
    parameters = ", ".join(f"{name}: int" for _, name in function.parameters)
    c_names = ", ".join(name for name, _ in function.parameters)
    source = " ".join(function.source.split())
    doc = "\n\n".join(filter(None, (function.doc, f"In C, {function.name}({c_names}) is {source}")))
    body = f"    return {function.expression}"
    return FunctionText(
        f"def {function.name}({parameters}) -> int:",
        docstring(doc, 4),
        body if len(body) <= WIDTH else _broken(function.expression),
    )


def stub_lines(header: Header) -> list[str]:
    """Return the functions of ``header`` as a stub declares them."""
    return [f"{function_text(each).signature} ..." for each in header.functions.values()]


def _broken(expression: str) -> str:
    """Return the ``return`` statement of a long expression, broken where there are spaces."""
    lines = textwrap.wrap(expression, WIDTH - 8, break_long_words=False, break_on_hyphens=False)
    body = "\n".join(f"        {line}" for line in lines)
    # Where the formatter would break it depends on its version.
    return f"    return (\n{body}\n    )  # fmt: skip"
