# SPDX-License-Identifier: GPL-2.0-or-later
"""What the text and the Markdown of a matrix have in common: words, widths, and what to tell."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxlab.matrix import comparison, records

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlxlab.matrix.comparison import Cell, Comparison, Row
    from mlxlab.matrix.keep import Ran

_WORDS = {
    records.PASSED: "pass",
    records.FAILED: "FAIL",
    records.KNOWN: "known",
    records.NOT_OFFERED: "n/o",
    records.NOT_RUN: "-",
    comparison.MISSING: "?",
    comparison.NOT_ASKED: "n/a",
}
_MARKS = {comparison.BROKEN: " !", comparison.MENDED: " +", "": ""}
_MEANINGS = {
    "!": "it held in the column before",
    "+": "it did not hold in the column before",
    "known": "a known deviation of the driver's profile",
    "n/o": "the driver does not offer it",
    "-": "not run",
    "?": "the run ended before it",
    "n/a": "that run was not asked for it",
}
_LONGEST_HEAD = 16
# A shorter piece of a rule says nothing.
_SHORTEST_TEXT = 24
_LONGEST_TEXT = 72
# What separates two columns: " | ", and at the edges "| " and " |".
_GAP = 3


@dataclass(frozen=True)
class Block:
    """A part of the table that fits: some of the columns, and room for the rules' text."""

    columns: range
    text: int  # characters; 0: there is no room for it


@dataclass(frozen=True)
class Section:
    """Paragraphs below the table."""

    title: str
    items: tuple[str, ...]


def word(cell: Cell) -> str:
    """Return what the table has for ``cell``."""
    return _WORDS[cell.status] + _MARKS[cell.change]


def heads(columns: Sequence[Ran]) -> list[str]:
    """Return the columns' names, or letters if a name is too long for a column's head."""
    names = [ran.column.name for ran in columns]
    if max(map(len, names)) <= _LONGEST_HEAD:
        return names
    return [_letters(number) for number in range(len(names))]


def _letters(number: int) -> str:
    left, last = divmod(number, 26)
    return (_letters(left - 1) if left else "") + chr(ord("A") + last)


def widths(found: Comparison) -> tuple[int, int, list[int]]:
    """Return how wide the identifiers, the levels, and each column are."""
    names = [len(row.id) for row in found.rows]
    levels = [len(level(row)) for row in found.rows]
    columns = [
        max([len(head), *[len(word(row.cells[number])) for row in found.rows]])
        for number, head in enumerate(heads(found.columns))
    ]
    return max([4, *names]), max([5, *levels]), columns


def blocks(found: Comparison, width: int) -> list[Block]:
    """Divide the table into parts of at most ``width`` characters.

    As long as all columns fit beside each other they do, with the rules' text if there is room.
    """
    names, levels, columns = widths(found)
    room = width - 1 - (names + _GAP) - (levels + _GAP)
    text = room - _GAP - sum(each + _GAP for each in columns)
    if text >= _SHORTEST_TEXT:
        return [Block(range(len(columns)), min(text, _LONGEST_TEXT))]
    parts, begin, used = [], 0, 0
    for number, each in enumerate(columns):
        if used + each + _GAP > room and number > begin:
            parts.append(Block(range(begin, number), 0))
            begin, used = number, 0
        used += each + _GAP
    return [*parts, Block(range(begin, len(columns)), 0)]


def level(row: Row) -> str:
    """Return the level of ``row`` as one word."""
    return plain(row.level).split(" ")[0]


def legend(found: Comparison) -> str:
    """Return what the words and marks mean that are in the table."""
    there = {part for row in found.rows for cell in row.cells for part in word(cell).split(" ")}
    used = [f"{sign} = {meaning}" for sign, meaning in _MEANINGS.items() if sign in there]
    return f"In the table: {'; '.join(used)}." if used else ""


def introductions(found: Comparison) -> list[str]:
    """Return a line for each column: what it is, and how validate saw it."""
    lines = []
    for head, ran in zip(heads(found.columns), found.columns, strict=True):
        name = ran.column.name
        meta = ran.records.meta
        parts = [] if head == name else [name]
        if meta.get("kernel"):
            parts.append(f"Linux {plain(meta['kernel'])}")
        if ran.column.series:
            parts.append(_count(len(ran.column.series.patches), "patch", "patches"))
        if meta.get("profile"):
            parts.append(f"profile {plain(meta['profile'])}")
        if ran.column.result:
            parts.append("run elsewhere")
        if not ran.complete:
            parts.append("NOT COMPLETE")
        lines.append(f"{head}: {', '.join(parts) or 'no result'}")
    return lines


def totals(found: Comparison) -> list[tuple[str, list[str]]]:
    """Return the rows of totals: their names, and a word for each column."""
    counts = [found.totals(number) for number in range(len(found.columns))]
    rows = [
        (name, [str(count[name]) for count in counts])
        for name in comparison.TOTALS
        if name in _ALWAYS or any(count[name] for count in counts)
    ]
    troubles = [str(len(ran.troubles) or "clean") for ran in found.columns]
    for number, ran in enumerate(found.columns):
        if ran.status is None:
            troubles[number] = "-"
    return [*rows, ("kernel log", troubles)]


_ALWAYS = (records.PASSED, "failed must", "failed should", records.KNOWN)


def sections(found: Comparison) -> list[Section]:
    """Return what is to be said below the table: all that is not as it should be."""
    names = heads(found.columns)
    incomplete = [
        f"{name}: {plain(ran.reason)}"
        for name, ran in zip(names, found.columns, strict=True)
        if not ran.complete
    ]
    complaints = [
        f"{name}: {plain(trouble)}"
        for name, ran in zip(names, found.columns, strict=True)
        for trouble in ran.troubles
    ]
    told = [
        Section("Not run to the end", tuple(incomplete)),
        Section("The kernel's log and the firmware", tuple(complaints)),
        Section("Failed", tuple(_told(found, names, records.FAILED))),
        Section("Known deviations", tuple(_told(found, names, records.KNOWN))),
        Section("Not offered any more", tuple(_gone(found, names))),
    ]
    return [section for section in told if section.items]


def _told(found: Comparison, names: Sequence[str], status: str) -> Iterator[str]:
    """Yield a paragraph for each reason that a rule has ``status`` for, with its columns."""
    for row in found.rows:
        by_reason: dict[str, list[str]] = {}
        for name, cell in zip(names, row.cells, strict=True):
            if cell.status != status:
                continue
            check = cell.worst[0]
            reason = plain(check.known if status == records.KNOWN else check.reason)
            where = name
            if len(cell.checks) > 1:
                where += f" ({len(cell.worst)} of {len(cell.checks)} checks)"
            if cell.change == comparison.BROKEN:
                where += " (it held before)"
            by_reason.setdefault(reason or "no reason given", []).append(where)
        for reason, places in by_reason.items():
            rule = plain(row.rule).rstrip(".")
            yield f"{row.id} ({level(row)}) {', '.join(places)}: {rule}: {reason}"


def _gone(found: Comparison, names: Sequence[str]) -> Iterator[str]:
    """Yield, by column and reason, the rules that held before and are not offered now."""
    for number, name in enumerate(names):
        by_reason: dict[str, list[str]] = {}
        for row in found.changes(number)[0]:
            cell = row.cells[number]
            if cell.status == records.NOT_OFFERED:
                reason = plain(cell.worst[0].reason) or "no reason given"
                by_reason.setdefault(reason, []).append(row.id)
        for reason, rules in by_reason.items():
            yield f"{name}: {reason}: {', '.join(rules)}"


def repeats(found: Comparison, options: Sequence[str]) -> list[str]:
    """Return a command for each column with failures that runs those rules again, in the lab."""
    commands = []
    for number, ran in enumerate(found.columns):
        failed = [row.id for row in found.rows if row.cells[number].status == records.FAILED]
        if failed and not ran.column.result:
            words = ["mlxlab", "matrix", *ran.column.words, "--only", ",".join(failed), *options]
            commands.append(shlex.join(words))
    return commands


def plain(text: object) -> str:
    """Return ``text`` on one line, without what a terminal would take for a command."""
    return "".join(
        letter if letter.isprintable() else "?" for letter in " ".join(str(text).split())
    )


def clip(text: str, width: int) -> str:
    """Return ``text`` cut to ``width`` characters, with nothing but ASCII added: for a mail."""
    return text if len(text) <= width else text[: width - 3].rstrip() + "..."


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
