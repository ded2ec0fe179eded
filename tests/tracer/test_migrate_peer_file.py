# SPDX-License-Identifier: GPL-2.0-or-later
"""A stream file as the target of another host's source: whole or not there, in every ending."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from mlxtrace import migrate_peer, migrate_sink, netaddress, streamfile, wire
from mlxtrace.migrate_model import MigrationError
from mlxtrace.migrate_sink import FileSink
from mlxtrace.stream import Framing, StreamParser
from mlxtrace.streamcheck import examine
from mlxtrace.vfio import State

from .migrate_pair import pair
from .peer_pair import Ends, migrate_between

pytestmark = pytest.mark.usefixtures("no_lab")

OLDER = b"an older file, and a good one"


@pytest.fixture(autouse=True)
def _short_farewells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LINGER_S", 0.2)
    monkeypatch.setattr(wire, "SLICE_S", 0.01)
    monkeypatch.setattr(netaddress, "_SLICE_S", 0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file that is there already."""
    path = tmp_path / "vf.mlxstream"
    path.write_bytes(OLDER)
    return path


def cancelled_in(
    place: type, function: str, path: Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> Ends:
    """Migrate to ``path`` with Ctrl-C on one ``side`` while a function runs."""
    inside, noticed = threading.Event(), threading.Event()
    real = getattr(place, function)

    def slow(self: Any, *arguments: Any) -> Any:
        answer = real(self, *arguments)
        inside.set()
        noticed.wait(5)
        return answer

    def check() -> None:
        if inside.is_set():
            noticed.set()
            raise MigrationError("cancelled by SIGINT")

    monkeypatch.setattr(place, function, slow)
    source, _ = pair()
    if side == "source":
        ends = migrate_between(source, path, source_check=check)
    else:
        ends = migrate_between(source, path, target_check=check)
    assert ends.source is not None
    assert ends.target is not None
    assert ends.target.error is not None
    return ends


def test_a_source_that_gives_up_before_the_file_is_final_leaves_the_older_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has said START already, and the file is being written to the disk."""
    ends = cancelled_in(FileSink, "start", path, monkeypatch, "source")
    assert ends.source is not None
    assert ends.source.source_state.startswith("RUNNING again")
    assert ends.source.target_state == "not written"
    assert ends.target is not None
    assert ends.target.target_state == "not written"
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == OLDER


def require_kept(ends: Ends, path: Path) -> None:
    """Check that the state is there, but not where an older one was, and that this is said."""
    assert ends.target is not None
    assert ends.target.error is not None
    said, _, name = ends.target.target_state.partition(" kept as ")
    assert said == "complete, and"
    assert examine(Path(name)).problems == []
    assert sorted(path.parent.iterdir()) == sorted([path, Path(name)])
    assert path.read_bytes() == OLDER


def test_a_source_that_is_gone_after_its_end_may_have_given_up_its_state_which_is_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate_peer.PeerSink, "conclude", lambda _: None)
    source, _ = pair()
    ends = migrate_between(source, path)
    assert source.current is State.STOP
    require_kept(ends, path)
    assert ends.target is not None
    assert ends.target.error is not None
    assert "kept as" in ends.target.error.hint
    assert "the source may run as well" in ends.target.error.hint


def test_a_target_that_is_cancelled_after_it_was_told_to_start_keeps_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_kept(cancelled_in(FileSink, "start", path, monkeypatch, "target"), path)


def test_a_file_that_cannot_get_its_name_is_kept_and_the_source_has_stopped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path, __: Path) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "replace", refuse)
    source, _ = pair()
    ends = migrate_between(source, path)
    require_kept(ends, path)
    assert ends.target is not None
    assert "cannot rename" in str(ends.target.error)
    assert ends.target.source_state.startswith("STOP")
    assert ends.source is not None
    assert ends.source.error is None


@pytest.mark.parametrize("held", [False, True])
def test_a_file_that_has_its_name_is_not_said_to_be_unwritten(path: Path, held: bool) -> None:
    sink = FileSink(path, {"framing": "raw"}, held=held)
    sink.open()
    sink.finish(StreamParser(Framing.RAW))
    assert sink.start() == "complete"
    assert (path.read_bytes() == OLDER) is held
    if held:
        sink.conclude()
    assert sink.abandon() == "complete, and kept"
    assert list(path.parent.iterdir()) == [path]
    assert streamfile.load(path).data_bytes == 0


def test_what_fails_behind_the_back_of_a_started_target_keeps_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BugError(Exception):
        pass

    def fails(_: FileSink) -> None:
        raise BugError

    monkeypatch.setattr(migrate_sink.FileSink, "conclude", fails)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    source, _ = pair()
    with contextlib.suppress(BugError):
        migrate_between(source, path)
    assert source.current is State.STOP
    assert len(list(path.parent.iterdir())) == 2
