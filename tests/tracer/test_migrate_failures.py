# SPDX-License-Identifier: GPL-2.0-or-later
"""The migration engine against a model of two VFs, with faults at every step."""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxtrace import migrate, migrate_sink, streamfile
from mlxtrace.migrate_model import MigrationError, Options, summary
from mlxtrace.stream import HEADER
from mlxtrace.streamcheck import examine
from mlxtrace.vfio import PrecopyInfo, State

from .fake_device import FakeSaving
from .fake_faults import Faults
from .migrate_pair import QUICK, pair, require_usable_after_failure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_lab")


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


@given(after=st.integers(0, 200), side=st.sampled_from(["source", "target"]))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_reset_by_somebody_else_at_any_moment_leaves_both_usable(after: int, side: str) -> None:
    source, target = pair()
    device = source if side == "source" else target
    left = after

    def check() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            device.reset()

    result = migrate.migrate_to_device(source, target, QUICK, check=check)
    if result.error is None:
        # It came too late to matter, or before the device was asked for anything.
        assert target.current is State.RUNNING
        assert source.current is State.STOP
        return
    assert source.current is target.current is State.RUNNING
    if side == "source" and State.PRE_COPY in source.log:
        said = ("RUNNING (it was reset meanwhile: its state is gone)", "RUNNING again (from ")
        assert result.source_state.startswith(said)
    assert result.target_state.startswith("reset (RUNNING)")


@given(room=st.integers(0, 9000))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_disk_that_is_full_at_any_byte_leaves_no_file(tmp_path: Path, room: int) -> None:
    source, _ = pair()
    path = tmp_path / "vf.mlxstream"
    path.unlink(missing_ok=True)
    # The kernel refuses to write beyond this, as it does on a full disk, with another errno.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        result = migrate.migrate_to_file(source, path, QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    if result.error is None:
        assert source.current is State.STOP
        assert examine(path).problems == []
        return
    assert str(result.error).startswith(f"cannot write {path}: File too large")
    assert result.target_state == "not written"
    assert source.current is State.RUNNING
    assert list(tmp_path.iterdir()) == []


@given(after=st.integers(0, 200))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_cancelling_at_any_moment_leaves_no_file_or_a_whole_one(tmp_path: Path, after: int) -> None:
    source, _ = pair()
    path = tmp_path / "vf.mlxstream"
    path.unlink(missing_ok=True)
    left = after

    def check() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise MigrationError("cancelled by SIGTERM")

    result = migrate.migrate_to_file(source, path, QUICK, check=check)
    if result.error is None:
        assert examine(path).problems == []
    else:
        assert source.current is State.RUNNING
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["read", "write"])
def test_a_target_that_refuses_a_file_is_reset(tmp_path: Path, fault: str) -> None:
    source, target = pair(None, Faults(write_error_at=3000 if fault == "write" else None))
    path = tmp_path / "vf.mlxstream"
    assert migrate.migrate_to_file(source, path, QUICK).error is None
    file = streamfile.load(path)
    if fault == "read":
        # Verified, and then cut by somebody else.
        os.truncate(path, file.data_offset + 3000)
    result = migrate.migrate_from_file(file, target)
    assert result.error is not None
    assert ("became shorter" if fault == "read" else "EIO") in str(result.error)
    assert (target.current, target.resets) == (State.RUNNING, 1)
    assert result.source_state == "a file, unchanged"
