# SPDX-License-Identifier: GPL-2.0-or-later
"""The connection of two mlxtrace between which a migration goes (docs/migrate.md has the order).

Both sides first send a greeting, which every version of the protocol can read:

    offset  bytes  content (integers are little-endian)
    0       8      magic "MLXMIGR\\0"
    8       4      u32 version: 1
    12      4      u32 size of the description
    16      ...    description, JSON: the side's device, driver, kernel, stream format

and then messages: u32 type, u32 size, content. The content is stream data or a JSON object.
"""

from __future__ import annotations

import contextlib
import enum
import json
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

from mlxtrace.migrate_model import READ_BYTES, MigrationError, image_of
from mlxtrace.units import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = b"MLXMIGR\0"
VERSION = 1
GREETING = struct.Struct("<8sII")
HEAD = struct.Struct("<II")
OBJECT_BYTES = 64 << 10
"""No description and no JSON message is larger, in bytes."""
SLICE_S = 0.1
"""How long to sleep in the kernel before looking whether the user wants to stop."""
GREETING_S = 10.0
LINGER_S = 3.0
"""How long to wait for the other side's last words, and for it to read ours."""


class Message(enum.IntEnum):
    """What the sides say, in this order; ERROR from either at any time."""

    BEGIN = 1
    """Source: make ready to take the stream."""
    READY = 2
    """Target: it is in RESUMING."""
    DATA = 3
    """Source: a part of the stream, at most READ_BYTES."""
    FINAL = 4
    """Source: ``offset_bytes`` from which the stream was made in STOP_COPY."""
    END = 5
    """Source: the stream had ``bytes`` bytes with this ``crc32``."""
    LOADED = 6
    """Target: all is loaded, nothing runs yet; ``state_hash``, and ``hash_ns`` to make it."""
    START = 7
    """Source: run; the source's ``state_hash``."""
    RUNNING = 8
    """Target: it runs; its ``state`` in words."""
    DONE = 9
    """Source: it has given up its own state; its ``state`` in words."""
    ERROR = 10
    """Either: ``error``, ``hint``, ``errno``, ``failed_image``, and its ``state`` in words."""


class PeerLostError(MigrationError):
    """The other side is gone, silent, or does not keep to the protocol."""


class ForeignPeerError(PeerLostError):
    """Whoever is there does not speak this protocol at all."""


class PeerRefusedError(MigrationError):
    """The other side said that it failed.

    Attributes:
        state: how it left its device, in words; empty if it did not say.
        said_image: the image that it refused, as its summary has it, or ``None``.
    """

    def __init__(self, name: str, said: dict[str, Any]) -> None:
        number = said.get("errno")
        text = words(said, "error", "it failed and did not say why")
        super().__init__(
            f"{name}: {text}",
            words(said, "hint"),
            errno=number if isinstance(number, int) else None,
        )
        self.state = words(said, "state")
        image = said.get("failed_image")
        self.said_image = image if isinstance(image, dict) else None


class Peer:
    """The other side. Every call gives up when it says nothing for ``timeout_s`` seconds."""

    def __init__(
        self, connection: socket.socket, name: str, timeout_s: float, check: Callable[[], None]
    ) -> None:
        """``name`` is what to call it; ``check`` is called often and raises to cancel."""
        self.name = name
        self.check = check
        self._timeout_s = timeout_s
        self._socket = connection
        self._inbox = bytearray()
        # What an interrupted call did not send: a message must not begin inside another.
        self._unsent = bytearray()
        connection.setblocking(False)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            _notice_a_dead_host(connection, timeout_s)

    def greet(self, description: dict[str, Any]) -> dict[str, Any]:
        """Exchange greetings and return the other side's description.

        Raises:
            ForeignPeerError: it is something else, or says nothing.
            MigrationError: its version is another.
        """
        text = json.dumps(description).encode()
        within_s, self._timeout_s = self._timeout_s, min(self._timeout_s, GREETING_S)
        try:
            self._send_bytes(GREETING.pack(MAGIC, VERSION, len(text)) + text)
            magic, version, size = GREETING.unpack(self._take(GREETING.size))
            if magic != MAGIC or size > OBJECT_BYTES:
                raise ForeignPeerError(f"{self.name}: no mlxtrace migrate is there")
            theirs = self._object(self._take(size))
        except PeerLostError as error:
            raise ForeignPeerError(
                str(error), "is it mlxtrace migrate, with --listen there and --connect here?"
            ) from None
        finally:
            self._timeout_s = within_s
        if version != VERSION:
            raise MigrationError(
                f"{self.name}: it speaks version {version} of the protocol between two hosts "
                f"(mlxtrace {words(theirs, 'mlxtrace', '?')}), this one version {VERSION}"
                f" (mlxtrace {description.get('mlxtrace', '?')})",
                "install the same version of mlxtrace on both hosts",
            )
        return theirs

    def send(self, kind: Message, said: dict[str, Any] | None = None) -> None:
        """Send a message that holds an object.

        Raises:
            PeerLostError: it is gone or takes nothing.
            PeerRefusedError: it had said ERROR.
            Error: ``check`` raised.
        """
        text = json.dumps(said or {}).encode()
        self._send_bytes(HEAD.pack(kind, len(text)) + text)

    def send_data(self, data: memoryview) -> None:
        """Send a part of the stream, and notice if the other side said that it failed.

        Raises:
            Error: as :meth:`send`.
        """
        if self._readable(0):
            self.receive()
        for start in range(0, len(data), READ_BYTES):
            part = data[start : start + READ_BYTES]
            self._send_bytes(HEAD.pack(Message.DATA, len(part)) + part)

    def receive(self, *expected: Message) -> tuple[Message, bytes]:
        """Return the next message, which must be one of ``expected``, and its content.

        Raises:
            PeerLostError: it is gone, silent, or said something else.
            PeerRefusedError: it said ERROR.
            Error: ``check`` raised.
        """
        # Only what is complete leaves the inbox: a call that is cancelled loses nothing.
        self._await(HEAD.size)
        kind, size = HEAD.unpack_from(self._inbox)
        limit = READ_BYTES if kind == Message.DATA else OBJECT_BYTES
        if kind not in list(Message) or size > limit:
            raise self._babble()
        content = self._take(HEAD.size + size)[HEAD.size :]
        if kind == Message.ERROR:
            raise PeerRefusedError(self.name, self._object(content))
        if kind not in expected:
            raise self._babble()
        return Message(kind), content

    def receive_object(self, expected: Message) -> dict[str, Any]:
        """Return the content of the next message, which must be ``expected``."""
        return self._object(self.receive(expected)[1])

    def numbers(self, content: bytes, *keys: str) -> list[int]:
        """Return the numbers that a message has under ``keys``; none is below 0.

        Raises:
            PeerLostError: it does not have them.
        """
        said = self._object(content)
        numbers = [said.get(key) for key in keys]
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise self._babble()
        return [int(number) for number in numbers if number is not None]

    def farewell(self, error: MigrationError, state: str) -> str:
        """Say that this side failed and wait a moment for how the other is left, in words.

        Returns an empty string when it did not say.
        """
        self.check, self._timeout_s = (lambda: None), LINGER_S
        said = {
            "error": str(error),
            "hint": error.hint,
            "errno": error.errno,
            "failed_image": image_of(error.record),
            "state": state,
        }
        with contextlib.suppress(PeerLostError):
            try:
                self.send(Message.ERROR, said)
                while True:
                    # What it had sent before it read this comes first.
                    self.receive(*Message)
            except PeerRefusedError as answer:
                return answer.state
        return ""

    def answer(self, state: str) -> None:
        """Answer the other side's ERROR: say how this side is left."""
        self.check, self._timeout_s = (lambda: None), LINGER_S
        with contextlib.suppress(PeerLostError, PeerRefusedError):
            self.send(Message.ERROR, {"error": "given up as asked", "state": state})

    def close(self) -> None:
        """Close the connection. What was sent is read first, if the other side still reads.

        A socket that is closed with data unread would take back what it sent last.
        """
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            until = time.monotonic() + LINGER_S
            while (left := until - time.monotonic()) > 0 and self._readable(left):
                if not self._socket.recv(READ_BYTES):
                    break
        self._socket.close()

    def _send_bytes(self, data: bytes) -> None:
        """Send ``data`` after what was not sent yet."""
        view = memoryview(bytes(self._unsent) + data if self._unsent else data)
        moved, sent = time.monotonic(), 0
        try:
            while sent < len(view):
                try:
                    sent += self._socket.send(view[sent:])
                    moved = time.monotonic()
                except BlockingIOError:
                    self.check()
                    self._wait(select.POLLOUT, SLICE_S)
                    if time.monotonic() - moved > self._timeout_s:
                        raise self._silent("took nothing") from None
                except OSError as error:
                    raise self._lost(error) from None
        finally:
            self._unsent = bytearray(view[sent:])

    def _take(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        self._await(size)
        data = bytes(memoryview(self._inbox)[:size])
        del self._inbox[:size]
        return data

    def _await(self, size: int) -> None:
        """Wait until the inbox holds ``size`` bytes."""
        heard = time.monotonic()
        while len(self._inbox) < size:
            self.check()
            if not self._readable(SLICE_S):
                if time.monotonic() - heard > self._timeout_s:
                    raise self._silent("said nothing")
                continue
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise PeerLostError(
                    f"{self.name}: the connection broke: {error.strerror}"
                ) from None
            if not data:
                raise PeerLostError(f"{self.name}: it closed the connection")
            self._inbox += data
            heard = time.monotonic()

    def _lost(self, error: OSError) -> MigrationError:
        """Return why sending failed: what the other side said last, if it said anything."""
        try:
            self.check, self._timeout_s = (lambda: None), 0.0
            self.receive()
        except PeerRefusedError as refused:
            return refused
        except PeerLostError:
            pass
        return PeerLostError(f"{self.name}: the connection broke: {error.strerror}")

    def _readable(self, within_s: float) -> bool:
        return self._wait(select.POLLIN, within_s)

    def _wait(self, event: int, within_s: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, event)
        return bool(poll.poll(within_s * 1000))

    def _object(self, content: bytes) -> dict[str, Any]:
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            raise self._babble() from None
        if not isinstance(value, dict):
            raise self._babble()
        return value

    def _babble(self) -> PeerLostError:
        return PeerLostError(
            f"{self.name}: it does not keep to the protocol",
            "is it mlxtrace migrate, with --listen there and --connect here?",
        )

    def _silent(self, what: str) -> PeerLostError:
        return PeerLostError(
            f"{self.name}: it {what} for {self._timeout_s:g} s",
            "look there whether mlxtrace still runs; --peer-timeout sets how long to wait",
        )


def words(said: dict[str, Any], key: str, otherwise: str = "") -> str:
    """Return the text that the other side gave under ``key``, or ``otherwise``."""
    text = said.get(key)
    return one_line(text) if isinstance(text, str) and text else otherwise


def _notice_a_dead_host(connection: socket.socket, timeout_s: float) -> None:
    """Make TCP find out within a minute that the other host is gone, though nothing is sent."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)
    timeout_ms = int(max(1, min(timeout_s * 1000, 1 << 30)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
