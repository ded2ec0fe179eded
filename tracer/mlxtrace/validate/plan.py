# SPDX-License-Identifier: GPL-2.0-or-later
"""Which checks run, in which order, and which are left out and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.errors import UsageError
from mlxtrace.checks import Check, Level
from mlxtrace.validate.profiles import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlxtrace.validate.profiles import Profile

_SECTIONS = {
    "session": "Saving sessions",
    "accounting": "Initial and dirty bytes",
    "states": "States",
    "ioctl": "Arguments and errors",
    "readers": "Readers and the end of the stream",
    "resume": "Loading",
    "lifetime": "Ends, resets and leaks",
    "abrupt": "Races and sudden ends",
    "datafile": "Data files",
    "dirty": "Dirty tracking of memory",
    "features": "Features",
    "removal": "Removal of drivers and VFs",
    "streams": "Damaged streams",
    "table": "Sessions by state",
}
"""Titles of the modules in mlxtrace.checks that hold checks; another's is its name."""


@dataclass(frozen=True)
class Planned:
    """A check that was asked for.

    Attributes:
        check: which one.
        repeat: in which repetition, from 1.
        left_out: why it does not run; empty if it does.
    """

    check: Check
    repeat: int = 1
    left_out: str = ""


def select(checks: Iterable[Check], level: Level, only: Sequence[str]) -> list[Check]:
    """Return those that are at least as binding as ``level``, and among ``only`` if any is named.

    The number of a statement (``C31``) stands for all its checks.

    Raises:
        UsageError: a name in ``only`` is not known, or nothing is left.
    """
    checks = list(checks)
    names = {each.id for each in checks} | {each.statement for each in checks}
    for name in only:
        if name not in names:
            raise UsageError(f"there is no check {name}", "mlxtrace validate --list names them")
    levels = list(Level)[: list(Level).index(level) + 1]
    found = [
        each
        for each in checks
        if each.level in levels and (not only or {each.id, each.statement} & set(only))
    ]
    if not found:
        raise UsageError(f"--level {level} leaves none of {', '.join(only)}")
    return found


def plan(
    checks: Iterable[Check], profile: Profile, *, repeat: int = 1, destructive: bool = False
) -> list[Planned]:
    """Return what to do, in order: after all repetitions of others those that may hang the kernel,
    and last those that remove VFs.

    What ``profile`` says to skip is left out, and so is what takes a device
    from its driver or away, unless ``destructive``.
    """
    planned = [
        Planned(check, number, _left_out(check, profile, destructive))
        for number in range(1, repeat + 1)
        for check in checks
    ]
    return sorted(planned, key=lambda each: (each.check.destructive, each.check.may_hang))


def takes_away(check: Check) -> bool:
    """Tell whether ``check`` takes a device from its driver, or away, which has to be allowed."""
    return check.rebinds or check.destructive


def section(check: Check) -> str:
    """Return the title of the section of the report that ``check`` is in."""
    module = check.function.__module__.rpartition(".")[2]
    return _SECTIONS.get(module, module.replace("_", " ").capitalize())


def _left_out(check: Check, profile: Profile, destructive: bool) -> str:
    known = profile.of(check)
    if known and known.kind is Kind.SKIP:
        return f"the profile {profile.name} leaves it out; --profile generic runs it"
    if takes_away(check) and not destructive:
        return "it takes the VF from its driver, or away: --destructive allows that"
    return ""
