# SPDX-License-Identifier: GPL-2.0-or-later
"""The migration engine against a model of two VFs: what it does when all goes well."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genbindings.errors import Error
from mlxtrace import migrate, streamfile
from mlxtrace.migrate_model import Options, summary
from mlxtrace.migrate_policy import (
    StopReason,
)
from mlxtrace.migrate_report import render
from mlxtrace.stream import HEADER, Framing, Kind
from mlxtrace.vfio import MigrationFlags, State

from .fake_device import ALL_FLAGS
from .fake_faults import Faults
from .migrate_pair import QUICK, STOP_COPY_ONLY, pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
    ends = f"; temporary ends {result.temporary_ends}, final ends 1"
    assert any(line.endswith(ends) for line in render(result))


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
    assert f"{result.written_bytes} written; final ends 1" in "\n".join(render(result))


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
