# SPDX-License-Identifier: GPL-2.0-or-later
"""What the preprocessor says about a header: its own files, its macros, its struct tags."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genbindings.compiler import Compiler

_MARKER = re.compile(r'^# (\d+) "((?:[^"\\]|\\.)*)"((?: \d)*)$')
_DEFINE = re.compile(r"^#define ([A-Za-z_]\w*)(\([^)]*\))?(?: (.*))?$")
_UNDEF = re.compile(r"^#undef ([A-Za-z_]\w*)")
_QUOTED = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
_TAG = re.compile(
    r"\b(struct|union)\s+(?:__attribute__\s*\(\(.*?\)\)\s*)*([A-Za-z_]\w*)\s*\{", re.DOTALL
)
_EXPANSION = re.compile(r"^@genbindings (\w+) (.*)$", re.MULTILINE)

# The constructors of ioctl numbers, replaced so that an expansion shows which one was used.
_IOCTL_NAMES = ("_IO", "_IOR", "_IOW", "_IOWR", "_IOR_BAD", "_IOW_BAD", "_IOWR_BAD")


@dataclass(frozen=True, slots=True)
class Macro:
    """A ``#define``; ``parameters`` is None for an object-like macro."""

    name: str
    parameters: str | None
    body: str
    file: Path
    line: int


@dataclass(frozen=True, slots=True)
class Preprocessed:
    """A header after preprocessing.

    ``files`` are the header and its quoted includes, absolute; ``macros`` those that these files
    define and leave defined; ``tags`` every struct or union with a body, included ones too.
    """

    files: tuple[Path, ...]
    macros: dict[str, Macro]
    tags: tuple[str, ...]


def preprocess(compiler: Compiler, header: Path, source: str) -> Preprocessed:
    """Preprocess ``source``, which includes ``header``.

    Raises:
        CompileError: an included file does not exist, or the header says ``#error``.
    """
    files = [header]
    quoted = _quoted_includes(header)
    macros: dict[str, Macro] = {}
    code: list[str] = []
    current: Path | None = None
    line = 0
    for text in compiler.preprocess(source, "-dD").splitlines():
        marker = _MARKER.match(text)
        if marker:
            line = int(marker[1]) - 1
            path = Path(marker[2])
            if path != current:
                if path not in files and any(str(path).endswith(f"/{name}") for name in quoted):
                    files.append(path)
                    quoted |= _quoted_includes(path)
                current = path
            continue
        line += 1
        if text.startswith("#"):
            _note_macro(text, current, line, files, macros)
        else:
            code.append(text)
    tags = (f"{kind} {tag}" for kind, tag in _TAG.findall("\n".join(code)))
    return Preprocessed(tuple(files), macros, tuple(dict.fromkeys(tags)))


def _note_macro(
    text: str, current: Path | None, line: int, files: list[Path], macros: dict[str, Macro]
) -> None:
    undef = _UNDEF.match(text)
    if undef:
        macros.pop(undef[1], None)
        return
    define = _DEFINE.match(text)
    if define and current in files and current is not None:
        macros[define[1]] = Macro(define[1], define[2], (define[3] or "").strip(), current, line)


def _quoted_includes(header: Path) -> set[str]:
    text = header.read_text(encoding="utf-8", errors="replace")
    # The compiler resolves `..`; only the tail is compared, so a leading ./ or ../ is dropped.
    return {re.sub(r"^(\.{1,2}/)+", "", name) for name in _QUOTED.findall(text)}


def expansions(compiler: Compiler, source: str, names: list[str]) -> dict[str, str]:
    """Return each macro of ``names`` fully expanded, with ioctl constructors left standing.

    In the result ``_IOR(...)`` reads ``genbindings_IOR(...)``, its arguments expanded.
    """
    lines = [source]
    for name in _IOCTL_NAMES:
        lines += [f"#undef {name}", f"#define {name}(...) genbindings{name}(__VA_ARGS__)"]
    lines += [f"@genbindings {_hidden(name)} {name}" for name in names]
    text = compiler.preprocess("\n".join(lines) + "\n", "-P")
    # -P may join or split lines; a marker begins each expansion.
    joined = re.sub(r"\s*\n(?!@genbindings )", " ", text[text.find("@genbindings ") :])
    return {hidden[2:]: body.strip() for hidden, body in _EXPANSION.findall(joined)}


def _hidden(name: str) -> str:
    """A spelling of ``name`` that the preprocessor leaves alone."""
    return f"g_{name}"
