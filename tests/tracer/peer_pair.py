# SPDX-License-Identifier: GPL-2.0-or-later
"""Two mlxtrace with a connection between them that can break, and what must hold after it did."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from genbindings.errors import Error
from mlxtrace import migrate, migrate_peer, migrate_receive, netaddress, streamfile
from mlxtrace.migrate_model import Options, Result, summary
from mlxtrace.migrate_report import render
from mlxtrace.netaddress import Address
from mlxtrace.vfio import State
from mlxtrace.wire import Peer

from .migrate_pair import QUICK

if TYPE_CHECKING:
    from collections.abc import Callable

    from .fake_device import FakeDevice

TIMEOUT_S = 5.0


@dataclass
class Ends:
    """How the two sides ended: with a result or an error."""

    source: Result | None = None
    target: Result | None = None
    source_error: Error | None = None
    target_error: Error | None = None
    notes: list[str] = field(default_factory=list)


class Cable(socket.socket):
    """A connection that breaks, as if the other host vanished, after so many bytes."""

    left = 1 << 60

    @classmethod
    def of(cls, connection: socket.socket, left: int) -> Cable:
        cable = cls(connection.family, connection.type, connection.proto, connection.detach())
        cable.left = left
        return cable

    def send(self, data: Any, *flags: int) -> int:
        if self.left <= 0:
            self._cut()
        sent = super().send(data[: self.left], *flags)
        self.left -= sent
        return sent

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            super().shutdown(socket.SHUT_RDWR)
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def migrate_between(
    source: FakeDevice | Path,
    target: FakeDevice | Path,
    options: Options = QUICK,
    *,
    host: str = "127.0.0.1",
    source_cut: int = 1 << 60,
    target_cut: int = 1 << 60,
    source_check: Callable[[], None] = migrate.nothing,
    target_check: Callable[[], None] = migrate.nothing,
    timeout_s: float = TIMEOUT_S,
    **ways: Any,
) -> Ends:
    """Migrate, the target in a thread; each side's connection breaks after so many bytes."""
    ends = Ends()
    listener = netaddress.listen(Address(host, 0))
    real = netaddress.accept

    def accept(*arguments: Any) -> tuple[socket.socket, Address]:
        connection, where = real(*arguments)
        return Cable.of(connection, target_cut), where

    def receive() -> None:
        try:
            ends.target = migrate_receive.migrate_from_peer(
                listener, target, timeout_s, check=target_check, note=ends.notes.append
            )
        except Error as error:
            ends.target_error = error

    with pytest.MonkeyPatch.context() as patch, listener:
        patch.setattr(netaddress, "accept", accept)
        thread = threading.Thread(target=receive)
        thread.start()
        connection = netaddress.connect(netaddress.bound_to(listener), migrate.nothing)
        peer = Peer(Cable.of(connection, source_cut), "target:1", timeout_s, source_check)
        ways["check"] = source_check
        try:
            if isinstance(source, Path):
                ends.source = migrate_peer.send_file(streamfile.load(source), peer, **ways)
            else:
                ends.source = migrate_peer.migrate_to_peer(source, peer, options, **ways)
        except Error as error:
            ends.source_error = error
        finally:
            peer.close()
            thread.join(20)
        assert not thread.is_alive(), "the target's side hangs"
    return ends


def require_usable(ends: Ends, source: FakeDevice, target: FakeDevice) -> None:
    """Check what must hold wherever the connection broke: both usable, and no state is lost."""
    assert source.current in (State.RUNNING, State.STOP)
    assert target.current is State.RUNNING
    loaded = State.RUNNING in target.log[1:] and target.resets == 0
    assert source.current is State.RUNNING or loaded, "the state is lost"
    for result in (ends.source, ends.target):
        if result is not None:
            assert result.source_state
            assert result.target_state
            assert all("\n" not in line for line in render(result))
            assert (summary(result)["result"] == "failed") == (result.error is not None)
    if loaded and source.current is State.RUNNING:
        assert ends.source is not None
        assert "may run as well" in ends.source.target_state
        assert ends.target is not None
        assert ends.target.error is not None
        assert "may run as well" in ends.target.error.hint
