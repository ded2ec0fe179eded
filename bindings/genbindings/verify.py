# SPDX-License-Identifier: GPL-2.0-or-later
"""Proof that a generated text says what the compiler says.

The c-assert backend restates every size, alignment, offset and number of the model as static
assertions beside the header; one more compiler run checks them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genbindings.assertions import assertions
from genbindings.compiler import CompileError, Compiler
from genbindings.errors import Error

if TYPE_CHECKING:
    from genbindings.assemble import Input
    from genbindings.model import Header


def verify(header: Header, given: Input, compiler: Compiler) -> None:
    """Have the compiler check the model of ``given``.

    Raises:
        Error: it disagrees; nothing generated from this model can be trusted.
    """
    try:
        compiler.check(given.source + "\n".join(assertions(header)) + "\n")
    except CompileError as error:
        raise Error(
            f"{header.name}: the compiler disagrees with the model: {error}",
            "this is a bug in gen-bindings; please report it with the header",
        ) from None
