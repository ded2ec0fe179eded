# SPDX-License-Identifier: GPL-2.0-or-later
"""The backends: one function and one template for each kind of output.

A backend turns a :class:`genbindings.model.Header` into text. It decides everything, and hands the
template values to print. To add one, write its module and template and name it here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from genbindings.model import Dialect, Header

# Format and dialect to module and function: a run imports the one backend that it needs.
_BACKENDS: dict[tuple[str, Dialect], tuple[str, str]] = {
    ("ctypes", "bytes"): ("ctypes_module", "ctypes_module"),
    ("ctypes", "bits"): ("ifc_module", "ifc_module"),
    ("json", "bytes"): ("json_model", "json_model"),
    ("json", "bits"): ("json_model", "json_model"),
    ("pyi", "bytes"): ("ctypes_stub", "ctypes_stub"),
    ("pyi", "bits"): ("ifc_stub", "ifc_stub"),
    ("c-assert", "bytes"): ("c_assert", "c_assert"),
    ("c-assert", "bits"): ("c_assert", "c_assert"),
}

FORMATS = tuple(dict.fromkeys(name for name, _ in _BACKENDS))


def render(header: Header, output_format: str) -> str:
    """Return ``header`` in one of :data:`FORMATS`."""
    module, function = _BACKENDS[output_format, header.dialect]
    backend = getattr(import_module(f"genbindings.backends.{module}"), function)
    return cast("Callable[[Header], str]", backend)(header)
