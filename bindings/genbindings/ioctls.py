# SPDX-License-Identifier: GPL-2.0-or-later
"""Which macros are ioctl numbers, and what their argument is.

The macro says so itself (``_IOWR('x', 1, struct arg)``), or, as in vfio.h where every number is a
size-less ``_IO``, the comment above it does. A comment that names a struct which does not exist is
stale; then the struct that the comment stands above is meant, if it stands above one. The number in
the comment is checked as well, by the compiler where it is not the macro's to the letter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.comments import Comments, IoctlDoc, direction_of
from genbindings.compiler import CompileError, Compiler
from genbindings.model import Direction, Ioctl, Location, Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from genbindings.constants import Evaluated
    from genbindings.preprocessed import Macro

_CALL = re.compile(r"^\(*\s*genbindings(_IO(?:R|W|WR)?(?:_BAD)?)\s*\((.*)\)[\s)]*$")
_FILE = "genbindings-comments"
_RECORD = re.compile(r"^(?:struct|union)\s+(\w+)$")


@dataclass(frozen=True, slots=True)
class Constructed:
    """An ioctl macro as its expansion has it; ``argument`` is a C type, or ``""``."""

    direction: Direction
    argument: str


def find(expanded: Mapping[str, str]) -> dict[str, Constructed]:
    """Return the ioctls among macros, by name.

    Args:
        expanded: as from :func:`genbindings.preprocessed.expansions`.
    """
    found: dict[str, Constructed] = {}
    for name, body in expanded.items():
        call = _CALL.match(body)
        if call:
            arguments = _split(call[2])
            argument = arguments[2] if len(arguments) > 2 else ""
            found[name] = Constructed(direction_of(call[1]), argument)
    return found


def resolve(
    found: Mapping[str, Constructed],
    macros: Mapping[str, Macro],
    values: Evaluated,
    structs: Mapping[str, Struct],
    comments: Mapping[str, Comments],
    disagree: Callable[[Mapping[str, str]], Collection[str]],
) -> dict[str, Ioctl]:
    """Return the ioctls with their numbers, arguments and docs.

    ``disagree`` is given C expressions by name of an ioctl, and returns the names whose number and
    type are not those of the expression.
    """
    documented: dict[str, IoctlDoc] = {}
    for of_file in comments.values():
        documented.update(of_file.ioctls())
    doubtful = {
        name: documented[name].number
        for name in found
        if name in documented and not _same(documented[name].number, macros[name].body)
    }
    misnumbered = disagree(doubtful) if doubtful else ()
    result: dict[str, Ioctl] = {}
    for name, constructed in found.items():
        if name not in values.integers:
            continue
        macro = macros[name]
        doc = documented.get(name)
        direction, argument, stale = constructed.direction, constructed.argument, ""
        struct = _struct(argument, structs)
        if doc is not None and not argument:
            direction, argument = doc.direction, doc.argument
            struct = _struct(argument, structs)
            if struct is None and (not argument or _RECORD.match(argument)):
                stale = argument
                struct = _between(doc, macro, structs)
        elif doc is not None and _RECORD.match(doc.argument) and doc.argument != argument:
            stale = doc.argument
        text = doc.comment.text if doc is not None else ""
        result[name] = Ioctl(
            name=name,
            # The number is an unsigned int; C sees a negative int where the top bit is set.
            number=values.integers[name].value & 0xFFFFFFFF,
            struct=struct,
            argument=argument,
            direction=direction,
            doc=text or comments[macro.file.name].above(macro.line),
            stale=stale,
            misnumbered=_shown(doubtful[name]) if name in misnumbered else "",
            location=Location(macro.file.name, macro.line),
        )
    return result


def disagreeing(compiler: Compiler, source: str, expressions: Mapping[str, str]) -> set[str]:
    """Return the ioctls whose type and number, the low 16 bits, are not those of the expression.

    One that the compiler cannot evaluate counts as well.

    Raises:
        CompileError: the header itself does not compile.
    """
    names = list(expressions)
    lines = [
        f'#line {line} "{_FILE}"\n_Static_assert((({name}) & 0xFFFF) == (({text}) & 0xFFFF), "");'
        for line, (name, text) in enumerate(expressions.items(), 1)
    ]
    try:
        compiler.check("\n".join([source, *lines, ""]))
    except CompileError as error:
        wrong = error.by_line(_FILE)
        if not wrong:
            raise
        return {names[line - 1] for line in wrong}
    return set()


def _same(number: str, body: str) -> bool:
    """Whether two calls of ``_IO`` and its like begin with the same two arguments."""
    calls = [re.match(r"\(*_IO\w*\s*\((.*)\)", text.strip()) for text in (number, body)]
    first, second = ([re.sub(r"\s", "", a) for a in _split(c[1])[:2]] if c else [] for c in calls)
    return bool(first) and first == second


def _shown(number: str) -> str:
    """The expression as the comment has it: the type that stands in for the argument is ours."""
    return number.replace(", char)", ")")


def _struct(argument: str, structs: Mapping[str, Struct]) -> str | None:
    record = _RECORD.match(argument)
    name = record[1] if record else argument
    return name if name in structs else None


def _between(doc: IoctlDoc, macro: Macro, structs: Mapping[str, Struct]) -> str | None:
    """Return the struct that the ioctl's comment is about: the one it stands right above.

    Failing that, the only one defined between the comment and the macro, or None.
    """
    between = [
        (struct.location.line, struct.name)
        for struct in structs.values()
        if struct.location is not None
        and struct.spelling
        and "." not in struct.name
        and struct.location.file == macro.file.name
        and doc.comment.last < struct.location.line < macro.line
    ]
    if not between:
        return None
    line, name = min(between)
    return name if len(between) == 1 or line == doc.comment.last + 1 else None


def _split(arguments: str) -> list[str]:
    """Split macro arguments at the commas outside parentheses and quotes."""
    parts = [""]
    depth = 0
    quote = ""
    for char in arguments:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and not depth:
            parts.append("")
            continue
        parts[-1] += char
    return [part.strip() for part in parts]
