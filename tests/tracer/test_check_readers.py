# SPDX-License-Identifier: GPL-2.0-or-later
"""C37: what a reader was told when its session ended, and what it had got by then."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace.checks import Context, Status, all_checks, readers, run
from mlxtrace.checks.core import DeviationError
from mlxtrace.checks.limits import limits
from mlxtrace.stream import HEADER
from mlxtrace.vfio import MigrationFlags

from .fake_device import ALL_FLAGS
from .fake_driver import SOURCE, TARGET, FakeDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CHECK = next(check for check in all_checks() if check.id == "C37")
RECORD = 24
"""Bytes of the record that announces a size."""


class Reader:
    """Reads here to the end of the stream, and then says that it had so many bytes of it."""

    left = 1 << 30
    end = 0
    sizes: list[int] = []

    def __init__(self, function: Callable[[], dict[str, Any]], keep: Sequence[int] = ()) -> None:
        found = function()
        self.sizes.append(found["bytes"])
        self._bytes = self.left if self.left >= 0 else found["bytes"] + self.left
        self._bytes = min(self._bytes, found["bytes"])
        for copy in keep[1:]:
            os.ftruncate(copy, self._bytes)

    def sleeps(self, _: float) -> bool:
        return True

    def result(self, _: float) -> dict[str, int]:
        return {"bytes": self._bytes, "end": self.end}


@pytest.mark.parametrize("flags", [ALL_FLAGS, MigrationFlags.STOP_COPY])
@pytest.mark.parametrize(
    ("left", "end", "status"),
    [
        (1 << 30, 0, Status.PASSED),
        (1 << 30, errno.ENODEV, Status.PASSED),
        (1000, errno.ENODEV, Status.PASSED),
        (0, errno.ENODEV, Status.PASSED),
        (0, errno.EIO, Status.FAILED),
        (0, 0, Status.FAILED),
        (HEADER.size - 1, 0, Status.FAILED),
        (RECORD, 0, Status.FAILED),
        (1000, 0, Status.FAILED),
        (-1, 0, Status.FAILED),
    ],
)
def test_a_reader_may_be_told_of_the_streams_end_if_it_has_all_of_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    left: int,
    end: int,
    status: Status,
    flags: MigrationFlags,
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch, flags=flags)
    monkeypatch.setattr(readers, "Child", Reader)
    monkeypatch.setattr(Reader, "left", left)
    monkeypatch.setattr(Reader, "end", end)
    outcome = run(CHECK, Context(SOURCE, TARGET, firmware=driver.firmware))
    assert outcome.status is status, outcome.reason
    assert Reader.sizes[-1] > 1000
    if status is Status.FAILED:
        assert "the rule wants" in outcome.reason


@pytest.mark.parametrize("awake", ["STOP", "reset", "close"])
def test_where_no_reader_slept_there_is_nothing_to_wake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, awake: str
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch)
    monkeypatch.setattr(readers, "_slept_till", lambda _, ending: ending != awake)
    outcome = run(CHECK, Context(SOURCE, TARGET, firmware=driver.firmware))
    assert outcome.status is Status.NOT_OFFERED
    assert f"ended by {awake}: " in outcome.reason
    assert str(outcome.steps[-1]) == "readers that were seen to sleep: 4 of 8"


@pytest.mark.parametrize("name", ["C37", "C38"])
def test_a_reader_has_as_long_as_firmware_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each of them may have to wait for a SAVE."""
    given: list[float] = []

    class Slow(Reader):
        def __init__(self, function: Any, keep: Sequence[int] = ()) -> None:
            if name == "C37":
                super().__init__(function, keep)

        def sleeps(self, timeout_s: float) -> bool:
            given.append(timeout_s)
            return True

        def result(self, timeout_s: float) -> dict[str, int]:
            given.append(timeout_s)
            raise TimeoutError(f"no answer within {timeout_s:g} s")

        def kill(self) -> None:
            """Be gone."""

    driver = FakeDriver(tmp_path, monkeypatch)
    monkeypatch.setattr(readers, "Child", Slow)
    monkeypatch.setattr(limits, "check_s", 1000)
    check = next(check for check in all_checks() if check.id == name)
    outcome = run(check, Context(SOURCE, TARGET, firmware=driver.firmware))
    assert outcome.status is Status.FAILED
    assert "200 s" in outcome.reason
    assert set(given) == {200}


def test_a_reader_that_is_told_of_the_end_before_its_size_record_has_an_image_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record is whole, and the stream is not."""
    FakeDriver(tmp_path, monkeypatch)
    context = Context(SOURCE, TARGET)
    size = HEADER.pack(8, 1, 1) + bytes(8)
    with pytest.raises(DeviationError, match="24 bytes, 0 images; the rule wants a whole"):
        readers._expect_whole(context, size, "reset")
