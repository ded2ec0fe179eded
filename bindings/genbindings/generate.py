# SPDX-License-Identifier: GPL-2.0-or-later
"""One generation, from a header's name to verified text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from genbindings import ifc, uapi
from genbindings.assemble import Input, assemble
from genbindings.backends import load, render
from genbindings.background import Background
from genbindings.compiler import Compiler
from genbindings.errors import Error
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
    header, located, verified = _unverified(options, output_format)
    rendered = render(header, output_format)
    if output_format == "ctypes":
        verify_module(header, rendered)
    verified.result()
    return rendered, header, located


def model(options: Options) -> tuple[Header, Located]:
    """Return the verified model of a header, and where the header was found.

    Raises:
        Error: see :mod:`genbindings.locate`, :mod:`genbindings.assemble` and
            :mod:`genbindings.verify`.
    """
    header, located, verified = _unverified(options)
    verified.result()
    return header, located


def _unverified(
    options: Options, output_format: str = ""
) -> tuple[Header, Located, Background[None]]:
    """Return a model while the compiler is still checking it."""
    defines = [f"-D{define}" for define in options.defines]
    compiler = Compiler(options.cc, options.includes, defines)
    located = locate(options.header, compiler, includes=options.includes, kernel=options.kernel)
    compiled = located.path
    if located.tree is not None and uapi.is_uapi(located.path, located.tree):
        compiled, folder = uapi.install(located.path, located.tree, compiler.target)
        compiler = compiler.including(folder)
    bits = ifc.is_ifc(located.path.read_text(encoding="utf-8", errors="replace"))
    if output_format:
        # Loading the backend takes as long as the compiler's first runs: both at once.
        Background(partial(load, output_format, "bits" if bits else "bytes"))
    given = Input(located.path, compiled, ifc.prelude() if bits else "")
    header = assemble(given, compiler, allow_missing=options.allow_missing)
    verified = Background(partial(verify, header, given, compiler))
    try:
        header = ifc.in_bits(header) if bits else header
        header = select(header, options.select) if options.select else header
    except Error:
        verified.result()
        raise
    return header, located, verified
