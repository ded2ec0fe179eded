# SPDX-License-Identifier: GPL-2.0-or-later
"""A C expression over numbers as a Python expression.

Python's integers have no width, C's do: the result is a proposal, which
:mod:`genbindings.functions` has the compiler judge before anything uses it.
"""

from __future__ import annotations

import builtins
import keyword
import re
from typing import TYPE_CHECKING, Any

from pycparser import c_ast, c_parser

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

# Types that a cast in a header may name, with their width; the signed ones are only parsed.
_UNSIGNED = {f"{under}u{bits}": bits for under in ("__", "") for bits in (8, 16, 32, 64)}
_UNSIGNED |= {f"uint{bits}_t": bits for bits in (8, 16, 32, 64)}
_SIGNED = ["__s8", "__s16", "__s32", "__s64", "s8", "s16", "s32", "s64", "size_t"]
_TYPEDEFS = "".join(f"typedef int {name};" for name in (*_UNSIGNED, *_SIGNED))
_CASTS: dict[tuple[str, ...], int] = {
    **{(name,): bits for name, bits in _UNSIGNED.items()},
    ("unsigned", "char"): 8,
    ("unsigned", "short"): 16,
    ("unsigned",): 32,
    ("unsigned", "int"): 32,
    ("unsigned", "long", "long"): 64,
}

# Python's precedence, the loosest first: C's differs for comparisons and bitwise operators.
_CONDITION, _OR, _AND, _NOT, _COMPARE, _COMPARED = range(6)
_LEVELS = (("|",), ("^",), ("&",), ("<<", ">>"), ("+", "-"), ("*", "/", "%"))
_BINARY = {op: level for level, ops in enumerate(_LEVELS, 6) for op in ops}
_BITWISE = range(6, 10)
_UNARY = 12
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_LITERAL = re.compile(r"[uUlL]+$")


class Untranslatable(Exception):  # noqa: N818
    """The expression has no counterpart in Python; the text says why."""


def parameter_names(parameters: Sequence[str], used: Collection[str]) -> dict[str, str]:
    """Return what the parameters are called in Python, by C name.

    A name that means something in Python gets a ``_`` behind it, one that is not used a ``_``
    before it.
    """
    names: dict[str, str] = {}
    for name in parameters:
        taken = keyword.iskeyword(name) or hasattr(builtins, name) or name in ("l", "O", "I")
        plain = f"{name}_" if taken else name
        names[name] = plain if name in used else f"_{name.lstrip('_')}"
    return names


def translate(
    text: str, parameters: Collection[str], spell: Callable[[str], str | None]
) -> tuple[str, list[str]]:
    """Translate the C expression ``text``.

    Args:
        text: the expression.
        parameters: the C names of the macro's parameters.
        spell: returns the Python spelling of a name: a parameter, a constant, a translated macro;
            None for one that has none.

    Returns:
        The Python expression, an int for int arguments, and the C names it uses.

    Raises:
        Untranslatable: it is not an expression over numbers.
    """
    if "#" in text:
        raise Untranslatable("it makes text or names of its arguments")
    try:
        parsed = c_parser.CParser().parse(f"{_TYPEDEFS}int value = ({text});")
    except c_parser.ParseError:
        raise Untranslatable("it is not an expression") from None
    found = parsed.ext[-1]
    if not isinstance(found, c_ast.Decl) or found.name != "value":
        raise Untranslatable("it is not an expression")
    writer = _Writer(parameters, spell)
    return writer.number(found.init, _CONDITION), list(dict.fromkeys(writer.used))


class _Writer:
    def __init__(self, parameters: Collection[str], spell: Callable[[str], str | None]) -> None:
        self._parameters = parameters
        self._spell = spell
        self.used: list[str] = []

    def number(self, node: Any, around: float) -> str:
        """Return ``node`` as a number, in parentheses where ``around`` binds tighter than it."""
        if isinstance(node, c_ast.BinaryOp) and node.op in ("&&", "||"):
            return f"int({self._junction(node, strict=True)})"
        if isinstance(node, c_ast.BinaryOp) and node.op in _MIRRORED:
            return f"int({self._comparison(node)})"
        if isinstance(node, c_ast.UnaryOp) and node.op == "!":
            twice = _twice(node)
            if twice is not None:
                return f"int(bool({self.truth(twice, _CONDITION)}))"
            return f"int({self.truth(node, _CONDITION)})"
        if isinstance(node, c_ast.BinaryOp):
            level = _BINARY[node.op]
            op = "//" if node.op == "/" else node.op
            left, right = self.number(node.left, level), self.number(node.right, level + 0.5)
            return _closed(f"{left} {op} {right}", level, around)
        if isinstance(node, c_ast.UnaryOp) and node.op in ("-", "~", "+"):
            return _closed(f"{node.op}{self.number(node.expr, _UNARY)}", _UNARY, around)
        if isinstance(node, c_ast.TernaryOp):
            yes, no = self.number(node.iftrue, _OR), self.number(node.iffalse, _OR)
            text = f"{yes} if {self.truth(node.cond, _OR)} else {no}"
            return _closed(text, _CONDITION, around)
        if isinstance(node, c_ast.Cast):
            return self._cast(node, around)
        return self._atom(node)

    def truth(self, node: Any, around: float) -> str:
        """Return ``node`` where only its truth counts."""
        if isinstance(node, c_ast.BinaryOp) and node.op in ("&&", "||"):
            return _closed(self._junction(node), _AND if node.op == "&&" else _OR, around)
        if isinstance(node, c_ast.BinaryOp) and node.op in _MIRRORED:
            return _closed(self._comparison(node), _COMPARE, around)
        if _twice(node) is not None:
            return self.truth(_twice(node), around)
        if isinstance(node, c_ast.UnaryOp) and node.op == "!":
            return _closed(f"not {self.truth(node.expr, _NOT)}", _NOT, around)
        return self.number(node, around)

    def _junction(self, node: Any, *, strict: bool = False) -> str:
        """Return ``a and b``; with ``strict`` each side is a truth value, not just a number."""
        word = "and" if node.op == "&&" else "or"
        equalities: dict[str, list[str]] = {}
        texts: dict[str, None] = {}
        for side in _sides(node, node.op):
            if node.op == "||" and isinstance(side, c_ast.BinaryOp) and side.op == "==":
                left, _, right = self._operands(side)
                equalities.setdefault(left, []).append(right)
                texts[left] = None
            elif strict and not _is_truth(side):
                texts[f"bool({self.truth(side, _CONDITION)})"] = None
            else:
                # Tighter than either word: `a and b or c` is for no reader.
                texts[self.truth(side, _NOT)] = None
        return f" {word} ".join(_membership(text, equalities.get(text, [])) for text in texts)

    def _comparison(self, node: Any) -> str:
        return " ".join(self._operands(node))

    def _operands(self, node: Any) -> tuple[str, str, str]:
        """Return a comparison's left side, operator and right side, what varies on the left."""
        left, op, right = node.left, node.op, node.right
        if self._is_fixed(left) and not self._is_fixed(right):
            left, op, right = right, _MIRRORED[op], left
        return self.number(left, _COMPARED), op, self.number(right, _COMPARED)

    def _is_fixed(self, node: Any) -> bool:
        return isinstance(node, c_ast.Constant) or (
            isinstance(node, c_ast.ID) and node.name not in self._parameters
        )

    def _cast(self, node: Any, around: float) -> str:
        kind = getattr(getattr(node.to_type, "type", None), "type", None)
        names = tuple(getattr(kind, "names", ()))
        if names not in _CASTS:
            raise Untranslatable(f"it casts to {' '.join(names) or 'a type'}")
        mask = f"0x{(1 << _CASTS[names]) - 1:X}"
        level = _BINARY["&"]
        return _closed(f"{self.number(node.expr, level)} & {mask}", level, around)

    def _atom(self, node: Any) -> str:
        if isinstance(node, c_ast.Constant):
            return _literal(node)
        if isinstance(node, c_ast.ID):
            return self._name(node.name)
        if isinstance(node, c_ast.FuncCall) and isinstance(node.name, c_ast.ID):
            arguments = node.args.exprs if node.args is not None else []
            text = ", ".join(self.number(argument, _CONDITION) for argument in arguments)
            return f"{self._name(node.name.name)}({text})"
        what = {
            "UnaryOp": f"it applies {getattr(node, 'op', '')}",
            "Assignment": "it assigns",
            "StructRef": "it reaches into a struct",
            "ArrayRef": "it reaches into an array",
        }
        raise Untranslatable(what.get(type(node).__name__, "it is not an expression over numbers"))

    def _name(self, name: str) -> str:
        spelled = self._spell(name)
        if spelled is None:
            raise Untranslatable(f"it uses {name}, which has no counterpart here")
        self.used.append(name)
        return spelled


def _twice(node: Any) -> Any:
    """Return what ``!!`` is applied to, or None."""
    inner = node.expr if isinstance(node, c_ast.UnaryOp) and node.op == "!" else None
    return inner.expr if isinstance(inner, c_ast.UnaryOp) and inner.op == "!" else None


def _membership(left: str, values: list[str]) -> str:
    """Return ``left`` compared with ``values``, or alone where there are none."""
    if len(values) > 1:
        return f"{left} in ({', '.join(dict.fromkeys(values))})"
    return f"{left} == {values[0]}" if values else left


def _sides(node: Any, op: str) -> list[Any]:
    """Return the operands of a chain of the same ``&&`` or ``||``."""
    if isinstance(node, c_ast.BinaryOp) and node.op == op:
        return [*_sides(node.left, op), *_sides(node.right, op)]
    return [node]


def _is_truth(node: Any) -> bool:
    if isinstance(node, c_ast.BinaryOp):
        both = node.op in ("&&", "||") and _is_truth(node.left) and _is_truth(node.right)
        return node.op in _MIRRORED or both
    return isinstance(node, c_ast.UnaryOp) and node.op == "!"


def _literal(node: Any) -> str:
    if node.type == "string" or "float" in node.type or "double" in node.type:
        raise Untranslatable("it is not an expression over numbers")
    text = str(node.value)
    if text.startswith("'"):
        inner = text[1:-1]
        if len(inner) != 1:
            raise Untranslatable(f"it has the character {text}")
        return str(ord(inner))
    digits = _LITERAL.sub("", text)
    if digits.lower().startswith("0x"):
        return f"0x{int(digits, 16):X}"
    octal = len(digits) > 1 and digits.startswith("0") and digits.isdigit()
    return str(int(digits, 8 if octal else 0))


def _closed(text: str, level: int, around: float) -> str:
    # Where C and Python disagree on who binds tighter, nobody should have to remember.
    confusing = level in _BITWISE and around > _NOT and int(around) != level
    return f"({text})" if level < around or confusing else text
