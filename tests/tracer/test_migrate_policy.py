# SPDX-License-Identifier: GPL-2.0-or-later
"""When the source is stopped, and how fast the stream may flow."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genbindings.errors import UsageError
from mlxtrace import migrate
from mlxtrace.migrate_limit import LimitedSink, parse_rate
from mlxtrace.migrate_model import Options
from mlxtrace.migrate_policy import (
    Decision,
    Policy,
    Progress,
    RecentBandwidth,
    StopReason,
    reason_to_stop,
)
from mlxtrace.stream import HEADER, Framing, Kind, Piece, StreamParser
from mlxtrace.vfio import MigrationFlags

from .fake_device import ALL_FLAGS
from .migrate_pair import pair

if TYPE_CHECKING:
    from mlxtrace.migrate_model import Sink

pytestmark = pytest.mark.usefixtures("no_lab")


@pytest.mark.parametrize(
    ("progress", "reason"),
    [
        (Progress(0, 0, 1e9, 1), None),
        (Progress(1, 10, 1e9, 0), None),
        (Progress(2, 300_000_000, 1e9, 0), StopReason.CONVERGED),
        (Progress(2, 300_000_001, 1e9, 0), None),
        (Progress(2, 0, 1e9, 1), StopReason.IDLE),
        (Progress(0, 0, 1e9, 20), StopReason.IDLE),
        (Progress(30, 1 << 40, 1.0, 0), StopReason.MAX_ROUNDS),
    ],
)
def test_the_decision_to_stop(progress: Progress, reason: StopReason | None) -> None:
    assert reason_to_stop(progress, Options()) is reason


def test_qemus_rule_compares_what_qemu_compares() -> None:
    """From 9.2 on what MIG_DATA_SIZE says, whatever was reported dirty."""
    options = Options(policy=Policy.QEMU, min_rounds=0)
    decision = Decision()

    def decide(size: int, recent: float, **more: Any) -> StopReason | None:
        progress = Progress(0, 0, 1.0, 0, recent)
        return reason_to_stop(progress, replace(options, **more), decision, lambda: size)

    assert decide(300, 1000.0) is StopReason.CONVERGED
    assert decide(301, 1000.0) is None
    assert (decision.remaining_bytes, decision.threshold_bytes) == (301, 300)
    assert decide(300, 0.0) is None, "no bandwidth is known yet"
    assert decide(300, 0.0, switchover_bandwidth=1000) is StopReason.CONVERGED
    assert decide(300, 100.0, downtime_limit_s=3) is StopReason.CONVERGED
    assert decide(300, 1000.0, min_rounds=1) is None
    idle = Progress(0, 0, 1.0, 20, 1.0)
    assert reason_to_stop(idle, options, decision) is StopReason.IDLE
    assert decision.remaining_bytes == 100 << 30, "what QEMU takes where a driver cannot say"


def test_qemus_bandwidth_is_that_of_the_last_window(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("mlxtrace.migrate_policy.time.monotonic", lambda: now)
    recent = RecentBandwidth()
    recent.add(500)
    assert recent.bytes_per_s() == 0
    now = 0.25
    recent.add(500)
    assert recent.bytes_per_s() == 4000
    now = 0.3
    recent.add(1000)
    assert recent.bytes_per_s() == 4000, "the window is not over"
    now = 0.75
    assert recent.bytes_per_s() == 2000
    now = 1.0
    assert recent.bytes_per_s() == 0


@pytest.mark.parametrize("p2p", [True, False])
@pytest.mark.parametrize("raw", [True, False])
def test_stopping_at_once_leaves_nothing_out(p2p: bool, raw: bool) -> None:
    flags = ALL_FLAGS if p2p else ALL_FLAGS & ~MigrationFlags.P2P
    source, target = pair(flags=flags, driver="another" if raw else "mlx5_vfio_pci")
    result = migrate.migrate_to_device(source, target, Options(policy=Policy.IMMEDIATE))
    assert result.error is None
    assert source.hash() == target.hash()
    if not raw:
        assert [image.kind for image in result.images] == [Kind.INITIAL, Kind.FINAL]
    assert [each.kind for each in result.rounds] == [Kind.FINAL]


def test_rounds_of_an_idle_device_are_given_up() -> None:
    source, target = pair(dirty=0)
    options = Options(policy=Policy.ROUNDS, rounds=3, idle_pause_s=0, idle_rounds=4)
    result = migrate.migrate_to_device(source, target, options)
    assert result.stop_reason == StopReason.IDLE


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1024", 1024),
        ("500K", 500 << 10),
        ("100M", 100 << 20),
        ("100MiB/s", 100 << 20),
        ("100 MB", 100 << 20),
        ("1.5G", 3 << 29),
        ("10Gbit", 1.25e9),
        ("10 Gbit/s", 1.25e9),
    ],
)
def test_bandwidths(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "M", "-1M", "1e9", "10Gb", "1X", "1.M", "infinity", "1023", "1k bit"]
)
def test_what_is_no_bandwidth(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rate(text)


@given(sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=5), rate=st.integers(1024, 9000))
def test_a_limit_changes_nothing_but_the_time(sizes: list[int], rate: int) -> None:
    now, written = 0.0, []

    class Into:
        def write(self, piece: Piece) -> None:
            written.append((now, piece))

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    stream = b"".join(HEADER.pack(size, 0, 0) + bytes(size) for size in sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlxtrace.migrate_limit.time.monotonic", lambda: now)
        patch.setattr("mlxtrace.migrate_limit.time.sleep", sleep)
        sink = LimitedSink(cast("Sink", Into()), rate, migrate.nothing)
        for piece in StreamParser(Framing.RECORDS).feed(stream):
            sink.write(piece)
    assert b"".join(bytes(piece.data) for _, piece in written) == stream
    assert sum(piece.complete for _, piece in written) == len(sizes)
    offset = 0
    for when, piece in written:
        assert piece.offset == offset
        assert offset <= rate * when + 1e-6, "never ahead of the limit"
        offset += len(piece.data)
