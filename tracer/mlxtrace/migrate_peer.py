# SPDX-License-Identifier: GPL-2.0-or-later
"""The source's side of a migration to another host: the other mlxtrace has the target."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from genbindings.errors import Error
from mlxtrace.migrate import carry_out, describe_source, feed, nothing, parser_of, shaped, silent
from mlxtrace.migrate_model import MigrationError, Result, boot_ns, framing_of
from mlxtrace.migrate_source import SourceRun
from mlxtrace.stream import Framing, Kind, Record, StreamParser
from mlxtrace.wire import Message, PeerRefusedError, words

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlxtrace.migrate_model import Migratable, Options
    from mlxtrace.stream import Piece
    from mlxtrace.streamfile import StreamFile
    from mlxtrace.wire import Peer

_CANNOT_SAY = (
    "not known: it did not say; it resets the VF when it notices that the connection is gone"
)
_MAY_RUN = (
    "not known: it had been told to start and may run as well as the source: look at that host"
)


def migrate_to_peer(
    source: Migratable,
    peer: Peer,
    options: Options,
    *,
    flip_byte: int | None = None,
    check: Callable[[], None] = nothing,
    tell: Callable[[str, int, int], None] = silent,
) -> Result:
    """Migrate ``source`` to the mlxtrace at ``peer``, which has to be at its greeting.

    The source gives up its state when the other side has said that its own runs. The arguments
    are those of :func:`mlxtrace.migrate.migrate_to_device`.

    Raises:
        Error: the source offers no migration, or the other side is not fit for it; nothing was
            touched.
    """
    flags = source.require_migration()
    framing = framing_of(source, flags)
    theirs = introduce(peer, {**describe_source(source, flags, framing), "role": "source"})
    result = Result(
        source.name, _target(peer, theirs), framing=framing, flipped_byte_offset=flip_byte
    )
    sink = PeerSink(peer, result)
    parser = StreamParser(framing)
    into = shaped(sink, flip_byte, options.bandwidth_limit, check)
    run = SourceRun(source, flags, into, options, result, parser, check, tell)
    carry_out(run)
    sink.conclude()
    return result


def send_file(
    file: StreamFile,
    peer: Peer,
    *,
    bandwidth_limit: float | None = None,
    flip_byte: int | None = None,
    check: Callable[[], None] = nothing,
    tell: Callable[[str, int, int], None] = silent,
) -> Result:
    """Load a stream file into the target of the mlxtrace at ``peer``.

    Raises:
        Error: as :func:`migrate_to_peer`.
    """
    parser = parser_of(file)
    theirs = introduce(peer, {**file.header, "role": "source"})
    target = _target(peer, theirs)
    result = Result(str(file.path), target, framing=parser.framing, flipped_byte_offset=flip_byte)
    sink = PeerSink(peer, result)
    into = shaped(sink, flip_byte, bandwidth_limit, check)
    feed(file, parser, into, result, check, tell)
    sink.conclude()
    return result


def introduce(peer: Peer, description: dict[str, Any]) -> dict[str, Any]:
    """Exchange greetings with ``peer`` and return its description.

    Raises:
        Error: it cannot be the other side of what ``description`` is the one side of.
    """
    theirs = peer.greet(description)
    if theirs.get("role") == description["role"]:
        raise MigrationError(
            f"{peer.name}: both sides are a {description['role']}",
            "one host needs --listen and a target, the other --connect and a source",
        )
    return theirs


def _target(peer: Peer, theirs: dict[str, Any]) -> str:
    return f"{words(theirs, 'device', '?')} at {peer.name}"


class PeerSink:
    """The target behind a connection."""

    def __init__(self, peer: Peer, result: Result) -> None:
        """``result`` gets the target's share of the times."""
        self._peer = peer
        self._result = result
        self._crc32 = 0
        self._bytes = 0
        self._final = False
        self._begun = False
        self._started = False
        self._loaded_hash: str | None = None
        self._source_hash: str | None = None
        self._refusal: PeerRefusedError | None = None

    def open(self) -> None:
        self._begun = True
        self._say(Message.BEGIN)
        self._hear(Message.READY)

    def write(self, piece: Piece) -> None:
        record = piece.record
        if record is not None and record.kind is Kind.FINAL and not self._final:
            self._final = True
            self._say(Message.FINAL, {"offset_bytes": record.offset})
        self._crc32 = zlib.crc32(piece.data, self._crc32)
        self._bytes += len(piece.data)
        try:
            self._peer.send_data(piece.data)
        except PeerRefusedError as refused:
            raise self._noted(refused) from None

    def finish(self, parser: StreamParser) -> None:  # noqa: ARG002 - what a file needs
        began = boot_ns()
        self._say(Message.END, {"bytes": self._bytes, "crc32": self._crc32})
        said = self._hear(Message.LOADED)
        downtime = self._result.downtime
        downtime.load_ns = boot_ns() - began
        if isinstance(hash_ns := said.get("hash_ns"), int):
            # The other side reads its hash before it answers: that is not part of the downtime.
            downtime.load_ns -= min(max(0, hash_ns), downtime.load_ns)
        loaded = said.get("state_hash")
        self._loaded_hash = loaded if isinstance(loaded, str) else None

    def compare(self, source_hash: str | None) -> str | None:
        self._source_hash = source_hash
        return self._loaded_hash

    def start(self) -> str:
        began = boot_ns()
        self._started = True
        self._say(Message.START, {"state_hash": self._source_hash})
        said = self._hear(Message.RUNNING)
        self._result.downtime.start_ns = boot_ns() - began
        return words(said, "state", "?")

    def abandon(self) -> str:
        if not self._begun:
            return "not touched"
        if (refusal := self._refusal) is not None:
            self._peer.answer(self._result.source_state)
            return refusal.state or _CANNOT_SAY
        error = self._result.error or MigrationError("it was given up")
        state = self._peer.farewell(error, self._result.source_state)
        return state or (_MAY_RUN if self._started else _CANNOT_SAY)

    def conclude(self) -> None:
        """Tell the target that the source gave up its state, if all went well.

        That the target does not hear it is its concern: it runs, and the source does not.
        """
        if self._result.error is None:
            try:
                self._say(Message.DONE, {"state": self._result.source_state})
            except Error:
                self._result.target_state += "; the connection was gone after that"

    def _say(self, kind: Message, said: dict[str, Any] | None = None) -> None:
        try:
            self._peer.send(kind, said)
        except PeerRefusedError as refused:
            raise self._noted(refused) from None

    def _hear(self, expected: Message) -> dict[str, Any]:
        try:
            return self._peer.receive_object(expected)
        except PeerRefusedError as refused:
            raise self._noted(refused) from None

    def _noted(self, refusal: PeerRefusedError) -> PeerRefusedError:
        """Keep what the target said last: it says how the target is left."""
        self._refusal = refusal
        image = refusal.said_image or {}
        numbers = [image.get(key) for key in ("offset_bytes", "size_bytes", "index")]
        if all(isinstance(number, int) for number in numbers):
            kind = next((kind for kind in Kind if kind == image.get("kind")), None)
            offset, size, index = map(int, numbers)  # type: ignore[arg-type] # they are ints
            refusal.record = Record(offset, size, kind=kind, index=index)
        return refusal


def framing_named(description: dict[str, Any]) -> Framing | None:
    """Return the stream format that a greeting names, ``None`` for one that is not known."""
    return next((each for each in Framing if each == description.get("framing")), None)
