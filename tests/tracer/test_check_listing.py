# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of all checks, and the documentation that has it."""

from __future__ import annotations

from pathlib import Path

from mlxtrace.checks import all_checks, listing

DOCS = Path(__file__).parents[2] / "docs/conformance.md"


def test_the_documentation_has_the_table() -> None:
    assert DOCS.read_text(encoding="utf-8").endswith(f"\n{listing.table()}\n"), (
        "docs/conformance.md: its table is not what python -m mlxtrace.checks.listing prints"
    )


def test_each_check_has_a_row_with_its_conditions() -> None:
    rows = listing.table().splitlines()[2:]
    assert len(rows) == len(all_checks())
    found = {row.split("|")[1].strip(): row for row in rows}
    assert "| with P2P, PRE_COPY |" in found["C10"]
    assert found["C35.unbind"].endswith("| if the VF may be unbound; late |")
    assert found["C35.sriov"].endswith("| if VFs may be removed; late |")
    assert found["C1"].endswith("|  |")
