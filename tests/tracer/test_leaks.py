# SPDX-License-Identifier: GPL-2.0-or-later
"""What counts as held before a check, and as left behind after it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mlxtrace.checks import leaks
from mlxtrace.checks.context import Context
from mlxtrace.checks.core import DeviationError
from mlxtrace.checks.limits import limits


class Firmware:
    """Tells of so many objects, one number for each look; the last one stays."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def objects(self) -> dict[str, int]:
        number = self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0]
        return {"pds": number}


def context(*numbers: int) -> Context:
    firmware: Any = SimpleNamespace(objects=Firmware(*numbers).objects)
    return Context("source", "target", firmware=firmware)


def test_what_is_being_freed_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "check_s", 1.5)
    # A session of the step before goes, and then the check leaves an object: that is a leak.
    held = leaks.Held(context(3, 3, 2, 1))
    assert held.objects == {"pds": 1}
    held._context.firmware = context(2).firmware
    with pytest.raises(DeviationError, match="what the driver holds"):
        held.expect_no_more()


def test_what_is_freed_a_moment_later_is_not_left_behind() -> None:
    held = leaks.Held(context(1))
    held._context.firmware = context(2, 2, 1).firmware
    held.expect_no_more()
