# SPDX-License-Identifier: GPL-2.0-or-later
"""The connection of two mlxtrace: addresses, and a peer that is none, is silent, or babbles."""

from __future__ import annotations

import contextlib
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genbindings.errors import Error, UsageError
from mlxtrace import migrate, migrate_peer, netaddress, wire
from mlxtrace.migrate_model import MigrationError
from mlxtrace.netaddress import Address, parse_address
from mlxtrace.vfio import State
from mlxtrace.wire import HEAD, Message, Peer, PeerLostError

from .migrate_pair import QUICK, pair

pytestmark = pytest.mark.usefixtures("no_lab")


@pytest.fixture(autouse=True)
def _short_farewells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LINGER_S", 0.2)
    monkeypatch.setattr(netaddress, "CONNECT_S", 0.3)


def test_a_connection_to_something_else_is_named() -> None:
    source, _ = pair()
    ours, theirs = socket.socketpair()
    theirs.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n")
    with pytest.raises(Error, match="host:22: no mlxtrace migrate is there"):
        migrate_peer.migrate_to_peer(source, Peer(ours, "host:22", 1, migrate.nothing), QUICK)
    assert source.log == [State.RUNNING]
    theirs.close()


def test_two_sources_are_told() -> None:
    ours, theirs = socket.socketpair()
    text = b'{"role": "source"}'
    theirs.sendall(wire.GREETING.pack(wire.MAGIC, 1, len(text)) + text)
    source, _ = pair()
    with pytest.raises(Error, match="both sides are a source"):
        migrate_peer.migrate_to_peer(source, Peer(ours, "host:1", 1, migrate.nothing), QUICK)


def test_a_silent_peer_is_given_up() -> None:
    source, _ = pair()
    ours, theirs = socket.socketpair()
    text = b'{"role": "target", "device": "0000:01:00.2"}'
    theirs.sendall(wire.GREETING.pack(wire.MAGIC, 1, len(text)) + text)
    result = migrate_peer.migrate_to_peer(source, Peer(ours, "host:1", 0.3, migrate.nothing), QUICK)
    assert "host:1: it said nothing for 0.3 s" in str(result.error)
    assert result.error is not None
    assert "--peer-timeout" in result.error.hint
    assert result.source_state == "RUNNING (it never stopped)"
    assert "it did not say" in result.target_state
    theirs.close()


def test_a_peer_that_takes_nothing_is_given_up() -> None:
    source, _ = pair(blocks=40_000)
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    text = b'{"role": "target", "device": "0000:01:00.2"}'
    theirs.sendall(wire.GREETING.pack(wire.MAGIC, 1, len(text)) + text)
    theirs.sendall(HEAD.pack(Message.READY, 2) + b"{}")
    result = migrate_peer.migrate_to_peer(source, Peer(ours, "host:1", 0.3, migrate.nothing), QUICK)
    assert "host:1: it took nothing for 0.3 s" in str(result.error)
    assert source.current is State.RUNNING
    theirs.close()


@given(said=st.binary(max_size=200), kind=st.integers(0, 12))
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_a_peer_says_is_an_error_in_words(said: bytes, kind: int) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(HEAD.pack(kind, len(said)) + said)
        theirs.shutdown(socket.SHUT_WR)
        peer = Peer(ours, "host:1", 1, migrate.nothing)
        with contextlib.suppress(MigrationError):
            peer.receive_object(Message.LOADED)
            peer.receive_object(Message.RUNNING)
        ours.close()


@given(said=st.binary(max_size=60))
def test_an_announced_size_is_no_memory(said: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs, ours:
        theirs.sendall(HEAD.pack(Message.LOADED, 1 << 31) + said)
        with pytest.raises(PeerLostError, match="does not keep to the protocol"):
            Peer(ours, "host:1", 1, migrate.nothing).receive(Message.LOADED)


def test_a_peer_may_be_silent_for_longer_than_tcp_can_count() -> None:
    with netaddress.listen(Address("127.0.0.1", 0)) as listener:
        connection = netaddress.connect(netaddress.bound_to(listener), migrate.nothing)
        Peer(connection, "host:1", 1e306, migrate.nothing).close()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("host:1", Address("host", 1)),
        ("10.0.0.1:65535", Address("10.0.0.1", 65535)),
        ("[fe80::1%eth0]:4444", Address("fe80::1%eth0", 4444)),
        ("[::]:0", Address("::", 0)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", ":", "host", ":1", "[]:1", "h:", "h:-1", "h:65536", "::1", "h:²"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


def test_an_address_in_use_and_one_that_is_not_here() -> None:
    with netaddress.listen(Address("127.0.0.1", 0)) as listener:
        with pytest.raises(Error, match=r"cannot listen at 127.0.0.1:\d+: Address already in use"):
            netaddress.listen(netaddress.bound_to(listener))
        where = netaddress.bound_to(listener)
    with pytest.raises(Error, match="Cannot assign requested address"):
        netaddress.listen(Address("192.0.2.1", 0))
    with pytest.raises(Error, match="Connection refused") as caught:
        netaddress.connect(where, migrate.nothing)
    assert "start mlxtrace migrate --listen there first" in caught.value.hint
    with pytest.raises(Error, match=r"no-such-host\.invalid: "):
        netaddress.connect(Address("no-such-host.invalid", 1), migrate.nothing)
