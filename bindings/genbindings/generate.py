# SPDX-License-Identifier: GPL-2.0-or-later
"""One generation, from a header's name to verified text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings import ifc, uapi
from genbindings.assemble import Input, assemble
from genbindings.backends import render
from genbindings.compiler import Compiler
from genbindings.locate import Located, locate
from genbindings.select import select
from genbindings.verify import verify
from genbindings.verify_module import verify_module

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from genbindings.model import Header


@dataclass(frozen=True, slots=True)
class Options:
    """What a user can ask for; the defaults are those of the command line."""

    header: str
    kernel: Path | None = None
    includes: Sequence[Path] = ()
    defines: Sequence[str] = ()
    cc: str = "cc"
    select: str | None = None
    allow_missing: bool = False


def text(options: Options, output_format: str) -> tuple[str, Header, Located]:
    """Return verified text in one of the formats, its model, and where the header was found.

    Raises:
        Error: see :func:`model`; or the text does not say what the model does.
    """
    header, located = model(options)
    rendered = render(header, output_format)
    if output_format == "ctypes":
        verify_module(header, rendered)
    return rendered, header, located


def model(options: Options) -> tuple[Header, Located]:
    """Return the verified model of a header, and where the header was found.

    Raises:
        Error: see :mod:`genbindings.locate`, :mod:`genbindings.assemble` and
            :mod:`genbindings.verify`.
    """
    defines = [f"-D{define}" for define in options.defines]
    compiler = Compiler(options.cc, options.includes, defines)
    located = locate(options.header, compiler, includes=options.includes, kernel=options.kernel)
    compiled = located.path
    if located.tree is not None and uapi.is_uapi(located.path, located.tree):
        compiled, folder = uapi.install(located.path, located.tree, compiler.target)
        compiler = Compiler(options.cc, [*options.includes, folder], defines)
    bits = ifc.is_ifc(located.path.read_text(encoding="utf-8", errors="replace"))
    given = Input(located.path, compiled, ifc.prelude() if bits else "")
    header = assemble(given, compiler, allow_missing=options.allow_missing)
    verify(header, given, compiler)
    header = ifc.in_bits(header) if bits else header
    return (select(header, options.select) if options.select else header), located
