# SPDX-License-Identifier: GPL-2.0-or-later
"""The mistakes under tests/lab/broken: each still fits the carried series, alone and with all."""

from __future__ import annotations

import pytest

from mlxpatch.apply import Overlay, apply_patch
from mlxtrace.checks import all_checks
from tests.lab.broken import build
from tests.lab.broken.table import ASKED, FAILS, NEAR, beside
from tests.lab.guest.faulty import FAULTS

CHECKS = {check.id: check for check in all_checks()}
# What no mistake here breaks, and why.
_NO_LOG = "the lab's firmware has no log of what the device writes to"
_FREED = "a driver that breaks it uses memory that was freed"
LEFT_OUT = {
    "C4": "on a device that has all states there is nothing to be refused",
    "C11.position": "VFS answers for the driver, once it has called stream_open()",
    "C20.optin": "Linux 7.1 has the feature",
    "C33.error": "nothing brings the device to ERROR",
    "C35.held": _FREED,
    "C35.ioctl": "a driver that breaks it oopses",
    "C35.sriov": _FREED,
    "C35.unbind": _FREED,
    "C44": _NO_LOG,
    "C44.ranges": _NO_LOG,
    "C44.report": _NO_LOG,
    "C44.stop": _NO_LOG,
    "C45": _NO_LOG,
}


@pytest.fixture(scope="module")
def carried() -> Overlay:
    return build.carried()


def test_every_mistake_has_a_patch_and_names_checks_that_there_are() -> None:
    assert sorted(FAILS.keys() | NEAR.keys()) == build.names()
    for fails in FAILS.values():
        assert fails
        assert fails <= ASKED | FAULTS.keys()
    for mistake, fails in NEAR.items():
        assert fails
        assert fails <= beside(mistake)
        # What both tables ask for is the same.
        assert FAILS.get(mistake, fails) & beside(mistake) <= fails


def test_every_check_is_failed_by_a_mistake_or_it_is_known_why_not() -> None:
    failed = set().union(*FAILS.values(), *NEAR.values())
    failed |= {FAULTS[name].check for name in failed & FAULTS.keys()}
    assert CHECKS.keys() >= ASKED
    assert CHECKS.keys() - failed == LEFT_OUT.keys()


@pytest.mark.parametrize("name", build.names())
def test_a_mistake_fits_the_series_at_one_place_and_goes_by_its_name(
    carried: Overlay, name: str
) -> None:
    patch = build.patch(name)
    apply_patch(patch, _copy(carried))
    assert f'vfio_broken("{name}")' in patch.diff
    for diff in patch.diffs:
        text = (carried.files[diff.path] or b"").decode()
        for hunk in diff.hunks:
            old = "".join(hunk.old)
            assert text.count(old) == 1, f"in {diff.path} this is not there once:\n{old}"


def test_all_mistakes_fit_together(carried: Overlay) -> None:
    overlay = _copy(carried)
    for name in build.names():
        apply_patch(build.patch(name), overlay)


def _copy(overlay: Overlay) -> Overlay:
    copy = Overlay(overlay.tree)
    copy.files = dict(overlay.files)
    return copy
