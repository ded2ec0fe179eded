# SPDX-License-Identifier: GPL-2.0-or-later
"""The log of what a device writes to (DMA_LOGGING): its rules, on a firmware that has one."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from mlxtrace.checks import all_checks
from mlxtrace.validate.results import Verdict
from tests.lab.conftest import CARRIED, GUEST, KERNEL, STOCK, UNLOAD

if TYPE_CHECKING:
    from tests.lab.conftest import Labs

pytestmark = pytest.mark.lab

ABOUT = {check.id for check in all_checks() if check.statement in ("C44", "C45")}
_SHORT = "the driver tells the firmware of a range that is a byte short"
_NO_BITMAPS = "VFIO of Debian's 6.12 is without iova bitmaps (no IOMMUFD): a report is refused"
FAILS = {
    CARRIED: {"C45": _SHORT},
    STOCK: {"C45": _SHORT},
    KERNEL: dict.fromkeys(("C44", "C44.report", "C45"), _NO_BITMAPS),
}
"""What the drivers of 6.1 and 6.12 do not keep, and why."""
ANSWERS = {
    _SHORT: r"pages in it: 0 pages, .*; the rule wants \[262143\]$",
    _NO_BITMAPS: "REPORT.*: ENOTSUP; the rule wants 0$",
}


@pytest.mark.parametrize(
    "kernel",
    [
        CARRIED,
        pytest.param(STOCK, marks=pytest.mark.slow),
        pytest.param(KERNEL, marks=pytest.mark.slow),
    ],
)
def test_the_rules_of_a_log_hold_or_it_is_known_why_not(labs: Labs, kernel: str) -> None:
    lab = labs.on(kernel)
    done = lab.run("logging", "sh", GUEST / "logging.sh")
    text = (lab.out / "logging/checks.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[-1]["event"] == "summary", done.stderr
    checks = {line["id"]: line for line in lines if line["event"] == "check"}
    assert checks.keys() == ABOUT
    for name, line in checks.items():
        known = FAILS[kernel].get(name)
        wanted = Verdict.KNOWN_DEVIATION if known else Verdict.PASSED
        assert line["status"] == wanted, line
        assert not known or re.search(ANSWERS[known], line["reason"]), line
    assert done.returncode == 0, done.stderr
    unload = lab.run("logging-unload", "sh", "-c", UNLOAD)
    assert unload.returncode == 0, unload.stderr
