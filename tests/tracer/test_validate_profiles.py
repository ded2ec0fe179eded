# SPDX-License-Identifier: GPL-2.0-or-later
"""Profiles: their files, which one fits, and what they make of a check's outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error, UsageError
from mlxtrace.checks import Status, all_checks
from mlxtrace.validate.profiles import SHIPPED, Kind, choose, load, parse
from mlxtrace.validate.results import Verdict, judge
from mlxtrace.vfio import MigrationFlags

from .fake_checks import holds, make, profile

if TYPE_CHECKING:
    from pathlib import Path

CHECKS = [check.id for check in all_checks()]
STOP_COPY, P2P, PRE_COPY = MigrationFlags


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_speaks_of_checks_that_there_are(name: str) -> None:
    found = load(name, CHECKS)
    assert (found.name, bool(found.summary), bool(found.when["because"])) == (name, True, True)


@pytest.mark.parametrize(
    ("driver", "flags", "kernel", "name"),
    [
        ("mlx5_vfio_pci", STOP_COPY | P2P | PRE_COPY, "6.1.0-28-amd64", "carried"),
        ("mlx5_vfio_pci", STOP_COPY | P2P, "6.1.0-28-amd64", "stock-6.1"),
        ("mlx5_vfio_pci", STOP_COPY | P2P | PRE_COPY, "6.12.57+deb13-amd64", "upstream-6.12"),
        ("mlx5_vfio_pci", STOP_COPY | P2P | PRE_COPY, "6.2.0", "upstream-6.12"),
        # It has lost PRE_COPY: nobody knows such a one.
        ("mlx5_vfio_pci", STOP_COPY | P2P, "6.12.57+deb13-amd64", "generic"),
        ("mtty", STOP_COPY | P2P | PRE_COPY, "6.12.57", "mtty"),
        ("hisi_acc_vfio_pci", STOP_COPY | PRE_COPY, "6.1.0", "generic"),
    ],
)
def test_driver_and_kernel_choose_a_profile_and_the_reason_names_them(
    driver: str, flags: MigrationFlags, kernel: str, name: str
) -> None:
    found, why = choose(driver, flags, kernel, CHECKS)
    assert found.name == name
    assert driver in why
    assert kernel in why


def test_the_generic_profile_knows_nothing() -> None:
    generic = load("generic", CHECKS)
    assert not any(generic.of(check) for check in all_checks())


def test_what_needs_a_feature_that_the_profile_lacks_is_known() -> None:
    stock = load("stock-6.1", CHECKS)
    for check in all_checks():
        if PRE_COPY in check.needs:
            known = stock.of(check)
            assert known
            assert known.kind is Kind.LACKS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("summary = 1", "no summary"),
        ("= 3", "x.toml: "),
        ('summary = "s"\nfail = {}', "unknown key fail"),
        ('summary = "s"\n[fails]\nC99 = "r"', "there is no check C99"),
        ('summary = "s"\n[fails]\nC1 = ""', r"\[fails\] has to give a reason"),
        ('summary = "s"\n[fails]\nC1 = "r"\n[skip]\nC1 = "r"', "C1 is there twice"),
        ('summary = "s"\n[lacks-feature]\nCOPY = "r"', "no feature COPY"),
    ],
)
def test_a_wrong_file_is_named_with_its_mistake(text: str, message: str) -> None:
    with pytest.raises(Error, match=message) as caught:
        parse(text, "x", "x.toml", ["C1"])
    assert "x.toml" in str(caught.value)


def test_a_profile_of_the_users_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('summary = "mine"\n[fails]\nC1 = "a reason"\n')
    assert load(str(path), CHECKS).known[Kind.FAILS] == {"C1": "a reason"}
    with pytest.raises(UsageError, match=r"cannot read the profile .*none\.toml"):
        load(str(tmp_path / "none.toml"), CHECKS)
    with pytest.raises(UsageError, match="no profile 'upstream'"):
        load("upstream", CHECKS)


@pytest.mark.parametrize(
    ("kind", "status", "verdict", "remark"),
    [
        ("", Status.PASSED, Verdict.PASSED, ""),
        ("", Status.FAILED, Verdict.FAILED, ""),
        ("", Status.NOT_OFFERED, Verdict.NOT_OFFERED, "the profile does not say so"),
        ("fails", Status.FAILED, Verdict.KNOWN_DEVIATION, ""),
        ("fails", Status.PASSED, Verdict.PASSED, "known to fail, but holds"),
        ("may-fail", Status.FAILED, Verdict.KNOWN_DEVIATION, ""),
        ("may-fail", Status.PASSED, Verdict.PASSED, "known to fail at times"),
        ("fails", Status.NOT_OFFERED, Verdict.NOT_OFFERED, "the profile does not say so"),
        ("fails-if-offered", Status.FAILED, Verdict.KNOWN_DEVIATION, ""),
        ("fails-if-offered", Status.PASSED, Verdict.PASSED, "known to fail, but holds"),
        ("fails-if-offered", Status.NOT_OFFERED, Verdict.NOT_OFFERED, ""),
        ("lacks", Status.NOT_OFFERED, Verdict.NOT_OFFERED, ""),
        ("lacks", Status.FAILED, Verdict.FAILED, ""),
        (
            "lacks",
            Status.PASSED,
            Verdict.PASSED,
            "known to be absent, but is there and holds",
        ),
    ],
)
def test_an_outcome_is_judged_by_what_is_known(
    kind: str, status: Status, verdict: Verdict, remark: str
) -> None:
    known = profile(f'[{kind}]\nC1 = "a reason"', ["C1"]) if kind else profile()
    result = judge(make("C1", holds), 1, status, "seen", known)
    assert (result.verdict, result.remark) == (verdict, remark)
    assert (result.known.reason if result.known else "") == ("a reason" if kind else "")
