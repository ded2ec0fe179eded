# SPDX-License-Identifier: GPL-2.0-or-later
"""The checks, checked: a driver with one mistake fails those concerned, and no other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from mlxtrace.checks import Status, all_checks
from tests.lab.broken import build
from tests.lab.broken.table import ASKED, ASSERTIONS, FAILS, NEAR, beside
from tests.lab.conftest import CARRIED

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.lab.conftest import Lab, Labs

pytestmark = [pytest.mark.lab, pytest.mark.parametrize("kernel", [CARRIED])]

NONE = "-"
# Quick ones of each kind, with a check that they leave alone.
FEW = {
    NONE: {"C9", "C16", "C17.once", "C21", "C31.truncated", "C41"},
    "failure-file": {"C9", "C7"},
    "early-enomsg": {"C17.once", "C16"},
    "initial-no-header": {"C16", "C15"},
    "info-in-stop-copy": {"C21", "C23"},
    "cut-record": {"C31.truncated", "C31.absent"},
    "set-aside-leaked": {"C41", "C43"},
    "get-and-set": {"C24.flags", "C24.probe"},
}


@pytest.fixture(scope="module")
def modules() -> Path:
    """Build the modules that can make every mistake."""
    return build.modules(build.names()).folder


def asked(lab: Lab, name: str, modules: Path, words: Iterable[str]) -> dict[str, dict[str, str]]:
    """Run checks on broken drivers; return what came of each, by mistake and identifier."""
    done = lab.run(
        name,
        "python",
        "-m",
        "tests.lab.guest.broken",
        modules,
        *words,
        options=[word for each in ASSERTIONS for word in ("--allow", each)],
        timeout_s=3600,
    )
    (lab.out / name / "lines.jsonl").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    found: dict[str, dict[str, str]] = {}
    for line in map(json.loads, done.stdout.splitlines()):
        found.setdefault(line["mistake"], {})[line["id"]] = line["status"]
    return found


def failed(statuses: dict[str, str]) -> set[str]:
    """Return the checks that failed."""
    return {name for name, status in statuses.items() if status == Status.FAILED}


def wrong(found: dict[str, dict[str, str]], table: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the checks that failed on each driver where they are not those of ``table``."""
    fails = {mistake: failed(statuses) for mistake, statuses in found.items()}
    assert not [statuses for statuses in found.values() if "broken" in statuses.values()]
    return {
        mistake: names for mistake, names in fails.items() if names != table.get(mistake, set())
    }


def test_mistakes_fail_their_checks(labs: Labs, kernel: str, modules: Path) -> None:
    words = [f"{mistake}={','.join(sorted(names))}" for mistake, names in FEW.items()]
    found = asked(labs.on(kernel), "broken", modules, words)
    assert {mistake: set(statuses) for mistake, statuses in found.items()} == FEW
    for mistake, names in FEW.items():
        wanted = FAILS.get(mistake, set()) | NEAR.get(mistake, set())
        assert failed(found[mistake]) == wanted & names, mistake


@pytest.mark.slow
def test_every_mistake_fails_exactly_its_checks(labs: Labs, kernel: str, modules: Path) -> None:
    found = asked(labs.on(kernel), "broken-all", modules, [NONE, *FAILS])
    assert not wrong(found, FAILS)
    assert found.keys() == {NONE, *FAILS}
    safe = {check.id for check in all_checks() if check.id in ASKED and not check.may_hang}
    assert all(safe <= statuses.keys() for statuses in found.values())


@pytest.mark.slow
def test_more_mistakes_fail_their_checks_and_none_beside_them(
    labs: Labs, kernel: str, modules: Path
) -> None:
    asked_of = {mistake: beside(mistake) for mistake in NEAR}
    asked_of[NONE] = set().union(*asked_of.values())
    words = [f"{mistake}={','.join(sorted(names))}" for mistake, names in asked_of.items()]
    found = asked(labs.on(kernel), "broken-near", modules, words)
    assert {mistake: set(statuses) for mistake, statuses in found.items()} == asked_of
    assert not wrong(found, NEAR)
