# SPDX-License-Identifier: GPL-2.0-or-later
"""Header to model: preprocess, compile, read the debugging information, attach the comments."""

from __future__ import annotations

import hashlib
import re
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings import constants, ioctls, needs, preprocessed
from genbindings.background import Background
from genbindings.document import Annotator
from genbindings.errors import Error
from genbindings.model import Constant, Enum, Function, Header, Location, Omitted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from genbindings.compiler import Compiler
    from genbindings.constants import Evaluated, Value
    from genbindings.dwarf.types import Types
    from genbindings.functions import Functions
    from genbindings.preprocessed import Macro

# Another name for a struct, a function or a member; constants are in capitals.
_ALIAS = re.compile(r"^[a-z_][a-z0-9_]*([.]|->|[a-z0-9_])*$")
_POINTER = "sizeof a pointer"
_SPDX = re.compile(r"SPDX-License-Identifier:\s*(.+?)\s*(?:\*/)?\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Input:
    """What to compile: the header as found, the file to include, and text to put before it.

    ``includes`` are headers in angle brackets that the header needs and does not include.
    """

    found: Path
    compiled: Path
    prelude: str = ""
    includes: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """A C text that includes the header and nothing else."""
        # Many uapi headers use size_t and leave it to others to define it.
        needed = "".join(f"#include <{name}>\n" for name in ("stddef.h", *self.includes))
        return f'{self.prelude}{needed}#include "{self.compiled}"\n'


def assemble(given: Input, compiler: Compiler, *, allow_missing: bool = False) -> Header:
    """Return the model of a header.

    Raises:
        CompileError: the header does not compile.
        MissingNameError: a macro needs a name whose home is known and not included.
        Error: a macro needs a name that nothing declares (with ``allow_missing`` it is listed in
            :attr:`Header.omitted` instead).
    """
    content = given.found.read_bytes()
    loading = Background(_load)
    pre = preprocessed.preprocess(compiler, given.compiled, given.source)
    valued = [
        macro.name for macro in pre.macros.values() if macro.parameters is None and macro.body
    ]
    expanded = preprocessed.expansions(compiler, given.source, valued)
    constructed = ioctls.find(expanded)
    integers, strings = _expressions(expanded, constructed)
    integers[_POINTER] = "sizeof(void *)"
    with tempfile.TemporaryDirectory(prefix="gen-bindings-") as folder:
        output = Path(folder) / "header.o"
        values = constants.evaluate(
            compiler,
            given.source,
            output,
            integers=integers,
            strings=strings,
            types=pre.tags,
            header=given.found,
        )
        _ask_for_homes(values, pre.macros, given.includes)
        loading.result()
        from genbindings.dwarf.types import read_types, with_alignments
        from genbindings.functions import translated as translate

        types = read_types(output, pre.files)
        alignments = _alignments(compiler, given, types, values.alignments, output)
        types = with_alignments(types, alignments)
    found_constants = _constants(expanded, pre.macros, values, constructed)
    numbers = _numbers(found_constants, types.enums)
    judged = Background(
        partial(translate, compiler, given.source, pre.macros, numbers, types.structs.keys())
    )
    originals = {path.name: given.found.parent / path.name for path in pre.files}
    notes = Annotator(pre.files, originals)
    found_ioctls = ioctls.resolve(
        constructed,
        pre.macros,
        values,
        types.structs,
        notes.comments,
        partial(ioctls.disagreeing, compiler, given.source),
    )
    structs = {name: notes.struct(struct) for name, struct in types.structs.items()}
    enums = tuple(notes.enum(enum) for enum in types.enums)
    translated: Functions = judged.result()
    return Header(
        name=given.found.name,
        sha256=hashlib.sha256(content).hexdigest(),
        spdx=_licence(content.decode("utf-8", "replace")),
        target=compiler.target,
        dialect="bytes",
        structs=structs,
        enums=enums,
        constants=_documented(found_constants, pre.macros, notes),
        ioctls={name: notes.ioctl(ioctl) for name, ioctl in found_ioctls.items()},
        functions=_functions(translated, pre.macros, notes),
        needed=given.includes,
        omitted=(
            *_omitted(pre.macros, values, translated, notes, allow_missing=allow_missing),
            *_hidden(enums, found_constants),
        ),
        pointer_size=values.integers[_POINTER].value,
        doc=_summary(notes.comments[given.compiled.name].file()),
    )


def _load() -> None:
    """Load the readers of debugging information and of C.

    That takes as long as the compiler's first runs: both at once.
    """
    import_module("genbindings.dwarf.types")
    import_module("genbindings.functions")


def _ask_for_homes(
    values: Evaluated, macros: Mapping[str, Macro], included: tuple[str, ...]
) -> None:
    for name, diagnostic in values.refused.items():
        missing = needs.undeclared(diagnostic)
        home = needs.home(missing, included) if missing and name in macros else None
        if missing and home:
            macro = macros[name]
            raise needs.MissingNameError(missing, home, f"{macro.file.name}:{macro.line}")


def _alignments(
    compiler: Compiler, given: Input, types: Types, known: dict[str, int], output: Path
) -> dict[str, int]:
    """Return the alignment of every type that C can name.

    How to name one without a tag is known only from the debugging information, so such types take
    another run of the compiler. What that information does not say is that one is packed, which
    changes nothing where the alignment is 1.
    """
    asked = {"", *known}
    spellings = [
        struct.spelling
        for struct in types.structs.values()
        if struct.align > 1 and struct.spelling not in asked
    ]
    if not spellings:
        return known
    more = constants.evaluate(
        compiler,
        given.source,
        output,
        integers={},
        strings={},
        types=spellings,
        header=given.found,
    )
    return known | more.alignments


def _licence(text: str) -> str:
    """Return the SPDX expression of a header, or what SPDX says where there is none."""
    spdx = _SPDX.search(text)
    if spdx:
        return spdx[1]
    # The mlx5 headers have the two licences' text in place of the line.
    return "GPL-2.0 OR Linux-OpenIB" if "OpenIB.org BSD license" in text else "NOASSERTION"


def _summary(doc: str) -> str:
    """Return the first paragraph of the comment that opens a file, unless it is legal text."""
    first = " ".join(doc.split("\n\n")[0].split())
    return "" if re.search(r"copyright|licen[sc]e", first, re.IGNORECASE) else first


def _expressions(
    expanded: Mapping[str, str], constructed: Mapping[str, ioctls.Constructed]
) -> tuple[dict[str, str], dict[str, str]]:
    """Split the macros into integer and string expressions, to be evaluated by name.

    An ioctl is evaluated through its macro, since its expansion here is not the real one.
    """
    integers: dict[str, str] = {}
    strings: dict[str, str] = {}
    for name, body in expanded.items():
        if body.lstrip("( ").startswith('"'):
            strings[name] = body.strip("() ")
        elif body:
            # A macro that names itself, as one over an enumerator may, must not expand twice.
            whole = name in constructed or re.search(rf"\b{name}\b", body)
            integers[name] = name if whole else body
    return integers, strings


def _constants(
    expanded: Mapping[str, str],
    macros: Mapping[str, Macro],
    values: Evaluated,
    constructed: Mapping[str, ioctls.Constructed],
) -> dict[str, Constant]:
    found: dict[str, Constant] = {}
    for name in expanded:
        if name in constructed:
            continue
        macro = macros[name]
        value: int | str
        if name in values.strings:
            value = values.strings[name]
        elif name in values.integers:
            value = _unsigned_shift(values.integers[name], macro.body, expanded[name])
        else:
            continue
        found[name] = Constant(name, value, macro.body)
    return found


def _documented(
    found: Mapping[str, Constant], macros: Mapping[str, Macro], notes: Annotator
) -> dict[str, Constant]:
    return {
        name: replace(
            constant,
            doc=notes.constant(macros[name].file.name, macros[name].line),
            location=notes.location(Location(macros[name].file.name, macros[name].line)),
        )
        for name, constant in found.items()
    }


def _unsigned_shift(value: Value, body: str, expanded: str) -> int:
    """Undo the sign that ``1 << 31`` has as a C int: the fields it goes into are unsigned."""
    if value.value < 0 and ("<<" in body or "<<" in expanded):
        return value.value & ((1 << 8 * value.size) - 1)
    return value.value


def _numbers(found: Mapping[str, Constant], enums: tuple[Enum, ...]) -> dict[str, int]:
    """Return the value of everything that is an int in the bindings."""
    numbers = {name: value for enum in enums for name, value in enum.values.items()}
    numbers.update({n: c.value for n, c in found.items() if isinstance(c.value, int)})
    return numbers


def _hidden(enums: tuple[Enum, ...], found: Mapping[str, Constant]) -> Iterator[Omitted]:
    """Yield the enumerators that C cannot reach, since a macro of the same name says otherwise."""
    for enum in enums:
        for name, value in enum.values.items():
            if name in found and found[name].value != value:
                place = enum.location or Location("", 0)
                yield Omitted(name, f"the macro hides the enumerator, which is {value}", place)


def _functions(
    translated: Functions, macros: Mapping[str, Macro], notes: Annotator
) -> dict[str, Function]:
    found: dict[str, Function] = {}
    for function in translated.translated:
        macro = macros[function.name]
        place = Location(macro.file.name, macro.line)
        doc = notes.constant(macro.file.name, macro.line)
        found[function.name] = replace(function, doc=doc, location=notes.location(place))
    return found


def _omitted(
    macros: Mapping[str, Macro],
    values: Evaluated,
    translated: Functions,
    notes: Annotator,
    *,
    allow_missing: bool,
) -> tuple[Omitted, ...]:
    """List the macros without a counterpart.

    Raises:
        Error: one of them uses a name that nothing declares, and that is not allowed.
    """
    found: list[Omitted] = []
    for macro in macros.values():
        place = notes.location(Location(macro.file.name, macro.line))
        if place is None:
            continue
        if macro.parameters is not None:
            if macro.name in translated.omitted:
                reason = translated.omitted[macro.name]
                found.append(Omitted(macro.name, f"function-like macro: {reason}", place))
        elif macro.name in values.refused:
            refused = values.refused[macro.name]
            reason = refused.message
            alias = _ALIAS.match(macro.body) is not None
            missing = needs.undeclared(refused)
            if missing and not alias and not allow_missing:
                raise Error(
                    f"{place}: {macro.name}: {reason}",
                    f"--define {missing}=…, or --allow-missing, or a header of your own that"
                    " includes what declares it and then this one",
                )
            found.append(Omitted(macro.name, f"not a constant: {reason}", place))
    return tuple(found)
