# SPDX-License-Identifier: GPL-2.0-or-later
"""The migration engine against a model of two VFs, with faults at every step."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genbindings.errors import Error
from mlxtrace import migrate, migrate_sink, streamfile
from mlxtrace.migrate_model import MigrationError, Options, Result, summary
from mlxtrace.migrate_policy import Progress, StopReason, reason_to_stop
from mlxtrace.migrate_report import render
from mlxtrace.stream import HEADER, Framing, Kind
from mlxtrace.vfio import MigrationFlags, PrecopyInfo, State

from .fake_device import ALL_FLAGS, FakeDevice, FakeSaving, Faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STOP_COPY_ONLY = MigrationFlags.STOP_COPY | MigrationFlags.P2P
QUICK = Options(idle_pause_s=0.0, data_timeout_s=0.3, ask_again_s=0.02)


@pytest.fixture(autouse=True)
def _no_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "state_hash", lambda _: None)
    monkeypatch.setattr(migrate_sink, "state_hash", lambda _: None)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeDevice, FakeDevice], None]:
    """Return a function that offers the state hashes of two devices, as the lab does."""

    def offer(*devices: FakeDevice) -> None:
        def of(name: str) -> str | None:
            device = next(each for each in devices if each.name == name)
            assert device.current in (State.STOP, State.STOP_COPY), "it must be stopped"
            return device.hash()

        monkeypatch.setattr(migrate, "state_hash", of)
        monkeypatch.setattr(migrate_sink, "state_hash", of)

    return offer


def pair(
    source_faults: Faults | None = None,
    target_faults: Faults | None = None,
    *,
    flags: MigrationFlags = ALL_FLAGS,
    driver: str = "mlx5_vfio_pci",
    dirty: int = 4,
    blocks: int = 64,
) -> tuple[FakeDevice, FakeDevice]:
    """Return a source and a target."""
    return (
        FakeDevice(
            "0000:01:00.1",
            faults=source_faults,
            flags=flags,
            driver=driver,
            dirty=dirty,
            blocks=blocks,
        ),
        FakeDevice("0000:01:00.2", faults=target_faults, flags=flags, driver=driver, blocks=blocks),
    )


def require_usable_after_failure(result: Result, source: FakeDevice, target: FakeDevice) -> None:
    """Check what must hold after every failure."""
    assert result.error is not None
    assert "\n" not in str(result.error)
    assert source.current is State.RUNNING
    assert target.current is State.RUNNING
    assert result.source_state
    assert result.target_state
    if State.RESUMING in target.log:
        assert target.resets == 1, "half a state must not run"
    assert source.saving is None
    assert target.resuming is None
    text = list(render(result))
    assert text[0] == f"FAILED: {result.source} -> {result.target}"
    assert all(len(line) <= 100 for line in text[:-2])
    assert json.loads(json.dumps(summary(result)))["error"] == str(result.error)


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


@pytest.mark.parametrize("image", [1, 2, 3])
def test_a_damaged_byte_is_laid_at_its_image(image: int) -> None:
    source, target = pair()
    clean = migrate.migrate_to_device(*pair(), QUICK)
    wanted = clean.images[image - 1]
    offset = wanted.offset + HEADER.size + wanted.size_bytes // 2
    result = migrate.migrate_to_device(source, target, QUICK, flip_byte=offset)
    require_usable_after_failure(result, source, target)
    error = result.error
    assert error is not None
    assert error.errno == errno.EINVAL
    assert str(error) == (
        "0000:01:00.2: writing migration data: EINVAL (Invalid argument), in "
        f"image {image} ({wanted.kind}), stream offset {wanted.offset}, {wanted.size_bytes} bytes"
    )
    line = summary(result)
    assert line["result"] == "failed"
    assert line["failed_image"] == {
        "index": image,
        "kind": wanted.kind,
        "offset_bytes": wanted.offset,
        "size_bytes": wanted.size_bytes,
    }
    assert line["images"] == image


def test_a_damaged_byte_without_pre_copy_is_the_final_image() -> None:
    source, target = pair()
    options = Options(precopy=False)
    result = migrate.migrate_to_device(source, target, options, flip_byte=100)
    require_usable_after_failure(result, source, target)
    assert "image 1 (final), stream offset 0" in str(result.error)


@given(offset=st.integers(0, 20_000))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_byte_damaged_anywhere_never_goes_unnoticed(offset: int) -> None:
    """Refused, or in a field that a target may ignore (flags, an optional record): all arrives."""
    source, target = pair(blocks=12)
    hashes = {"0000:01:00.1": source, "0000:01:00.2": target}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "state_hash", lambda name: hashes[name].hash())
        patch.setattr(migrate_sink, "state_hash", lambda name: hashes[name].hash())
        result = migrate.migrate_to_device(source, target, QUICK, flip_byte=offset)
    if result.error is None:
        assert source.hash() == target.hash()
    else:
        require_usable_after_failure(result, source, target)


def test_a_flip_beyond_the_stream_fails() -> None:
    source, target = pair()
    result = migrate.migrate_to_device(source, target, QUICK, flip_byte=1 << 40)
    require_usable_after_failure(result, source, target)
    assert "none was damaged" in str(result.error)


def test_a_load_that_stores_something_else_is_caught_by_the_hash(lab: Callable[..., None]) -> None:
    source, target = pair(None, Faults(corrupts_silently=True))
    lab(source, target)
    result = migrate.migrate_to_device(source, target, QUICK)
    require_usable_after_failure(result, source, target)
    assert "state hash" in str(result.error)
    assert target.log[-2:] == [State.STOP, State.RUNNING]
    assert summary(result)["state_hashes_equal"] is False


@given(at=st.integers(0, 12_000), side=st.sampled_from(["read", "write"]))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_an_error_at_any_byte_leaves_both_usable(at: int, side: str) -> None:
    faults = Faults(read_error_at=at) if side == "read" else Faults()
    source, target = pair(faults, Faults(write_error_at=at if side == "write" else None))
    source.faults.short_read = 700
    result = migrate.migrate_to_device(source, target, QUICK)
    if result.error is None:
        assert result.read_bytes <= at
        return
    require_usable_after_failure(result, source, target)
    assert result.error.errno == (errno.ENODEV if side == "read" else errno.EIO)
    assert "stream offset" in str(result.error)


@pytest.mark.parametrize("state", [State.PRE_COPY, State.PRE_COPY_P2P, State.STOP_COPY])
@pytest.mark.parametrize("enter_error", [False, True])
def test_a_source_that_refuses_a_state_runs_again_or_is_reset(
    state: State, enter_error: bool
) -> None:
    faults = Faults(state_errors={state: [errno.EIO]}, enter_error=enter_error)
    source, target = pair(faults)
    result = migrate.migrate_to_device(source, target, QUICK)
    require_usable_after_failure(result, source, target)
    assert (
        str(result.error) == f"0000:01:00.1: setting state {state.name}: EIO (Input/output error)"
    )
    assert source.resets == enter_error


def test_a_source_that_will_not_run_again_is_reset() -> None:
    """mlx5 since Linux 6.9, after a SAVE that failed: PRE_COPY to RUNNING gives ENODEV."""
    faults = Faults(state_errors={State.PRE_COPY_P2P: [errno.EIO], State.RUNNING: [errno.ENODEV]})
    source, target = pair(faults)
    result = migrate.migrate_to_device(source, target, QUICK)
    require_usable_after_failure(result, source, target)
    assert source.resets == 1
    assert result.source_state.startswith("reset (RUNNING); it would not run again")


def test_a_device_that_cannot_be_reset_either_is_reported() -> None:
    faults = Faults(
        state_errors={State.STOP_COPY: [errno.EIO]}, enter_error=True, reset_error=errno.ENOTTY
    )
    source, target = pair(faults)
    result = migrate.migrate_to_device(source, target, QUICK)
    assert result.error is not None
    assert "in an unknown state" in result.source_state
    assert "VFIO_DEVICE_RESET: ENOTTY" in result.source_state
    assert target.resets == 1


@pytest.mark.parametrize("state", [State.RESUMING, State.STOP, State.RUNNING_P2P, State.RUNNING])
def test_a_target_that_refuses_a_state_is_reset_and_the_source_runs(state: State) -> None:
    source, target = pair(None, Faults(state_errors={state: [errno.EIO]}))
    result = migrate.migrate_to_device(source, target, QUICK)
    assert result.error is not None
    assert "0000:01:00.2: setting state" in str(result.error)
    assert source.current is State.RUNNING
    assert source.resets == 0
    assert target.resets == 1


def test_a_source_that_will_not_stop_after_the_target_runs_is_reset() -> None:
    source, target = pair(Faults(state_errors={State.STOP: [errno.EIO]}))
    result = migrate.migrate_to_device(source, target, QUICK)
    assert result.error is None
    assert target.current is State.RUNNING
    assert source.resets == 1
    assert result.source_state.startswith("reset (RUNNING); it would not stop")


def test_data_that_was_announced_and_never_comes() -> None:
    source, target = pair(Faults(announces_nothing_comes=True))
    result = migrate.migrate_to_device(source, target, QUICK)
    require_usable_after_failure(result, source, target)
    assert "no data for 0.3 s though it reported" in str(result.error)
    assert "in image 2 (middle), stream offset" in str(result.error)


def test_a_temporary_end_in_stop_copy_is_an_error() -> None:
    source, target = pair(Faults(enomsg_in_stop_copy=True))
    result = migrate.migrate_to_device(source, target, QUICK)
    require_usable_after_failure(result, source, target)
    assert "ENOMSG in STOP_COPY" in str(result.error)


def test_a_stream_that_ends_inside_a_record_is_an_error() -> None:
    source, target = pair(Faults(truncated_final=True))
    result = migrate.migrate_to_device(source, target, QUICK)
    require_usable_after_failure(result, source, target)
    assert "the stream ends inside image" in str(result.error)
    assert "1 bytes are missing" in str(result.error)


def test_a_question_that_a_signal_interrupts_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = pair()
    interrupted = iter([True, True])
    real = FakeSaving.precopy_info

    def interruptible(self: FakeSaving) -> PrecopyInfo:
        if next(interrupted, False):
            raise source.fail("VFIO_MIG_GET_PRECOPY_INFO", errno.EINTR)
        return real(self)

    monkeypatch.setattr(FakeSaving, "precopy_info", interruptible)
    assert migrate.migrate_to_device(source, target, QUICK).error is None


def test_an_ioctl_that_fails() -> None:
    source, target = pair(Faults(info_error=errno.EIO))
    result = migrate.migrate_to_device(source, target, QUICK)
    require_usable_after_failure(result, source, target)
    assert str(result.error) == (
        "0000:01:00.1: VFIO_MIG_GET_PRECOPY_INFO: EIO (Input/output error), "
        "in image 1 (initial), stream offset 0"
    )
    assert result.error is not None
    assert result.error.errno == errno.EIO


@given(after=st.integers(0, 200))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_cancelling_at_any_moment_leaves_both_usable(after: int) -> None:
    source, target = pair()
    left = after

    def check() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise MigrationError("cancelled by SIGINT")

    result = migrate.migrate_to_device(source, target, QUICK, check=check)
    if result.error is None:
        assert target.current is State.RUNNING
        assert source.current is State.STOP
    else:
        require_usable_after_failure(result, source, target)
        assert str(result.error) == "cancelled by SIGINT"


def test_a_bug_leaves_both_usable_too() -> None:
    source, target = pair()

    def tell(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        migrate.migrate_to_device(source, target, QUICK, tell=tell)
    assert source.current is State.RUNNING
    assert target.resets == 1


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
