# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrating between two mlxtrace, over a real connection, with faults at every step."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genbindings.errors import Error
from mlxtrace import migrate, migrate_peer, migrate_receive, netaddress, wire
from mlxtrace.migrate_model import MigrationError, Options, summary
from mlxtrace.netaddress import Address
from mlxtrace.stream import HEADER, Kind
from mlxtrace.streamcheck import examine
from mlxtrace.vfio import State
from mlxtrace.wire import Peer

from .fake_device import FakeDevice
from .fake_faults import Faults
from .migrate_pair import QUICK, STOP_COPY_ONLY, pair
from .peer_pair import TIMEOUT_S, migrate_between, require_usable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_lab")


@pytest.fixture(autouse=True)
def _short_farewells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LINGER_S", 0.2)
    monkeypatch.setattr(wire, "SLICE_S", 0.01)
    monkeypatch.setattr(netaddress, "_SLICE_S", 0.01)
    monkeypatch.setattr(netaddress, "CONNECT_S", 1.0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_migration(host: str, lab: Callable[..., None]) -> None:
    source, target = pair()
    lab(source, target)
    try:
        ends = migrate_between(source, target, host=host)
    except Error as error:
        if host == "::1" and "cannot listen" in str(error):
            pytest.skip("this host has no IPv6")
        raise
    assert ends.source is not None
    assert ends.target is not None
    assert (ends.source.error, ends.target.error) == (None, None)
    assert source.hash() == target.hash()
    assert source.current is State.STOP
    assert target.log[1:] == [
        *(State.RUNNING_P2P, State.STOP, State.RESUMING),
        *(State.STOP, State.RUNNING_P2P, State.RUNNING),
    ]
    assert ends.source.target == "0000:01:00.2 at target:1"
    assert ends.target.source.startswith("0000:01:00.1 at ")
    assert ends.source.state_hashes == ends.target.state_hashes == (source.hash(),) * 2
    assert ends.source.images == ends.target.images
    assert ends.target.count(Kind.FINAL) == 1
    assert ends.source.written_bytes == ends.target.read_bytes == ends.target.written_bytes
    assert ends.source.target_state == "RUNNING"
    assert ends.target.source_state == ends.source.source_state


@given(
    dirty=st.integers(0, 8),
    blocks=st.integers(1, 3000),
    short_read=st.integers(100, 9000),
    raw=st.booleans(),
    precopy=st.booleans(),
)
@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_stream_arrives(
    dirty: int, blocks: int, short_read: int, raw: bool, precopy: bool
) -> None:
    driver = "another" if raw else "mlx5_vfio_pci"
    source, target = pair(
        Faults(short_read=short_read), dirty=min(dirty, blocks), blocks=blocks, driver=driver
    )
    options = Options(precopy=precopy, idle_pause_s=0, idle_rounds=2, max_rounds=4)
    ends = migrate_between(source, target, options)
    assert ends.source is not None
    assert ends.source.error is None
    assert source.hash() == target.hash()


@given(at=st.integers(0, 12_000), side=st.sampled_from(["source", "target"]))
@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_peer_that_is_gone_after_any_byte_leaves_both_usable(at: int, side: str) -> None:
    source, target = pair()
    # The target says little: cut it early.
    cut: dict[str, Any] = {f"{side}_cut": at if side == "source" else at // 8}
    stop = threading.Event()

    def until_stopped() -> None:
        if stop.is_set():
            raise MigrationError("cancelled by SIGINT")

    def give_up_waiting() -> None:
        stop.set()

    # A source that is gone in its greeting makes the target wait for another.
    timer = threading.Timer(0.25, give_up_waiting)
    timer.start()
    try:
        ends = migrate_between(source, target, target_check=until_stopped, **cut)
    finally:
        timer.cancel()
    require_usable(ends, source, target)


@given(after=st.integers(0, 150), side=st.sampled_from(["source", "target"]))
@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_cancelling_either_side_at_any_moment_leaves_both_usable(after: int, side: str) -> None:
    source, target = pair()
    left = after

    def check() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise MigrationError("cancelled by SIGINT")

    if side == "source":
        gone = threading.Event()

        def until_gone() -> None:
            if gone.is_set():
                raise MigrationError("cancelled by SIGINT")

        timer = threading.Timer(0.25, gone.set)
        timer.start()
        ends = migrate_between(source, target, source_check=check, target_check=until_gone)
        timer.cancel()
    else:
        ends = migrate_between(source, target, target_check=check)
    require_usable(ends, source, target)


def test_a_target_that_refuses_an_image_is_quoted() -> None:
    source, target = pair()
    clean = migrate.migrate_to_device(*pair(), QUICK).images[1]
    offset = clean.offset + HEADER.size + 9
    ends = migrate_between(source, target, flip_byte=offset)
    require_usable(ends, source, target)
    assert ends.source is not None
    error = ends.source.error
    assert str(error) == (
        "target:1: 0000:01:00.2: writing migration data: EINVAL (Invalid argument), in image 2 "
        f"(middle), stream offset {clean.offset}, {clean.size_bytes} bytes"
    )
    assert error is not None
    assert error.errno == errno.EINVAL
    assert summary(ends.source)["failed_image"]["index"] == 2
    assert ends.source.target_state == "reset (RUNNING)"
    assert ends.target is not None
    assert ends.target.source_state.startswith("RUNNING again (from ")


@pytest.mark.parametrize("state", [State.RESUMING, State.STOP, State.RUNNING_P2P, State.RUNNING])
def test_a_target_that_refuses_a_state_lets_the_source_run(state: State) -> None:
    # The way to RESUMING leads through RUNNING_P2P and STOP: the second time is after the load.
    number = [errno.EIO] if state in (State.RESUMING, State.RUNNING) else [0, errno.EIO]
    source, target = pair(None, Faults(state_errors={state: number}))
    ends = migrate_between(source, target)
    require_usable(ends, source, target)
    assert ends.source is not None
    assert "0000:01:00.2: setting state" in str(ends.source.error)
    assert ends.source.target_state == "reset (RUNNING)"
    assert source.current is State.RUNNING
    assert source.resets == 0
    assert target.resets == 1


def test_a_source_that_fails_makes_the_target_forget() -> None:
    source, target = pair(Faults(read_error_at=3000))
    ends = migrate_between(source, target)
    require_usable(ends, source, target)
    assert ends.target is not None
    assert "0000:01:00.1: reading migration data: ENODEV" in str(ends.target.error)
    assert ends.target.source_state.startswith("RUNNING again")
    assert target.resets == 1


def test_a_cancelled_source_that_waits_for_the_target_to_run_makes_it_stop() -> None:
    """The target runs already: it is told that the source does, and only one goes on."""
    source, target = pair()
    told = threading.Event()

    class Slow(FakeDevice):
        def set_state(self, state: State) -> None:
            super().set_state(state)
            if state is State.RUNNING and State.RESUMING in self.log:
                told.set()
                finished.wait(5)

    finished = threading.Event()
    target.__class__ = Slow

    def check() -> None:
        if told.is_set():
            finished.set()
            raise MigrationError("cancelled by SIGINT")

    ends = migrate_between(source, target, source_check=check)
    assert ends.source is not None
    assert str(ends.source.error) == "cancelled by SIGINT"
    assert source.current is State.RUNNING
    assert target.resets == 1
    assert ends.source.target_state == "reset (RUNNING)"
    assert ends.target is not None
    assert str(ends.target.error).endswith(": cancelled by SIGINT")


def test_a_hash_that_differs_is_a_failure(lab: Callable[..., None]) -> None:
    source, target = pair(None, Faults(corrupts_silently=True))
    lab(source, target)
    ends = migrate_between(source, target)
    require_usable(ends, source, target)
    assert ends.source is not None
    assert "state hash" in str(ends.source.error)
    assert target.resets == 1


def test_from_a_file_and_to_a_file(tmp_path: Path) -> None:
    source, target = pair()
    path = tmp_path / "vf.mlxstream"
    ends = migrate_between(source, path)
    assert ends.target is not None
    assert ends.source is not None
    assert ends.source.error is ends.target.error is None
    assert ends.source.target_state == "complete"
    found = examine(path)
    assert found.problems == []
    assert found.file.header["device"] == source.name
    assert "role" not in found.file.header
    ends = migrate_between(path, target)
    assert ends.source is not None
    assert ends.source.error is None
    assert source.hash() == target.hash()


def test_a_source_that_is_gone_leaves_no_file(tmp_path: Path) -> None:
    source, _ = pair(Faults(read_error_at=3000))
    ends = migrate_between(source, tmp_path / "vf.mlxstream")
    assert ends.target is not None
    assert ends.target.target_state == "not written"
    assert list(tmp_path.iterdir()) == []


def test_different_stream_formats_are_refused_before_anything_is_touched() -> None:
    source, _ = pair()
    _, target = pair(flags=STOP_COPY_ONLY)
    ends = migrate_between(source, target)
    assert "does not take the stream format of 0000:01:00.1" in str(ends.target_error)
    assert ends.source is not None
    assert "does not take the stream format" in str(ends.source.error)
    assert source.log == target.log == [State.RUNNING]


def test_another_version_is_named_on_both_sides() -> None:
    source, target = pair()
    listener = netaddress.listen(Address("127.0.0.1", 0))
    answers: list[bytes] = []

    def newer() -> None:
        with socket.create_connection(listener.getsockname()) as connection:
            text = b'{"mlxtrace": "9.9", "new": [1]}'
            connection.sendall(wire.GREETING.pack(wire.MAGIC, 2, len(text)) + text)
            answers.append(connection.recv(1000))

    thread = threading.Thread(target=newer)
    thread.start()
    with listener, pytest.raises(Error) as caught:
        migrate_receive.migrate_from_peer(listener, target, TIMEOUT_S)
    thread.join()
    assert "speaks version 2 of the protocol between two hosts (mlxtrace 9.9)" in str(caught.value)
    assert "this one version 1 (mlxtrace " in str(caught.value)
    assert caught.value.hint == "install the same version of mlxtrace on both hosts"
    assert answers[0].startswith(wire.MAGIC), "it gets ours, to say the same"
    assert source.log == target.log == [State.RUNNING]


def test_who_is_no_source_is_noted_and_sent_away() -> None:
    source, target = pair()
    listener = netaddress.listen(Address("127.0.0.1", 0))
    notes: list[str] = []

    def come() -> None:
        with socket.create_connection(listener.getsockname()) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.recv(1000)
        peer = Peer(
            netaddress.connect(netaddress.bound_to(listener), migrate.nothing),
            "target",
            TIMEOUT_S,
            migrate.nothing,
        )
        with contextlib.closing(peer):
            migrate_peer.migrate_to_peer(source, peer, QUICK)

    thread = threading.Thread(target=come)
    thread.start()
    with listener:
        result = migrate_receive.migrate_from_peer(listener, target, TIMEOUT_S, note=notes.append)
    thread.join()
    assert result.error is None
    assert len(notes) == 1
    assert notes[0].endswith("no mlxtrace migrate is there; waiting for another")


def test_waiting_for_a_source_can_be_cancelled() -> None:
    def check() -> None:
        raise MigrationError("cancelled by SIGTERM")

    _, target = pair()
    with netaddress.listen(Address("127.0.0.1", 0)) as listener, pytest.raises(Error) as caught:
        migrate_receive.migrate_from_peer(listener, target, 1, check=check)
    assert str(caught.value) == "cancelled by SIGTERM"
    assert target.log == [State.RUNNING]
