# SPDX-License-Identifier: GPL-2.0-or-later
"""Function-like macros: translated where the compiler agrees, omitted with the reason otherwise.

The compiler evaluates each macro for sample arguments and compares with what Python makes of the
translation. Small arguments are tried as ``int``, ``unsigned int`` and ``unsigned long long``: a
macro whose value depends on the type of its argument has no one value in Python.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from genbindings.compiler import CompileError, Compiler
from genbindings.expression import Untranslatable, parameter_names, translate
from genbindings.model import Function

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from genbindings.preprocessed import Macro

_FILE = "genbindings-samples"
# Within 7 bits no usual macro overflows a C int; larger ones go in as unsigned long long alone.
_SMALL = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 63, 64, 100, 127)
_LARGE = (128, 255, 256, 0x5A5A, 0x7FFF, 0x8000, 0xFFFF, 0x12345678, 0x80000000, 0xFFFFFFFF)
_SUFFIXES = ("", "U", "ULL")
# Every macro has to be judged by at least so many samples.
_ENOUGH = 8
# What a C programmer would not call a value: the compiler then refuses the sample.
_PRAGMAS = "\n".join(
    f'#pragma GCC diagnostic error "-W{name}"'
    for name in ("overflow", "shift-overflow=2", "shift-count-overflow", "div-by-zero")
)
_DISAGREES = re.compile(r"static.assertion failed")


@dataclass(frozen=True, slots=True)
class Functions:
    """``translated`` macros in the order of the header; ``omitted`` has the others' reasons."""

    translated: tuple[Function, ...]
    omitted: Mapping[str, str]


@dataclass(slots=True)
class _Candidate:
    """A macro on its way: its Python function under test."""

    macro: Macro
    parameters: dict[str, str]
    expression: str
    uses: tuple[str, ...]
    call: Any = None


def translated(
    compiler: Compiler,
    source: str,
    macros: Mapping[str, Macro],
    constants: Mapping[str, int],
    taken: Collection[str],
) -> Functions:
    """Translate the function-like macros among ``macros``.

    Args:
        compiler: the compiler, whose target decides.
        source: C text that includes the header.
        macros: every macro of the header.
        constants: the value of each name that the bindings have: macros and enumerators.
        taken: names of structs, which no function can have in Python.

    Raises:
        CompileError: the header itself does not compile.
    """
    omitted: dict[str, str] = {}
    candidates: dict[str, _Candidate] = {}
    pending = {name: macro for name, macro in macros.items() if macro.parameters is not None}
    for name in pending.keys() & set(taken):
        omitted[name] = "a struct has its name"
        del pending[name]
    # A macro may use one that is defined further down: go on while there is progress.
    progress = True
    while pending and progress:
        progress = False
        for name, macro in list(pending.items()):
            if _words(macro) & (pending.keys() - {name}):
                continue
            try:
                candidate = _candidate(macro, {*constants, *candidates})
            except Untranslatable as reason:
                omitted[name] = str(reason)
            else:
                candidates[name] = candidate
            del pending[name]
            progress = True
    omitted.update(dict.fromkeys(pending, "it is defined by itself"))
    namespace: dict[str, Any] = {"__builtins__": {"int": int, "bool": bool}, **constants}
    _judge(compiler, source, candidates, namespace, omitted)
    found = tuple(
        Function(
            name, tuple(c.parameters.items()), c.expression, c.macro.body, tuple(sorted(c.uses))
        )
        for name, c in candidates.items()
    )
    order = list(macros)
    return Functions(tuple(sorted(found, key=lambda each: order.index(each.name))), omitted)


def _words(macro: Macro) -> set[str]:
    return set(re.findall(r"[A-Za-z_]\w*", macro.body))


def _candidate(macro: Macro, known: set[str]) -> _Candidate:
    names = [name.strip() for name in (macro.parameters or "").strip("()").split(",")]
    names = [name for name in names if name]
    if any("..." in name for name in names):
        raise Untranslatable("it takes any number of arguments")
    if not macro.body:
        raise Untranslatable("it has no value")
    parameters = parameter_names(names, _words(macro))

    def spell(name: str) -> str | None:
        return parameters.get(name) or (name if name in known else None)

    text, used = translate(macro.body, names, spell)
    uses = tuple(name for name in used if name not in parameters)
    return _Candidate(macro, parameters, text, uses)


def _judge(
    compiler: Compiler,
    source: str,
    candidates: dict[str, _Candidate],
    namespace: dict[str, Any],
    omitted: dict[str, str],
) -> None:
    """Drop the candidates that the compiler does not agree with, and say why in ``omitted``.

    Where the plain translation is wrong, what 32 and 64 bits keep of it is tried.
    """
    plain = {name: candidate.expression for name, candidate in candidates.items()}
    reasons: dict[str, str] = {}
    undecided = set(candidates)
    for mask in ("", " & 0xFFFFFFFF", " & 0xFFFFFFFFFFFFFFFF"):
        for name in undecided:
            candidates[name].expression = f"({plain[name]}){mask}" if mask else plain[name]
        # All of them: one that is settled may use one that has just changed.
        wrong = _disagreements(compiler, source, candidates, namespace)
        for name, reason in wrong.items():
            reasons.setdefault(name, reason)
        undecided = set(wrong)
        if not undecided:
            return
    # What uses a macro without a counterpart has none either.
    gone = undecided
    while gone:
        omitted.update({name: reasons[name] for name in gone})
        for name in gone:
            del candidates[name]
        users = {name: set(each.uses) & gone for name, each in candidates.items()}
        gone = {name for name, used in users.items() if used}
        for name in gone:
            reasons[name] = f"it uses {min(users[name])}, which has no counterpart here"


def _disagreements(
    compiler: Compiler,
    source: str,
    candidates: Mapping[str, _Candidate],
    namespace: dict[str, Any],
) -> dict[str, str]:
    """Return the candidates that the compiler contradicts or cannot judge, and how."""
    for name, candidate in candidates.items():
        arguments = ", ".join(candidate.parameters.values())
        namespace[name] = eval(f"lambda {arguments}: {candidate.expression}", namespace)
    rows = list(
        chain.from_iterable(
            _samples(name, len(candidate.parameters), namespace[name])
            for name, candidate in candidates.items()
        )
    )
    wrong: dict[str, str] = {}
    refused: dict[str, str] = {}
    while True:
        text = "\n".join(
            f'#line {number} "{_FILE}"\n{row.assertion}' for number, row in enumerate(rows, 1)
        )
        try:
            compiler.check(f"{source}{_PRAGMAS}\n{text}\n", warnings=True)
            break
        except CompileError as error:
            bad = error.by_line(_FILE)
            if not bad:
                raise
            for number, diagnostic in bad.items():
                row = rows[number - 1]
                if _DISAGREES.search(diagnostic.message):
                    wrong.setdefault(row.macro, f"in C, {row.call} is not {row.value}")
                else:
                    refused.setdefault(row.macro, diagnostic.message)
            rows = [row for number, row in enumerate(rows, 1) if number not in bad]
    for name in candidates:
        judged = sum(row.macro == name for row in rows)
        if judged < min(_ENOUGH, 1 if not candidates[name].parameters else _ENOUGH):
            why = refused.get(name, "the compiler does not say its value")
            wrong.setdefault(name, f"not a constant for constant arguments: {why}")
    return wrong


@dataclass(frozen=True, slots=True)
class _Row:
    macro: str
    call: str
    value: int
    assertion: str


def _samples(name: str, arity: int, call: Any) -> list[_Row]:
    """Return assertions that hold if ``call`` computes what the macro does.

    None for a call that fails in Python: a division by zero, a macro that is not a number.
    """
    rows: list[_Row] = []
    choices = [(value, suffix) for suffix in _SUFFIXES for value in _SMALL]
    choices += [(value, "ULL") for value in _LARGE]
    for at, (_, suffix) in enumerate(choices if arity else choices[:1]):
        # Different arguments in one call, and each value in each place.
        same = [value for value, other in choices if other == suffix]
        values = [same[(at + 5 * place) % len(same)] for place in range(arity)]
        try:
            value = call(*values)
        except (ArithmeticError, ValueError, TypeError):
            continue
        if not -(1 << 63) <= value < 1 << 64:
            continue
        text = f"{name}({', '.join(f'{each}{suffix}' for each in values)})"
        rows.append(_Row(name, text, value, _equal(text, value)))
    return rows


def _equal(call: str, value: int) -> str:
    number = f"{value & ((1 << 64) - 1)}ULL"
    sign = "<" if value < 0 else ">="
    return (
        f"_Static_assert(({call}) {sign} 0 && (unsigned long long)({call}) == {number},"
        ' "genbindings: static assertion failed");'
    )
