# SPDX-License-Identifier: GPL-2.0-or-later
"""A driver says that the stream ends before it gave all of the state: that is no migration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace import migrate, netaddress, streamfile, wire
from mlxtrace.migrate_model import Options
from mlxtrace.stream import Framing, Kind, StreamParser
from mlxtrace.streamcheck import examine
from mlxtrace.vfio import MigrationFlags, State

from .fake_faults import Faults
from .migrate_pair import QUICK, STOP_COPY_ONLY, pair, require_usable_after_failure
from .peer_pair import migrate_between, require_usable
from .test_streamcheck import build, parts

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_lab")

NO_FINAL = "there is no final image: the state is not complete"
EMPTY = "the stream is empty: there is no state in it"


@pytest.fixture(autouse=True)
def _short_farewells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LINGER_S", 0.2)
    monkeypatch.setattr(wire, "SLICE_S", 0.01)
    monkeypatch.setattr(netaddress, "_SLICE_S", 0.01)


def stopping(raw: bool) -> tuple[MigrationFlags, str]:
    """Return what a pair offers, and what is said of its stream that has ended at once."""
    return (STOP_COPY_ONLY, EMPTY) if raw else (MigrationFlags(7), NO_FINAL)


@pytest.mark.parametrize("raw", [False, True])
def test_the_source_runs_again_and_the_target_forgets(raw: bool) -> None:
    flags, said = stopping(raw)
    source, target = pair(Faults(false_end=True), flags=flags)
    result = migrate.migrate_to_device(source, target, QUICK)
    require_usable_after_failure(result, source, target)
    assert str(result.error).startswith("0000:01:00.1: the stream has ended after ")
    assert str(result.error).endswith(f"bytes, and {said}")
    assert result.error is not None
    assert "dmesg" in result.error.hint
    assert result.source_state == "RUNNING again (from STOP_COPY)"
    assert result.target_state == "reset (RUNNING)"


@pytest.mark.parametrize("raw", [False, True])
def test_no_file_gets_its_name(tmp_path: Path, raw: bool) -> None:
    flags, said = stopping(raw)
    source, _ = pair(Faults(false_end=True), flags=flags)
    result = migrate.migrate_to_file(source, tmp_path / "vf.mlxstream", QUICK)
    assert said in str(result.error)
    assert (source.current, result.target_state) == (State.RUNNING, "not written")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("raw", [False, True])
def test_no_peer_starts(raw: bool) -> None:
    flags, said = stopping(raw)
    source, target = pair(Faults(false_end=True), flags=flags)
    ends = migrate_between(source, target)
    require_usable(ends, source, target)
    assert ends.source is not None
    assert ends.target is not None
    assert said in str(ends.source.error)
    assert (source.current, target.resets) == (State.RUNNING, 1)
    assert said in str(ends.target.error)


@pytest.mark.parametrize("raw", [False, True])
def test_the_target_looks_for_itself(monkeypatch: pytest.MonkeyPatch, raw: bool) -> None:
    """The other side may be an older mlxtrace, which does not."""
    flags, said = stopping(raw)
    real = StreamParser.finish_state

    def trusting(parser: StreamParser, origin: str) -> None:
        if " at " in origin:
            real(parser, origin)

    monkeypatch.setattr(StreamParser, "finish_state", trusting)
    source, target = pair(Faults(false_end=True), flags=flags)
    ends = migrate_between(source, target)
    require_usable(ends, source, target)
    assert (source.current, target.resets) == (State.RUNNING, 1)
    assert ends.target is not None
    assert said in str(ends.target.error)


@pytest.mark.parametrize("raw", [False, True])
def test_such_a_file_is_not_loaded_and_not_whole(tmp_path: Path, raw: bool) -> None:
    """One of an older mlxtrace, whose description fits what is in it."""
    flags, said = stopping(raw)
    source, target = pair(flags=flags)
    path = tmp_path / "vf.mlxstream"
    assert migrate.migrate_to_file(source, path, QUICK).error is None
    header, stream, trailer = parts(path.read_bytes(), path)
    final = trailer["images"].pop()
    path.write_bytes(build(header, stream[: final["offset_bytes"]], trailer))
    assert examine(path).problems == [said]
    result = migrate.migrate_from_file(streamfile.load(path), target)
    assert str(result.error).startswith(f"{path}: the stream has ended after ")
    assert said in str(result.error)
    assert (target.current, target.resets) == (State.RUNNING, 1)


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({"precopy": False}, {}),
        ({}, {"precopy_error": True}),
        ({}, {"state_grew": True}),
        ({}, {"zero_at_temporary_end": True}),
    ],
)
def test_whole_ones_are_whole(
    tmp_path: Path, options: dict[str, Any], faults: dict[str, Any]
) -> None:
    """Without pre-copy, after a fallback, and of a driver that says 0 at its temporary ends."""
    source, _ = pair(Faults(**faults))
    path = tmp_path / "vf.mlxstream"
    result = migrate.migrate_to_file(source, path, Options(idle_pause_s=0, **options))
    assert result.error is None
    assert result.images[-1].kind is Kind.FINAL
    assert examine(path).problems == []


def test_headers_of_linux_6_2_have_a_final_image_too() -> None:
    """A u64 of size and one of flags, all zero: the same bytes as size, flags and tag FW_DATA."""
    parser = StreamParser(Framing.RECORDS)
    list(parser.feed((4).to_bytes(8, "little") + bytes(8) + b"init"))
    parser.final_from = parser.offset
    assert parser.lacks == NO_FINAL
    list(parser.feed((4).to_bytes(8, "little") + bytes(8) + b"last"))
    assert parser.lacks == ""
