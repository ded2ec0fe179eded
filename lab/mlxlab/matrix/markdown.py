# SPDX-License-Identifier: GPL-2.0-or-later
"""A matrix as Markdown that can be pasted into a mail: no line has 100 columns or more."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

from mlxlab.matrix import layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlxlab.matrix.comparison import Comparison

WIDTH = 99
_SPECIAL = re.compile(r"([|<*`\\])")


def render(found: Comparison, subject: str) -> str:
    """Return the document; ``subject`` says what was run."""
    parts = [_wrapped(_escaped(subject))]
    parts.append("\n".join(_item(line) for line in layout.introductions(found)))
    if found.rows:
        parts += [_rules(found, block) for block in layout.blocks(found, WIDTH)]
    legend = layout.legend(found)
    if legend:
        parts.append(_wrapped(_escaped(legend)))
    parts += _totals(found)
    for section in layout.sections(found):
        parts.append(f"**{section.title}**")
        parts.append("\n".join(_item(text) for text in section.items))
    return "\n\n".join(part for part in parts if part) + "\n"


def _rules(found: Comparison, block: layout.Block) -> str:
    heads = layout.heads(found.columns)
    head = ["id", "level", *(["rule"] if block.text else [])]
    rows = [[*head, *[heads[number] for number in block.columns]]]
    for row in found.rows:
        rule = layout.plain(row.rule)
        # Each backslash takes the room of a character.
        text = _escaped(layout.clip(rule, block.text - len(_SPECIAL.findall(rule))))
        words = [layout.word(row.cells[number]) for number in block.columns]
        first = [_escaped(layout.plain(row.id)), layout.level(row)]
        rows.append([*first, *([text] if block.text else []), *words])
    return _table(rows)


def _totals(found: Comparison) -> list[str]:
    rows = layout.totals(found)
    heads = layout.heads(found.columns)
    first = max(len(name) for name, _ in rows)
    parts: list[str] = []
    begin = 0
    while begin < len(heads):
        end, used = begin, first + 4
        while end < len(heads):
            used += 3 + max(len(heads[end]), *[len(words[end]) for _, words in rows])
            if used > WIDTH and end > begin:
                break
            end += 1
        lines = [["rules", *heads[begin:end]]]
        lines += [[name, *words[begin:end]] for name, words in rows]
        parts.append(_table(lines))
        begin = end
    return parts


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    lines = [
        "| "
        + " | ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True))
        + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def _item(text: str) -> str:
    return _wrapped(_escaped(text), "- ", "  ")


def _wrapped(text: str, first: str = "", then: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=then, break_on_hyphens=False
    )
