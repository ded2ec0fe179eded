# SPDX-License-Identifier: GPL-2.0-or-later
"""``HOST:PORT``: reading it, listening there, connecting to it. TCP over IPv4 and IPv6."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from genbindings.errors import Error, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT_S = 10.0
"""How long to try to connect: the listener may just be starting."""
_SLICE_S = 0.1


class Address(NamedTuple):
    """A host, by name or number, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address that ``text`` names: ``host:4444``, ``10.0.0.1:4444``, ``[::1]:4444``.

    Raises:
        UsageError: it is no such address.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        raise UsageError(f"{text!r} is ambiguous", "an IPv6 address goes in brackets: [::1]:4444")
    host = host[1:-1] if bracketed else host
    if not colon or not host:
        raise UsageError(f"{text!r} is not HOST:PORT", "such as 10.0.0.1:4444 or [::1]:4444")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise UsageError(f"{text!r}: {port!r} is not a port", "a port is a number up to 65535")
    return Address(host, int(port))


def listen(address: Address) -> socket.socket:
    """Return a socket that listens at ``address``; with port 0 the kernel chooses one.

    Raises:
        Error: the address is not this host's, or in use.
    """
    family, _, _, _, where = _resolve(address, socket.AI_PASSIVE)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # [::] means IPv6 only, whatever the host's default is: 0.0.0.0 is there for IPv4.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(where)
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise Error(f"cannot listen at {address}: {error.strerror}") from None
    listener.setblocking(False)
    return listener


def bound_to(listener: socket.socket) -> Address:
    """Return where ``listener`` listens."""
    host, port = listener.getsockname()[:2]
    return Address(host, port)


def accept(listener: socket.socket, check: Callable[[], None]) -> tuple[socket.socket, Address]:
    """Wait for the next connection; ``check`` is called often and raises to cancel."""
    while True:
        check()
        if _wait(listener, select.POLLIN):
            try:
                connection, where = listener.accept()
            except OSError:
                # It went away again before it was accepted.
                continue
            return connection, Address(where[0], where[1])


def connect(address: Address, check: Callable[[], None]) -> socket.socket:
    """Return a connection to ``address``; ``check`` is called often and raises to cancel.

    While nobody listens there it is tried again, for :data:`CONNECT_S` seconds in all.

    Raises:
        Error: no such host, or nobody takes the connection.
    """
    until = time.monotonic() + CONNECT_S
    found = _resolve(address, 0)
    while True:
        number = 0
        for family, _, _, _, where in found:
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                number = _try(connection, where, until, check)
            except BaseException:
                connection.close()
                raise
            if number == 0:
                return connection
            connection.close()
        if number != errno.ECONNREFUSED or time.monotonic() > until:
            raise Error(
                f"cannot connect to {address}: {os.strerror(number)}",
                "start mlxtrace migrate --listen there first; is a firewall in between?",
            )
        check()
        time.sleep(_SLICE_S)


def _try(connection: socket.socket, where: object, until: float, check: Callable[[], None]) -> int:
    """Connect, and return 0 or the errno that says why not."""
    connection.setblocking(False)
    number = connection.connect_ex(where)  # type: ignore[arg-type] # what getaddrinfo gave
    if number != errno.EINPROGRESS:
        return number
    while not _wait(connection, select.POLLOUT):
        check()
        if time.monotonic() > until:
            return errno.ETIMEDOUT
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _wait(waiting: socket.socket, event: int) -> bool:
    poll = select.poll()
    poll.register(waiting, event)
    return bool(poll.poll(_SLICE_S * 1000))


def _resolve(address: Address, flags: int) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    """Return what getaddrinfo(3) has for ``address``, at least one entry."""
    try:
        return socket.getaddrinfo(  # type: ignore[return-value] # its types name the families
            address.host, address.port, type=socket.SOCK_STREAM, flags=flags
        )
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "not a host's name"
        raise Error(f"{address.host}: {why}", "give the host's address in numbers") from None
