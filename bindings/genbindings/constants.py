# SPDX-License-Identifier: GPL-2.0-or-later
"""Values that only the compiler can tell: macros, ioctl numbers, alignments.

They go into constant tables of an object file, one element each, under a ``#line`` of its own, so
that an element the compiler refuses is known by number and dropped with the compiler's reason.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.compiler import CompileError, Compiler, Diagnostic
from genbindings.errors import Error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_INTEGERS = ".genb.integers"
_STRINGS = ".genb.strings"
_ALIGNMENTS = ".genb.alignments"
_FILE = "genbindings-table"
_INTEGER_CLASSES = (1, 2, 3, 4)  # gcc's integer, char, enumeral and boolean type classes
_POINTER_CLASS = 5
_ENTRY = 4  # words in an element of the integer table

_PRELUDE = """
#define genbindings_section(name) __attribute__((section(name), used, aligned(8)))
#define genbindings_int(x) \\
    __builtin_choose_expr(__builtin_classify_type(x) >= 1 \\
                          && __builtin_classify_type(x) <= 4, (x), 0)
"""


@dataclass(frozen=True, slots=True)
class Value:
    """An integer constant expression: its value, and the size of its C type in bytes."""

    value: int
    size: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What the compiler made of the expressions; ``refused`` has its reason for the others."""

    integers: dict[str, Value]
    strings: dict[str, str]
    alignments: dict[str, int]
    refused: dict[str, Diagnostic]


def evaluate(
    compiler: Compiler,
    source: str,
    output: Path,
    *,
    integers: Mapping[str, str],
    strings: Mapping[str, str],
    types: Sequence[str],
    header: Path,
) -> Evaluated:
    """Compile ``source`` with tables of expressions to ``output``, and read the tables back.

    Args:
        compiler: the compiler, whose target decides.
        source: C text that includes the header.
        output: the object file to write; it has the debugging information too.
        integers: expressions by name, expected to be integer constants.
        strings: expressions by name, expected to be string literals.
        header: the header, for messages.
        types: C types whose alignment is wanted; one that does not exist is left out.

    Raises:
        CompileError: the header itself does not compile.
    """
    rows = [("integer", name, text) for name, text in integers.items()]
    rows += [("string", name, text) for name, text in strings.items()]
    rows += [("alignment", name, name) for name in types]
    refused: dict[str, Diagnostic] = {}
    while True:
        text = _tables(source, rows)
        try:
            compiler.compile(text, output, "-g", "-fno-eliminate-unused-debug-types")
            break
        except CompileError as error:
            bad = error.by_line(_FILE)
            if not bad and error.diagnostics and error.diagnostics[0].file == "<stdin>":
                # What the header left open ends in our text.
                message = error.diagnostics[0].message
                end = len(header.read_bytes().splitlines())
                raise Error(f"{header}:{end}: unfinished at its end: {message}") from None
            if not bad:
                raise
            for line, diagnostic in bad.items():
                refused[rows[line - 1][1]] = diagnostic
            rows = [row for number, row in enumerate(rows, 1) if number not in bad]
    return _read(output, rows, refused)


def _tables(source: str, rows: Sequence[tuple[str, str, str]]) -> str:
    parts = {"integer": [""], "alignment": [""]}
    strings: list[str] = []
    for number, (kind, _, text) in enumerate(rows, 1):
        line = f'#line {number} "{_FILE}"\n'
        if kind == "integer":
            value = f"genbindings_int({text})"
            parts[kind].append(
                f"{line}{{ (unsigned long long){value}, {value} < 0, sizeof({text}),"
                f" __builtin_classify_type({text}) }},"
            )
        elif kind == "alignment":
            parts[kind].append(f"{line}_Alignof({text}),")
        else:
            strings.append(
                f'{line}static const char genbindings_s{number}[] genbindings_section("{_STRINGS}")'
                f" = {text};"
            )
    table = "static const unsigned long long"
    # A table without elements still needs one for the section to exist.
    return "\n".join(
        [
            source,
            _PRELUDE,
            f'{table} genbindings_i[][{_ENTRY}] genbindings_section("{_INTEGERS}") = {{',
            *parts["integer"],
            "{ 0 } };",
            f'{table} genbindings_a[] genbindings_section("{_ALIGNMENTS}") = {{',
            *parts["alignment"],
            "0 };",
            *strings,
            "",
        ]
    )


def _read(
    output: Path, rows: Sequence[tuple[str, str, str]], refused: dict[str, Diagnostic]
) -> Evaluated:
    # Imported late: it loads while the compiler runs.
    from genbindings.dwarf.sections import read_object

    order, sections = read_object(output, (_INTEGERS, _STRINGS, _ALIGNMENTS))
    entries = list(struct.iter_unpack(f"{order}{_ENTRY}Q", sections[_INTEGERS]))
    alignments = [word for (word,) in struct.iter_unpack(f"{order}Q", sections[_ALIGNMENTS])]
    integers: dict[str, Value] = {}
    # Each table has one more element than it has rows.
    for (_, name, text), entry in zip(_of_kind(rows, "integer"), entries[:-1], strict=True):
        raw, negative, size, type_class = entry
        if type_class in _INTEGER_CLASSES:
            integers[name] = Value(raw - (1 << 64) if negative else raw, size)
        else:
            what = "a pointer" if type_class == _POINTER_CLASS else "not an integer or a string"
            refused[name] = Diagnostic(_FILE, 0, f"{text} is {what}")
    names = [name for _, name, _ in _of_kind(rows, "alignment")]
    return Evaluated(
        integers,
        dict(_strings(sections[_STRINGS], rows)),
        dict(zip(names, alignments[:-1], strict=True)),
        refused,
    )


def _of_kind(rows: Sequence[tuple[str, str, str]], kind: str) -> list[tuple[str, str, str]]:
    return [row for row in rows if row[0] == kind]


def _strings(data: bytes, rows: Sequence[tuple[str, str, str]]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for _, name, _ in _of_kind(rows, "string"):
        end = data.index(0)
        found.append((name, data[:end].decode("utf-8", "surrogateescape")))
        # Each array is aligned to 8 bytes.
        data = data[(end + 8) & ~7 :]
    return found
