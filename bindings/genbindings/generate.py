# SPDX-License-Identifier: GPL-2.0-or-later
"""One generation, from a header's name to verified text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings import ifc, uapi
from genbindings.assemble import Input, assemble
from genbindings.backends import load, render
from genbindings.background import Background
from genbindings.compiler import CompileError, Compiler
from genbindings.document import original_line
from genbindings.errors import Error
from genbindings.locate import Located, locate
from genbindings.needs import MissingNameError, home, undeclared
from genbindings.select import select
from genbindings.verify import verify
from genbindings.verify_module import verify_module

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    bits = ifc.is_ifc(located.path.read_text(encoding="utf-8", errors="replace"))
    if output_format:
        # Loading the backend takes as long as the compiler's first runs: both at once.
        Background(partial(load, output_format, "bits" if bits else "bytes"))
    header, given, compiler = _assembled(options, located, compiler, ifc.prelude() if bits else "")
    verified = Background(partial(verify, header, given, compiler))
    try:
        header = ifc.in_bits(header) if bits else header
        header = select(header, options.select) if options.select else header
    except Error:
        verified.result()
        raise
    return header, located, verified


def _assembled(
    options: Options, located: Located, compiler: Compiler, prelude: str
) -> tuple[Header, Input, Compiler]:
    """Return a model, after including what the header needs and does not include itself."""
    includes: tuple[str, ...] = ()
    first: Error | None = None
    while True:
        installed, compiled, folder = compiler, located.path, None
        if located.tree is not None and uapi.is_uapi(located.path, located.tree):
            compiled, folder = uapi.install(located.path, located.tree, compiler.target, includes)
            installed = compiler.including(folder)
        given = Input(located.path, compiled, prelude, includes)
        try:
            header = assemble(given, installed, allow_missing=options.allow_missing)
        except (CompileError, MissingNameError) as error:
            if includes and f"{includes[-1]}: No such file" in str(error) and first is not None:
                raise first from None
            first = first or error
            needed = _home(error, includes)
            if needed is None and isinstance(error, CompileError) and folder is not None:
                raise _in_tree(error, folder, located) from None
            if needed is None:
                raise
            includes = (*includes, needed)
        else:
            return header, given, installed


def _in_tree(error: CompileError, folder: Path, located: Located) -> CompileError:
    """Return ``error`` with the places of installed headers as they are in their tree."""
    first, *others = error.diagnostics or (None,)
    if first is None or located.tree is None:
        return error
    path = Path(first.file)
    source = uapi.source(path, folder, located.tree)
    if source is None:
        return error
    line = original_line(path, source, first.line)
    return CompileError([replace(first, file=str(source), line=line), *others])


def _home(error: CompileError | MissingNameError, included: tuple[str, ...]) -> str | None:
    """Return a header that declares what ``error`` misses."""
    if isinstance(error, MissingNameError):
        return error.home
    names = [undeclared(diagnostic) for diagnostic in error.diagnostics]
    return next(filter(None, (home(name, included) for name in names if name)), None)
