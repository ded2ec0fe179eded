# SPDX-License-Identifier: GPL-2.0-or-later
"""What a log gets of a long stage: a line every few seconds, not one for every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxpatch import progress

if TYPE_CHECKING:
    import pytest


def test_a_log_gets_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("mlxpatch.progress.time.monotonic", lambda: now)
    with progress.Progress("tests").stage("building 20 patches") as stage:
        for number in range(1, 21):
            now += 4
            stage.update(f"{number} of 20")
    assert capsys.readouterr().err.splitlines() == [
        "tests: building 20 patches ...",
        *(f"tests: building 20 patches: {number} of 20" for number in (3, 6, 9, 12, 15, 18)),
    ]


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Progress("tests", quiet=True).stage("building") as stage:
        stage.update("1 of 1")
    assert capsys.readouterr().err == ""
