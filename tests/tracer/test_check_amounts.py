# SPDX-License-Identifier: GPL-2.0-or-later
"""A stream without an end ends a check, and the memory that it takes; a long one does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from genbindings.errors import Error
from mlxtrace.checks import Context, Status, all_checks, amounts, run
from mlxtrace.checks.core import DeviationError
from mlxtrace.checks.transfer import read_part
from mlxtrace.vfio import End, SavingStream

from .fake_device import FakeSaving
from .fake_driver import SOURCE, TARGET, FakeDriver

if TYPE_CHECKING:
    from pathlib import Path

CHECKS = {check.id: check for check in all_checks()}
MIB = 1 << 20


class Long:
    """A saving stream of so many MiB; ``read`` counts the bytes that came."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.read_bytes = 0

    def read(self, max_bytes: int) -> bytes | End:
        if not self.left:
            return End.FINAL
        self.left -= 1
        self.read_bytes += max_bytes
        return bytes(max_bytes)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> amounts.Amounts:
    """What is known of a state of 1 MiB; what is free is not to matter."""
    found = amounts.Amounts(state_bytes=MIB, slack_bytes=4 * MIB)
    monkeypatch.setattr(amounts, "amounts", found)
    monkeypatch.setattr(amounts, "_free_bytes", lambda: 1 << 60)
    return found


def read(stream: Long) -> tuple[bytes, End]:
    return read_part(cast("SavingStream", stream))


def test_far_more_than_a_state_is_a_deviation() -> None:
    stream = Long(1000)
    with pytest.raises(DeviationError, match=r"bytes and no end, of a state of 1048576 bytes"):
        read(stream)
    assert stream.read_bytes <= (amounts.TIMES + 3 * 4) * MIB


def test_what_a_state_may_have_is_read() -> None:
    assert read(Long(amounts.TIMES + 4)) == (bytes((amounts.TIMES + 4) * MIB), End.FINAL)


def test_a_large_state_is_read_where_nobody_knows_how_large_it_is(known: amounts.Amounts) -> None:
    known.state_bytes = 0
    assert len(read(Long(40))[0]) == 40 * MIB


def test_memory_ends_it_where_nothing_else_does(
    known: amounts.Amounts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(amounts, "amounts", known)
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 99999 kB\nMemAvailable:   10240 kB\n")
    monkeypatch.setattr(amounts, "MEMINFO", meminfo)
    known.state_bytes = 0
    with pytest.raises(DeviationError, match="half of the memory that was free"):
        read(Long(1000))
    # A state that is said to be so large is no deviation.
    known.state_bytes = 500 * MIB
    with pytest.raises(Error, match="fill this host's memory") as caught:
        read(Long(1000))
    assert not isinstance(caught.value, DeviationError)
    meminfo.write_text("MemTotal: 99999 kB\n")
    assert len(read(Long(30))[0]) == 30 * MIB


def test_a_driver_that_does_not_advance_fails_its_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch)
    monkeypatch.setattr(FakeSaving, "read", lambda *_: bytes(MIB))
    outcome = run(CHECKS["C16"], Context(SOURCE, TARGET, firmware=driver.firmware))
    assert outcome.status is Status.FAILED
    assert "bytes and no end, of a state of" in outcome.reason
    assert "the rule wants an end" in outcome.reason
