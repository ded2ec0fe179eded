# SPDX-License-Identifier: GPL-2.0-or-later
"""A small QMP client: one command at a time over a unix socket, and the events in between.

The protocol is QEMU's docs/interop/qmp-spec.rst: JSON objects, one a line; the server greets, the
client asks for no capabilities, and then each command has one answer, with events at any place.
"""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any

from genbindings.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType


class QmpError(Error):
    """QEMU refused a command.

    Attributes:
        error_class: QEMU's class of the error, such as ``GenericError``.
    """

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(f"QMP {command}: {description}")
        self.error_class = error_class


class Qmp:
    """A session with one QEMU.

    Attributes:
        events: the events so far, as they came.
    """

    def __init__(self, connection: socket.socket, timeout_s: float = 60.0) -> None:
        """Take over ``connection``, read the greeting and negotiate.

        Raises:
            Error: there is no QMP server at the other end, or it went away.
        """
        self._socket = connection
        self._socket.settimeout(timeout_s)
        self._pending = b""
        self.events: list[dict[str, Any]] = []
        greeting = self._receive()
        if "QMP" not in greeting:
            raise Error(f"this is no QMP server: it said {json.dumps(greeting)[:80]}")
        self.version: dict[str, Any] = greeting["QMP"].get("version", {}).get("qemu", {})
        self.command("qmp_capabilities")

    @classmethod
    def connect(cls, path: Path, alive: Callable[[], bool], timeout_s: float = 60.0) -> Qmp:
        """Connect to the socket ``path`` as soon as it is there.

        ``alive`` tells whether its QEMU still runs.

        Raises:
            Error: QEMU ended, or did not listen in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(path))
            except OSError as error:
                connection.close()
                if not alive():
                    raise Error(f"QEMU ended before it listened on {path}") from None
                if time.monotonic() > deadline:
                    raise Error(f"QEMU does not listen on {path}: {error.strerror}") from None
                time.sleep(0.05)
                continue
            return cls(connection, timeout_s)

    def __enter__(self) -> Qmp:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session; QEMU goes on."""
        self._socket.close()

    def command(self, name: str, **arguments: Any) -> Any:
        """Run a command and return its answer; underscores in argument names become dashes.

        Raises:
            QmpError: QEMU refused it.
            Error: the session broke.
        """
        message: dict[str, Any] = {"execute": name}
        if arguments:
            message["arguments"] = {
                key.replace("_", "-"): value for key, value in arguments.items()
            }
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\r\n")
        except OSError as error:
            raise Error(f"QMP {name}: {error.strerror or error}") from None
        while True:
            answer = self._receive()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                refused = answer["error"]
                raise QmpError(name, str(refused.get("class")), str(refused.get("desc")))
            elif "return" in answer:
                return answer["return"]

    def _receive(self) -> dict[str, Any]:
        while b"\n" not in self._pending:
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise Error("QEMU does not answer on its QMP socket") from None
            except OSError as error:
                raise Error(f"the QMP session broke: {error.strerror or error}") from None
            if not data:
                raise Error("QEMU closed its QMP session")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            raise Error(f"QEMU sent what is not JSON: {line[:80]!r}") from None
        if not isinstance(message, dict):
            raise Error(f"QEMU sent what is no QMP message: {line[:80]!r}")
        return message
