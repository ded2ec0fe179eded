# SPDX-License-Identifier: GPL-2.0-or-later
"""The migration engine against a model of two VFs: what it does when all goes well."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genbindings.errors import Error, UsageError
from mlxtrace import migrate, streamfile
from mlxtrace.migrate_limit import LimitedSink, parse_rate
from mlxtrace.migrate_model import Options, summary
from mlxtrace.migrate_policy import (
    Decision,
    Policy,
    Progress,
    RecentBandwidth,
    StopReason,
    reason_to_stop,
)
from mlxtrace.stream import HEADER, Framing, Kind, Piece, StreamParser
from mlxtrace.vfio import MigrationFlags, State

from .fake_device import ALL_FLAGS
from .fake_faults import Faults
from .migrate_pair import QUICK, STOP_COPY_ONLY, pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlxtrace.migrate_model import Sink

pytestmark = pytest.mark.usefixtures("no_lab")


def test_a_migration(lab: Callable[..., None]) -> None:
    source, target = pair()
    lab(source, target)
    result = migrate.migrate_to_device(source, target, QUICK)

    assert result.error is None
    assert source.hash() == target.hash()
    assert result.state_hashes == (source.hash(), target.hash())
    assert target.log[3:] == [State.RESUMING, State.STOP, State.RUNNING_P2P, State.RUNNING]
    assert source.log[1:] == [
        State.PRE_COPY,
        State.PRE_COPY_P2P,
        State.STOP_COPY,
        State.STOP,
    ]
    kinds = [image.kind for image in result.images]
    assert kinds[0] is Kind.INITIAL
    assert kinds[-1] is Kind.FINAL
    assert kinds[1:-1] == [Kind.MIDDLE] * (len(kinds) - 2)
    assert result.count(Kind.MIDDLE) >= 2
    assert result.final_ends == 1
    assert result.temporary_ends >= result.count(Kind.INITIAL) + result.count(Kind.MIDDLE)
    assert result.read_bytes == result.written_bytes
    sizes = sum(image.size_bytes + HEADER.size for image in result.images)
    assert result.read_bytes == sizes + HEADER.size + 8  # STOP_COPY_SIZE
    assert result.stop_reason == StopReason.CONVERGED
    assert result.stop_copy_estimate_bytes == 64 * 64


def test_the_summary_says_what_the_device_saw() -> None:
    source, target = pair()
    sizes: list[int] = []
    infos: list[int] = []

    def watch() -> None:
        if source.saving is not None:
            sizes[:] = source.saving.made
            infos[:] = [source.saving.infos]

    result = migrate.migrate_to_device(source, target, QUICK, check=watch)
    line = summary(result)
    assert line["image_bytes"] == sizes
    assert line["ioctls"] == infos[0]
    assert line["images"] == len(sizes)
    assert line["initial_images"] == line["final_images"] == line["final_ends"] == 1
    assert line["type"] == "summary"
    assert line["bdf"] == "0000:01:00.1"
    assert line["result"] == "done"
    assert line["state_hashes_equal"] is None
    parts = [line[f"downtime_{part}_ns"] for part in ("quiesce", "stop", "final", "load", "start")]
    assert line["downtime_ns"] == sum(parts)
    assert sum(each["read_bytes"] for each in line["rounds"]) == line["read_bytes"]
    assert sum(each["images"] for each in line["rounds"]) == line["images"]
    assert json.loads(json.dumps(line)) == line


faults_that_are_none = st.builds(
    Faults,
    short_read=st.integers(1, 3000),
    transient_enomsg=st.booleans(),
    zero_at_temporary_end=st.booleans(),
    poll_always_ready=st.booleans(),
)


@given(
    faults=faults_that_are_none,
    short_write=st.integers(1, 3000),
    dirty=st.integers(0, 8),
    p2p=st.booleans(),
    precopy=st.booleans(),
    raw=st.booleans(),
)
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_a_driver_may_do_the_state_arrives(
    faults: Faults, short_write: int, dirty: int, p2p: bool, precopy: bool, raw: bool
) -> None:
    flags = ALL_FLAGS if p2p else ALL_FLAGS & ~MigrationFlags.P2P
    source, target = pair(
        faults,
        Faults(short_write=short_write),
        flags=flags,
        dirty=dirty,
        driver="another" if raw else "mlx5_vfio_pci",
        blocks=12,
    )
    options = Options(
        idle_pause_s=0.0, idle_rounds=3, data_timeout_s=5, precopy=precopy, max_rounds=5
    )
    result = migrate.migrate_to_device(source, target, options)
    assert result.error is None
    assert result.precopy == precopy
    assert source.hash() == target.hash()
    assert result.read_bytes == result.written_bytes
    assert result.framing is (Framing.RAW if raw else Framing.RECORDS)
    assert result.count(Kind.FINAL) == 1
    assert result.count(Kind.INITIAL) == precopy
    assert source.current is State.STOP


def test_without_pre_copy_the_source_is_stopped_first() -> None:
    source, target = pair(flags=STOP_COPY_ONLY)
    result = migrate.migrate_to_device(source, target, QUICK)
    assert result.error is None
    assert source.log[1:] == [State.RUNNING_P2P, State.STOP, State.STOP_COPY, State.STOP]
    assert source.hash() == target.hash()
    assert [image.kind for image in result.images] == [Kind.FINAL]
    assert (result.precopy, result.ioctls) == (False, 0)
    assert result.stop_reason == StopReason.NOT_USED


def test_an_idle_device_is_stopped_after_a_while() -> None:
    source, target = pair(dirty=0)
    result = migrate.migrate_to_device(source, target, QUICK)
    assert result.error is None
    assert result.stop_reason == StopReason.IDLE
    assert result.count(Kind.MIDDLE) == 0
    assert source.hash() == target.hash()


def test_a_device_that_never_converges_is_stopped_at_the_largest_round() -> None:
    source, target = pair()
    options = Options(downtime_limit_s=0.0, min_rounds=0, max_rounds=7)
    result = migrate.migrate_to_device(source, target, options)
    assert result.stop_reason == StopReason.MAX_ROUNDS
    assert result.count(Kind.MIDDLE) == 7


@pytest.mark.parametrize("faults", [Faults(precopy_error=True), Faults(state_grew=True)])
def test_a_middle_save_that_fails_softly_is_made_good_by_the_final_one(faults: Faults) -> None:
    source, target = pair(faults)
    result = migrate.migrate_to_device(source, target, QUICK)
    assert result.error is None
    assert source.hash() == target.hash()
    assert [image.kind for image in result.images] == [Kind.INITIAL, Kind.FINAL]
    assert [each.kind for each in result.rounds] == [Kind.INITIAL, Kind.FINAL]
    assert result.stop_reason == StopReason.IDLE


def test_different_stream_formats_are_refused_before_anything_is_touched() -> None:
    source, _ = pair()
    _, target = pair(flags=STOP_COPY_ONLY)
    with pytest.raises(Error, match="different stream formats"):
        migrate.migrate_to_device(source, target, QUICK)
    assert source.log == target.log == [State.RUNNING]


@pytest.mark.parametrize("precopy", [True, False])
def test_through_a_file(tmp_path: Path, lab: Callable[..., None], precopy: bool) -> None:
    path = tmp_path / "vf.mlxstream"
    source, target = pair()
    lab(source, target)
    saved = migrate.migrate_to_file(source, path, Options(precopy=precopy, idle_pause_s=0))
    assert saved.error is None
    assert source.current is State.STOP
    file = streamfile.load(path)
    assert file.header["device"] == source.name
    assert file.header["migration_flags"] == ["STOP_COPY", "P2P", "PRE_COPY"]
    assert file.trailer["state_hash"] == source.hash()
    phases = file.trailer["phases"]
    if precopy:
        final = saved.images[-1]
        assert phases == [
            {"state": "PRE_COPY", "offset_bytes": 0},
            {"state": "STOP_COPY", "offset_bytes": final.offset},
        ]
    else:
        assert phases == [{"state": "STOP_COPY", "offset_bytes": 0}]

    loaded = migrate.migrate_from_file(file, target)
    assert loaded.error is None
    assert target.hash() == source.hash()
    assert loaded.images == saved.images
    assert loaded.state_hashes == saved.state_hashes[:1] * 2
    assert summary(loaded)["image_bytes"] == summary(saved)["image_bytes"]
    assert loaded.read_bytes == loaded.written_bytes == file.data_bytes


def test_a_file_damaged_on_its_way_is_refused_by_the_target(tmp_path: Path) -> None:
    path = tmp_path / "vf.mlxstream"
    source, target = pair()
    migrate.migrate_to_file(source, path, QUICK, flip_byte=500)
    result = migrate.migrate_from_file(streamfile.load(path), target)
    assert result.error is not None
    assert "image 1 (initial), stream offset 24" in str(result.error)
    assert target.resets == 1


def test_no_file_is_left_of_a_migration_that_failed(tmp_path: Path) -> None:
    source, _ = pair(Faults(read_error_at=3000))
    result = migrate.migrate_to_file(source, tmp_path / "vf.mlxstream", QUICK)
    assert result.error is not None
    assert source.current is State.RUNNING
    assert result.target_state == "not written"
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_made_fails_before_the_source_is_touched(tmp_path: Path) -> None:
    source, _ = pair()
    result = migrate.migrate_to_file(source, tmp_path / "none/vf.mlxstream", QUICK)
    assert "cannot write" in str(result.error)
    assert source.log == [State.RUNNING]


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vf.mlxstream"
    source, _ = pair(flags=STOP_COPY_ONLY)
    migrate.migrate_to_file(source, path, QUICK)
    _, target = pair()
    with pytest.raises(Error, match="holds a stream of format raw"):
        migrate.migrate_from_file(streamfile.load(path), target)
    assert target.log == [State.RUNNING]


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
    """From 9.2 on the whole state, as MIG_DATA_SIZE has it, whatever was sent before."""
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
