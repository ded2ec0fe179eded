# SPDX-License-Identifier: GPL-2.0-or-later
"""A matrix for people: tables, and below them all that is not as it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mlxlab.matrix import comparison, layout, records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from mlxlab.matrix.comparison import Cell, Comparison

_STYLES = {
    records.PASSED: "green",
    records.FAILED: "bold red",
    records.KNOWN: "yellow",
    comparison.MISSING: "red",
}
# A change stands out from the failures that are the same in all columns.
_CHANGED = {comparison.BROKEN: "bold reverse red", comparison.MENDED: "bold reverse green"}


def show(found: Comparison, subject: str, options: Sequence[str], console: Console) -> None:
    """Print the matrix ``found``; ``subject`` says what was run, ``options`` go to validate."""
    console.print(Text(subject))
    for line in layout.introductions(found):
        console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
    for block in layout.blocks(found, console.width) if found.rows else []:
        console.print(_rules(found, block))
    legend = layout.legend(found)
    if legend:
        console.print(Text(legend))
    console.print(_totals(found))
    for section in layout.sections(found):
        console.print(Text(f"{section.title}:", "bold"))
        for text in section.items:
            console.print(Padding(Text(text), (0, 0, 0, 2), expand=False))
        console.print()
    commands = layout.repeats(found, options)
    if commands:
        console.print(Text("To run what failed again:", "bold"))
        for command in commands:
            # Whole, so that it can be copied.
            console.print(Text(f"  {command}"), soft_wrap=True)
        console.print()


def _rules(found: Comparison, block: layout.Block) -> Table:
    table = _table()
    for head in ("id", "level", *(["rule"] if block.text else [])):
        table.add_column(head, no_wrap=True)
    heads = layout.heads(found.columns)
    for number in block.columns:
        table.add_column(Text(heads[number]), no_wrap=True)
    for row in found.rows:
        text = Text(layout.clip(layout.plain(row.rule), block.text))
        table.add_row(
            Text(layout.plain(row.id)),
            Text(layout.level(row)),
            *([text] if block.text else []),
            *[_cell(row.cells[number]) for number in block.columns],
        )
    return table


def _cell(cell: Cell) -> Text:
    return Text(layout.word(cell), _CHANGED.get(cell.change) or _STYLES.get(cell.status, "dim"))


def _totals(found: Comparison) -> Table:
    table = _table()
    table.add_column("rules", no_wrap=True)
    for head in layout.heads(found.columns):
        table.add_column(Text(head), justify="right")
    for name, words in layout.totals(found):
        wrong = name.startswith("failed") or name == "kernel log"
        table.add_row(
            name,
            *[
                Text(word, "bold red" if wrong and word not in ("0", "clean", "-") else "")
                for word in words
            ],
        )
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE, pad_edge=False)
