# SPDX-License-Identifier: GPL-2.0-or-later
"""C6, C7.session, C8: a request that is to leave a session alone does, in the middle of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace.checks import Context, Status, all_checks, context, run
from mlxtrace.vfio import MigrationFlags

from .fake_device import ALL_FLAGS
from .fake_driver import SOURCE, TARGET, FakeDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CHECKS = {check.id: check for check in all_checks()}


class Here:
    """A child that is no process of its own: what it does to the device is seen."""

    def __init__(self, function: Callable[[], Any], keep: Sequence[int] = ()) -> None:
        assert keep
        self._function = function

    def result(self, _: float) -> Any:
        return self._function()


@pytest.mark.parametrize(
    ("broken", "name", "told"),
    [
        ("refusal-drops-data", "C6", "from STOP_COPY on, with requests for PRE_COPY amid it"),
        ("refusal-drops-data", "C7.session", "with requests that were refused amid it"),
        ("refusal-ends-resuming", "C7.session", "the second half, after requests that were"),
        ("same-state-drops-data", "C8", "from STOP_COPY on, with requests for STOP_COPY itself"),
        ("same-state-ends-resuming", "C8", "the second half, after requests for RESUMING itself"),
    ],
)
def test_what_a_session_loses_by_a_request_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, name: str, told: str
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch, [broken])
    monkeypatch.setattr(context, "Child", Here)
    outcome = run(CHECKS[name], Context(SOURCE, TARGET, firmware=driver.firmware))
    assert outcome.status is Status.FAILED
    assert told in outcome.reason


@pytest.mark.parametrize("flags", [ALL_FLAGS, MigrationFlags.STOP_COPY])
@pytest.mark.parametrize("name", ["C6", "C7.session", "C8"])
def test_a_session_that_is_left_alone_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, flags: MigrationFlags
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch, flags=flags)
    monkeypatch.setattr(context, "Child", Here)
    outcome = run(CHECKS[name], Context(SOURCE, TARGET, firmware=driver.firmware))
    assert outcome.status is Status.PASSED, outcome.reason


def test_a_state_that_needs_no_session_is_stayed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch)
    outcome = run(CHECKS["C8"], Context(SOURCE, TARGET, firmware=driver.firmware))
    asked = [step.did for step in outcome.steps]
    for name in ("RUNNING", "RUNNING_P2P", "STOP"):
        assert f"{name} to {name}" in asked
