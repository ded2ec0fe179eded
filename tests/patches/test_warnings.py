# SPDX-License-Identifier: GPL-2.0-or-later
"""Which warnings of a build are new, whichever program gave them and wherever lines have moved."""

from __future__ import annotations

import pytest

from mlxpatch.gates import warnings

DEGRADES = "drivers/a.c:{}:5: warning: restricted pci_power_t degrades to integer"
TYPES = "drivers/a.c:{}:9: warning: incorrect type in assignment (different base types)"


def fresh(base: list[str], *steps: list[str]) -> list[list[str]]:
    known = warnings.Known(warnings.found(base))
    return [list(known.fresh(warnings.found(step))) for step in steps]


def test_a_warning_of_the_base_may_move() -> None:
    assert fresh([DEGRADES.format(7)], [DEGRADES.format(12)]) == [[]]


def test_one_more_of_a_kind_is_new_and_told_once() -> None:
    base = [DEGRADES.format(line) for line in (7, 8)]
    more = [DEGRADES.format(line) for line in (7, 8, 9)]
    told = (
        "drivers/a.c:7,8,9: restricted pci_power_t degrades to integer (3 times, 2 of them not new)"
    )
    assert fresh(base, more, [], more) == [[told], [], []]


def test_types_that_do_not_agree_are_part_of_the_warning() -> None:
    """Sparse has them on lines of their own, which make may mix with others."""
    base = [
        *(TYPES.format(3), "drivers/a.c:3:9:    expected int"),
        *("drivers/b.c:1:1: warning: x", "drivers/a.c:3:9:    got restricted __le32"),
    ]
    step = [
        TYPES.format(5),
        "drivers/a.c:5:9:    expected restricted __be32",
        "drivers/a.c:5:9:    got int",
    ]
    ((told,),) = fresh(base, step)
    assert told.startswith("drivers/a.c:5: incorrect type in assignment")
    assert told.endswith("; expected restricted __be32; got int")


def test_a_header_counts_once_however_many_include_it() -> None:
    line = "include/linux/a.h:7:2: warning: useless"
    assert fresh([line], [line, line]) == [[]]
    assert fresh([], [line, line]) == [["include/linux/a.h:7: useless"]]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("drivers/a.c:7: warning: Excess parameter", "drivers/a.c:7: Excess parameter"),
        ("drivers/a.c:2:8: error: Expected ) in", "drivers/a.c:2: Expected ) in"),
        (
            "drivers/a.o: warning: objtool: f+0x2b: unreachable",
            "drivers/a.o: objtool: f: unreachable",
        ),
        (
            "WARNING: modpost: drivers/a.o: section mismatch",
            "modpost: drivers/a.o: section mismatch",
        ),
    ],
)
def test_every_program_of_a_build_is_heard(line: str, told: str) -> None:
    assert fresh([], [line]) == [[told]]


def test_what_is_no_warning_is_none() -> None:
    assert warnings.found(["  CC [M]  a.o", "make: Leaving", "a.c:3: note: here"]) == {}
