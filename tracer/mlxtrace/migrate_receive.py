# SPDX-License-Identifier: GPL-2.0-or-later
"""The target's side of a migration from another host: the other mlxtrace has the source."""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genbindings import __version__
from genbindings.errors import Error
from mlxtrace import netaddress
from mlxtrace.migrate import cause_of, describe_source, flag_names, nothing, silent
from mlxtrace.migrate_forward import forward
from mlxtrace.migrate_kin import require_kin
from mlxtrace.migrate_model import MigrationError, Result, boot_ns, framing_of
from mlxtrace.migrate_peer import framing_named, introduce
from mlxtrace.migrate_sink import DeviceSink, FileSink
from mlxtrace.stream import StreamParser
from mlxtrace.wire import ForeignPeerError, Message, Peer, PeerRefusedError, words

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from mlxtrace.migrate_model import HeldSink, Migratable


def migrate_from_peer(
    listener: socket.socket,
    target: Migratable | Path,
    timeout_s: float,
    *,
    force: bool = False,
    check: Callable[[], None] = nothing,
    tell: Callable[[str, int, int], None] = silent,
    note: Callable[[str], None] = lambda _: None,
) -> Result:
    """Wait for a source at ``listener`` and load its state into ``target``, a device or a file.

    Args:
        timeout_s: give up when the source says nothing for so long, once it is there.
        note: called with a line for each who came and was not a source.
        force, check, tell: as in :func:`mlxtrace.migrate.migrate_to_device`.

    Raises:
        Error: the target offers no migration, or the source's stream is not for it; nothing was
            touched.
    """
    ours: dict[str, Any] = {"role": "target", "device": str(target), "mlxtrace": __version__}
    takes, offers = None, ""
    if not isinstance(target, Path):
        flags = target.require_migration()
        takes = framing_of(target, flags)
        ours |= describe_source(target, flags, takes)
        offers = f" ({target.driver}: {flag_names(flags)})"
    peer, theirs = _wait_for_source(listener, ours, timeout_s, check, note)
    with contextlib.closing(peer):
        device = words(theirs, "device", "?")
        framing = framing_named(theirs)
        if framing is None or takes not in (None, framing):
            error = MigrationError(
                f"{ours['device']}{offers} does not take the stream format of {device} "
                f"({words(theirs, 'driver', '?')}: {words(theirs, 'framing', '?')})",
                "migrate between two VFs whose drivers both offer PRE_COPY, or both do not",
            )
            peer.farewell(error, "not touched")
            raise error
        if not isinstance(target, Path) and not force:
            try:
                require_kin(f"{device} at {peer.name}", theirs, target)
            except Error as other:
                peer.farewell(MigrationError.of(other), "not touched")
                raise
        result = Result(f"{device} at {peer.name}", ours["device"], framing=framing)
        sink: HeldSink
        if isinstance(target, Path):
            header = {key: theirs[key] for key in theirs if key != "role"}
            sink = FileSink(target, header, held=True)
        else:
            sink = DeviceSink(target, flags, result.downtime)
        _Receiver(peer, sink, result, check, tell).run()
    return result


def _wait_for_source(
    listener: socket.socket,
    ours: dict[str, Any],
    timeout_s: float,
    check: Callable[[], None],
    note: Callable[[str], None],
) -> tuple[Peer, dict[str, Any]]:
    """Return the first who comes and is a source; others are noted and sent away."""
    while True:
        connection, address = netaddress.accept(listener, check)
        peer = Peer(connection, str(address), timeout_s, check)
        try:
            return peer, introduce(peer, ours)
        except ForeignPeerError as error:
            peer.close()
            note(f"{error}; waiting for another")
        except BaseException:
            peer.close()
            raise


class _Receiver:
    """Takes one migration."""

    def __init__(
        self,
        peer: Peer,
        sink: HeldSink,
        result: Result,
        check: Callable[[], None],
        tell: Callable[[str, int, int], None],
    ) -> None:
        self._peer = peer
        self._sink = sink
        self._result = result
        self._check = check
        self._tell = tell
        self._parser = StreamParser(result.framing)
        self._running = False
        self._done = False

    def run(self) -> None:
        """Take it; on failure leave the target usable and note it in the result."""
        result = self._result
        result.started_boot_ns = boot_ns()
        try:
            self._take()
        except Error as error:
            result.error = cause_of(error, self._check)
            self._leave(error, result.error)
        except BaseException:
            # What runs may be all that there is of the state.
            if not self._running:
                self._sink.abandon()
            raise
        finally:
            result.total_ns = boot_ns() - result.started_boot_ns

    def _take(self) -> None:
        peer, sink, result = self._peer, self._sink, self._result
        peer.receive(Message.BEGIN)
        sink.open()
        peer.send(Message.READY)
        self._take_stream()
        self._parser.finish_state(result.source)
        sink.finish(self._parser)
        began = boot_ns()
        loaded = sink.compare(None)
        result.downtime.hash_ns = boot_ns() - began
        peer.send(Message.LOADED, {"state_hash": loaded, "hash_ns": result.downtime.hash_ns})
        saved = peer.receive_object(Message.START).get("state_hash")
        result.state_hashes = (saved if isinstance(saved, str) else None, loaded)
        if loaded is None:
            sink.compare(result.state_hashes[0])
        result.target_state = sink.start()
        self._running = True
        peer.send(Message.RUNNING, {"state": result.target_state})
        result.source_state = words(peer.receive_object(Message.DONE), "state", "?")
        self._done = True
        sink.conclude()

    def _take_stream(self) -> None:
        """Take the stream, to its end.

        Raises:
            Error: the target refused it, it did not come whole, or the source is gone.
        """
        crc32 = 0
        while True:
            kind, content = self._peer.receive(Message.DATA, Message.FINAL, Message.END)
            if kind is Message.DATA:
                crc32 = zlib.crc32(content, crc32)
                forward(content, self._parser, self._sink, self._result, self._check)
                self._tell("receiving", self._result.read_bytes, 0)
                continue
            if kind is Message.FINAL:
                (self._parser.final_from,) = self._peer.numbers(content, "offset_bytes")
                self._result.precopy = self._parser.final_from > 0
                continue
            sent_bytes, sent_crc32 = self._peer.numbers(content, "bytes", "crc32")
            if (sent_bytes, sent_crc32) != (self._result.read_bytes, crc32):
                raise MigrationError(
                    f"{self._peer.name}: the stream was damaged on its way: "
                    f"{self._result.read_bytes} bytes came of {sent_bytes}"
                )
            return

    def _leave(self, error: Error, cause: MigrationError) -> None:
        """Leave the target usable, and tell the source how, if it is there."""
        result = self._result
        asked = isinstance(error, PeerRefusedError)
        if self._done:
            # The source has given up the state: what is here is all that there is of it.
            result.target_state = self._sink.keep()
            return
        if self._running and not asked:
            # It runs, and whether the source stopped is not known: its state is kept.
            result.target_state = self._sink.keep()
            result.source_state = "not known: it may run as well as the target: look at that host"
            result.error = MigrationError(
                f"{cause}, before it said that the source was stopped",
                f"{result.target} is {result.target_state}, and the source may run as well: look "
                "at that host",
            )
            return
        result.target_state = self._sink.abandon()
        if isinstance(error, PeerRefusedError):
            result.source_state = error.state or "not known: it did not say"
            self._peer.answer(result.target_state)
        else:
            result.source_state = self._peer.farewell(cause, result.target_state) or (
                "not known: it did not say; it runs again, or was reset if its mlxtrace was killed"
            )
