# SPDX-License-Identifier: GPL-2.0-or-later
"""All checks as a table in Markdown: ``python -m mlxtrace.checks.listing``."""

from __future__ import annotations

from mlxtrace.checks import Check, all_checks
from mlxtrace.vfio import MigrationFlags

HEADER = "| check | level | the rule | runs only |\n| --- | --- | --- | --- |"


def table() -> str:
    """Return a row for each check, by number, and the header: as docs/conformance.md has it."""
    rows = sorted(all_checks(), key=lambda each: (int(each.statement[1:]), each.id))
    return "\n".join([HEADER, *map(_row, rows)])


def _row(check: Check) -> str:
    return f"| {check.id} | {check.level} | {check.rule} | {'; '.join(_conditions(check))} |"


def _conditions(check: Check) -> list[str]:
    """Return what has to be so for ``check`` to run, or what is peculiar about when it does."""
    missing = check.needs & ~MigrationFlags.STOP_COPY
    found = []
    if missing:
        names = (flag.name or "" for flag in MigrationFlags if flag in missing)
        found.append(f"with {', '.join(names)}")
    if check.rebinds:
        found.append("if the VF may be unbound")
    if check.destructive:
        found.append("if VFs may be removed")
    if check.may_hang:
        found.append("late")
    return found


if __name__ == "__main__":
    print(table())
