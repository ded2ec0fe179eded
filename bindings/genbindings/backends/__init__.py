# SPDX-License-Identifier: GPL-2.0-or-later
"""The backends: one module and one template for each kind of output.

A backend turns a :class:`genbindings.model.Header` into text. It decides everything, and hands the
template values to print. Its module's name says what it is for: ``FORMAT_DIALECT.py`` with the
dialect ``bytes``, ``bits`` or ``any``, and ``_`` for a ``-`` in the format; its function ``render``
takes the header and returns the text.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from genbindings.model import Dialect, Header

_DIALECTS = ("bytes", "bits", "any")


def formats() -> list[str]:
    """Return the names of the formats."""
    return sorted({name for name, _ in _modules()})


def load(output_format: str, dialect: Dialect) -> Callable[[Header], str]:
    """Return the backend for one of :func:`formats` and a dialect.

    Raises:
        KeyError: there is none.
    """
    modules = _modules()
    # A run imports the one backend that it needs.
    name = modules.get((output_format, dialect)) or modules[output_format, "any"]
    return cast("Callable[[Header], str]", import_module(f"{__name__}.{name}").render)


def render(header: Header, output_format: str) -> str:
    """Return ``header`` in one of :func:`formats`."""
    return load(output_format, header.dialect)(header)


def _modules() -> dict[tuple[str, str], str]:
    """Return the backends' modules by format and dialect."""
    found: dict[tuple[str, str], str] = {}
    for folder in __path__:
        for path in Path(folder).iterdir():
            stem, suffix = path.stem, path.suffix
            name, _, dialect = stem.rpartition("_")
            if suffix == ".py" and name and dialect in _DIALECTS:
                found[name.replace("_", "-"), dialect] = stem
    return found
