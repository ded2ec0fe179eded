# SPDX-License-Identifier: GPL-2.0-or-later
"""The matrix as Markdown and as text: what is in it, and that it fits."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mlxlab.matrix import columns, comparison, layout, markdown, records, show
from mlxlab.matrix.keep import Ran
from mlxlab.matrix.records import Check, Records
from mlxlab.table import Entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlxlab.matrix.comparison import Comparison

LONG = "a rule with a text that is much longer than what any table has room for, by all means " * 2


def ran(name: str, *checks: Check, reason: str = "", troubles: Sequence[str] = ()) -> Ran:
    column = columns.Column(name, ("--kernel", name), Entry(name, "", "6.1", "stock"))
    meta = {"kernel": "6.1.0-41-amd64", "profile": "carried", "profile_reason": "it has PRE_COPY"}
    found = Records(meta, list(checks), {})
    return Ran(column, Path("kept", name), found, 0, reason, tuple(troubles))


def check(
    name: str,
    status: str = records.PASSED,
    *,
    rule: str = LONG,
    known: str = "",
    reason: str = "",
) -> Check:
    return Check(name, "must", rule, status, known, reason)


def text(found: Comparison, width: int = 80) -> str:
    paper = io.StringIO()
    show.show(found, "subject", ["--destructive"], Console(file=paper, width=width))
    return paper.getvalue()


def table(document: str) -> list[list[str]]:
    """Return the cells of the first table in Markdown, without its rule."""
    lines = document.split("\n\n")[2].splitlines()
    assert len({len(line) for line in lines}) == 1
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])
    ]


def test_the_markdown_is_a_table_with_a_column_for_each_revision() -> None:
    found = comparison.compare(
        [ran("v1", check("C8"), check("C15")), ran("v2", check("C8", records.FAILED), check("C15"))]
    )
    rows = table(markdown.render(found, "subject"))
    assert rows[0] == ["id", "level", "rule", "v1", "v2"]
    assert [row[:2] + row[3:] for row in rows[1:]] == [
        ["C8", "must", "pass", "FAIL !"],
        ["C15", "must", "pass", "pass"],
    ]
    assert all(row[2].endswith("...") for row in rows[1:])


def test_no_line_of_the_markdown_has_a_hundred_columns() -> None:
    for count in (1, 3, 8, 12, 30):
        each = [
            ran(
                f"a-name-that-is-too-long-for-a-head-{number}",
                check("C8", records.FAILED, reason=LONG, rule="a | b < c " * 9),
                check("C100", records.KNOWN, known="x" * 300),
                troubles=[LONG],
                reason=LONG,
            )
            for number in range(count)
        ]
        document = markdown.render(comparison.compare(each), LONG)
        assert max(map(len, document.splitlines())) < 100, count
        assert document.count("C100 (must)") == 1


def test_too_many_columns_are_continued_below() -> None:
    found = comparison.compare([ran(f"v{number}", check("C8")) for number in range(30)])
    parts = layout.blocks(found, 99)
    assert len(parts) > 1
    assert [number for part in parts for number in part.columns] == list(range(30))
    document = markdown.render(found, "subject")
    assert document.count("| C8 ") == len(parts)


def test_long_names_become_letters_that_are_explained() -> None:
    names = ["carried-6.1", "v12-20221206-precopy-for-mlx5"]
    found = comparison.compare([ran(name, check("C8")) for name in names])
    assert layout.heads(found.columns) == ["A", "B"]
    assert f"- B: {names[1]}, Linux 6.1.0-41-amd64" in markdown.render(found, "subject")


def test_what_markdown_would_take_for_its_own_is_escaped() -> None:
    rule = "read() of <fd> | `poll` * 2"
    found = comparison.compare([ran("a", check("C8", rule=rule))])
    assert r"read() of \<fd> \| \`poll\` \* 2" in markdown.render(found, "subject")


def test_failures_are_told_once_for_all_columns_with_the_same_reason() -> None:
    found = comparison.compare(
        [
            ran("v1", check("C8", rule="it holds.")),
            ran("v2", check("C8", records.FAILED, rule="it holds", reason="EIO")),
            ran("v3", check("C8", records.FAILED, rule="it holds", reason="EIO"), check("C8")),
        ]
    )
    section = next(each for each in layout.sections(found) if each.title == "Failed")
    assert section.items == ("C8 (must) v2 (it held before), v3 (1 of 2 checks): it holds: EIO",)


def test_all_that_is_not_as_it_should_be_has_a_section() -> None:
    found = comparison.compare(
        [
            ran("a", check("C8", records.KNOWN, known="it is old"), troubles=["WARNING: x"]),
            ran("b", check("C9", records.FAILED, reason="no"), reason="the VM was lost"),
        ]
    )
    document = " ".join(markdown.render(found, "subject").split())
    for told in ("it is old", "a: WARNING: x", "b: the VM was lost", "NOT COMPLETE", "? = the run"):
        assert told in document


def test_a_matrix_of_good_columns_has_no_section_and_needs_no_legend() -> None:
    found = comparison.compare([ran("a", check("C8"))])
    assert layout.sections(found) == []
    assert layout.legend(found) == ""
    assert layout.repeats(found, []) == []


def test_a_matrix_without_any_result_is_shown() -> None:
    found = comparison.compare([ran("a", reason="it does not build")])
    assert "it does not build" in markdown.render(found, "subject")
    assert "it does not build" in text(found)


def test_the_text_fits_a_terminal_and_names_the_command_to_repeat() -> None:
    found = comparison.compare(
        [ran(name, check("C8", records.FAILED, reason="no")) for name in ("v1", "v2")]
    )
    lines = text(found).splitlines()
    commands = [line for line in lines if line.startswith("  mlxlab")]
    assert commands == [
        f"  mlxlab matrix --kernel {name} --only C8 --destructive" for name in ("v1", "v2")
    ]
    assert max(len(line.rstrip()) for line in lines if line not in commands) <= 80


def test_what_a_driver_says_cannot_drive_the_terminal() -> None:
    found = comparison.compare(
        [ran("a", check("C8", records.FAILED, reason="\x1b[31mred\n[bold]x"))]
    )
    assert "?[31mred [bold]x" in text(found)
