# SPDX-License-Identifier: GPL-2.0-or-later
"""The backends: one function and one template for each kind of output.

A backend turns a :class:`genbindings.model.Header` into text. It decides everything, and hands the
template values to print. To add one, write its module and template and name it here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genbindings.backends.c_assert import c_assert
from genbindings.backends.ctypes_module import ctypes_module

if TYPE_CHECKING:
    from collections.abc import Callable

    from genbindings.model import Header

BACKENDS: dict[str, Callable[[Header], str]] = {
    "ctypes": ctypes_module,
    "c-assert": c_assert,
}
