# SPDX-License-Identifier: GPL-2.0-or-later
"""The QMP client, against a server that says what a test tells it to."""

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from genbindings.errors import Error
from mlxlab.vmm.qmp import Qmp, QmpError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# As QEMU 10.0.2 greets.
GREETING = {
    "QMP": {
        "version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian"},
        "capabilities": ["oob"],
    }
}
OK: dict[str, Any] = {"return": {}}
STOP = {"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}


class Server:
    """Answers each line it gets with the next of its answers; a str is sent as it is."""

    def __init__(self, greeting: Any, answers: list[list[Any]]) -> None:
        self.heard: list[dict[str, Any]] = []
        self.client, self._end = socket.socketpair()
        self._answers = answers
        self._send([greeting])
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _send(self, messages: list[Any]) -> None:
        for message in messages:
            line = message if isinstance(message, str) else json.dumps(message) + "\r\n"
            self._end.sendall(line.encode())

    def _serve(self) -> None:
        with self._end, self._end.makefile() as lines:
            for answers in self._answers:
                line = lines.readline()
                if not line:
                    return
                self.heard.append(json.loads(line))
                self._send(answers)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers, and see them end."""
    servers: list[Server] = []

    def start(*answers: list[Any], greeting: Any = GREETING) -> Server:
        servers.append(Server(greeting, list(answers)))
        return servers[-1]

    yield start
    for server in servers:
        server.client.close()
        server.thread.join(10)
        assert not server.thread.is_alive()


def test_a_session_negotiates_and_keeps_events_apart(serve: Callable[..., Server]) -> None:
    server = serve([OK], [STOP, {"return": {"status": "paused"}}])
    with Qmp(server.client) as qmp:
        assert qmp.version == {"micro": 2, "minor": 0, "major": 10}
        assert qmp.command("query-status") == {"status": "paused"}
        assert qmp.events == [STOP]
    assert server.heard == [{"execute": "qmp_capabilities"}, {"execute": "query-status"}]


def test_arguments_are_spelled_as_qemu_does(serve: Callable[..., Server]) -> None:
    server = serve([OK], [OK])
    with Qmp(server.client) as qmp:
        qmp.command("migrate-set-parameters", downtime_limit=1)
    assert server.heard[1]["arguments"] == {"downtime-limit": 1}


def test_an_answer_in_pieces_is_one_answer(serve: Callable[..., Server]) -> None:
    server = serve([OK], ['{"retu', 'rn": 7}\r\n{"event": "LATE"}\r\n'], [{"return": 8}])
    with Qmp(server.client) as qmp:
        assert qmp.command("a") == 7
        assert qmp.command("b") == 8
        assert qmp.events == [{"event": "LATE"}]


def test_a_refusal_says_what_qemu_said(serve: Callable[..., Server]) -> None:
    refusal = {"error": {"class": "GenericError", "desc": "Parameter 'x' is unexpected"}}
    server = serve([OK], [refusal], [OK])
    with Qmp(server.client) as qmp:
        with pytest.raises(QmpError, match=r"QMP migrate: Parameter 'x' is unexpected") as caught:
            qmp.command("migrate", x=1)
        assert caught.value.error_class == "GenericError"
        assert qmp.command("query-status") == {}


@pytest.mark.parametrize(
    ("greeting", "said"),
    [
        ({"return": {}}, "no QMP server"),
        ("SSH-2.0-OpenSSH\r\n", "not JSON"),
        ("[]\r\n", "no QMP message"),
    ],
)
def test_what_is_no_qmp_is_told(serve: Callable[..., Server], greeting: Any, said: str) -> None:
    with pytest.raises(Error, match=said):
        Qmp(serve(greeting=greeting).client)


def test_a_qemu_that_goes_away_is_told(serve: Callable[..., Server]) -> None:
    with Qmp(serve([OK], []).client) as qmp, pytest.raises(Error, match="QMP session"):
        qmp.command("query-status")


def test_a_qemu_that_falls_silent_is_told() -> None:
    client, server = socket.socketpair()
    with server, pytest.raises(Error, match="does not answer"):
        Qmp(client, timeout_s=0.05)
    client.close()


def test_connecting_waits_for_the_socket_and_not_for_a_dead_qemu(tmp_path: Path) -> None:
    with pytest.raises(Error, match="ended before it listened"):
        Qmp.connect(tmp_path / "qmp", lambda: False)
    with pytest.raises(Error, match="does not listen"):
        Qmp.connect(tmp_path / "qmp", lambda: True, timeout_s=0.1)
