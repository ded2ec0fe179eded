# SPDX-License-Identifier: GPL-2.0-or-later
"""The migration engine: a source's state, through PRE_COPY, into a target or a file, and back.

The three entry points return a :class:`~mlxtrace.migrate_model.Result`. When a migration fails
they first leave both devices usable; the result's ``error`` and ``*_state`` say what happened.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from genbindings import __version__
from genbindings.errors import Error
from mlxtrace.migrate_forward import forward
from mlxtrace.migrate_kin import kind_of, require_kin
from mlxtrace.migrate_limit import LimitedSink
from mlxtrace.migrate_model import (
    Migratable,
    MigrationError,
    Options,
    Result,
    Sink,
    boot_ns,
    framing_of,
)
from mlxtrace.migrate_recover import resume_source, retire_source
from mlxtrace.migrate_sink import DeviceSink, FileSink, FlipByte, final_from, state_hash
from mlxtrace.migrate_source import SourceRun
from mlxtrace.stream import Framing, StreamParser
from mlxtrace.vfio import MigrationFlags, VfioError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlxtrace.streamfile import StreamFile


def nothing() -> None:
    """Go on: nobody wants to cancel."""


def silent(what: str, done_bytes: int, announced_bytes: int) -> None:
    """Show no progress."""


def migrate_to_device(
    source: Migratable,
    target: Migratable,
    options: Options,
    *,
    force: bool = False,
    flip_byte: int | None = None,
    check: Callable[[], None] = nothing,
    tell: Callable[[str, int, int], None] = silent,
) -> Result:
    """Migrate ``source`` to ``target``. Afterwards the target runs and the source is stopped.

    Args:
        force: migrate to a target with another driver or of another kind all the same.
        flip_byte: invert the byte at this stream offset on its way: a test aid.
        check: called often; raises an Error to cancel.
        tell: called with what is read (a kind of image), bytes read and bytes announced (0: not
            known) of the current round.

    Raises:
        Error: a device offers no migration, or their streams differ, or the target is another
            kind of device; nothing was touched.
    """
    source_flags, target_flags = source.require_migration(), target.require_migration()
    framing = framing_of(source, source_flags)
    if framing is not framing_of(target, target_flags):
        raise Error(
            f"{source.name} ({source.driver}: {flag_names(source_flags)}) and {target.name} "
            f"({target.driver}: {flag_names(target_flags)}) have different stream formats",
            "migrate between two VFs whose drivers both offer PRE_COPY, or both do not",
        )
    if not force:
        require_kin(source.name, kind_of(source), target)
    result = Result(source.name, target.name, framing=framing, flipped_byte_offset=flip_byte)
    sink = shaped(
        DeviceSink(target, target_flags, result.downtime), flip_byte, options.bandwidth_limit, check
    )
    parser = StreamParser(framing)
    run = SourceRun(source, source_flags, sink, options, result, parser, check, tell)
    carry_out(run)
    return result


def migrate_to_file(
    source: Migratable,
    path: Path,
    options: Options,
    *,
    flip_byte: int | None = None,
    check: Callable[[], None] = nothing,
    tell: Callable[[str, int, int], None] = silent,
) -> Result:
    """Save the state of ``source`` in the stream file ``path``. Afterwards it is stopped.

    The arguments are those of :func:`migrate_to_device`, where there are such.

    Raises:
        Error: it offers no migration; nothing was touched.
    """
    flags = source.require_migration()
    framing = framing_of(source, flags)
    result = Result(source.name, str(path), framing=framing, flipped_byte_offset=flip_byte)
    file = FileSink(path, describe_source(source, flags, framing))
    sink = shaped(file, flip_byte, options.bandwidth_limit, check)
    run = SourceRun(source, flags, sink, options, result, StreamParser(framing), check, tell)
    carry_out(run)
    return result


def migrate_from_file(
    file: StreamFile,
    target: Migratable,
    *,
    force: bool = False,
    bandwidth_limit: float | None = None,
    flip_byte: int | None = None,
    check: Callable[[], None] = nothing,
    tell: Callable[[str, int, int], None] = silent,
) -> Result:
    """Load a stream file into ``target``, which runs afterwards.

    Args:
        bandwidth_limit: most bytes a second to load; ``None``: no limit.
        force, flip_byte, check, tell: as in :func:`migrate_to_device`.

    Raises:
        Error: the target offers no migration, has another stream format, or is another kind of
            device than the stream was saved from; it was not touched.
    """
    flags = target.require_migration()
    parser = parser_of(file)
    framing = parser.framing
    if framing is not framing_of(target, flags):
        raise Error(
            f"{file.path} holds a stream of format {framing}, {target.name} ({target.driver}: "
            f"{flag_names(flags)}) takes another",
            "load it into a VF whose driver offers what the source's did",
        )
    if not force:
        require_kin(str(file.path), file.header, target)
    result = Result(str(file.path), target.name, framing=framing, flipped_byte_offset=flip_byte)
    device = DeviceSink(target, flags, result.downtime)
    sink = shaped(device, flip_byte, bandwidth_limit, check)
    feed(file, parser, sink, result, check, tell)
    return result


def parser_of(file: StreamFile) -> StreamParser:
    """Return a parser for the stream in ``file``.

    Raises:
        Error: the file does not say what is needed for that.
    """
    try:
        return StreamParser(Framing(file.header["framing"]), final_from(file.trailer))
    except (KeyError, ValueError, TypeError):
        raise Error(f"{file.path}: its description lacks what is needed to load it") from None


def describe_source(device: Migratable, flags: MigrationFlags, framing: Framing) -> dict[str, Any]:
    """Return the header of a stream file: where its stream comes from."""
    return {
        "device": device.name,
        **kind_of(device),
        "kernel": os.uname().release,
        "migration_flags": [flag.name for flag in flags],
        "framing": framing.value,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "mlxtrace": __version__,
    }


def carry_out(run: SourceRun) -> None:
    """Carry the migration out; on failure leave both sides usable and note it in the result."""
    result, device, sink = run.result, run.device, run.sink
    result.started_boot_ns = boot_ns()
    result.options = run.options
    result.precopy = run.options.precopy and MigrationFlags.PRE_COPY in run.flags
    with suppress(VfioError):
        result.stop_copy_estimate_bytes = device.stop_copy_bytes()
    try:
        run.check()
        sink.open()
        if result.precopy:
            run.precopy()
        run.stop_and_copy()
        sink.finish(run.parser)
        compare(sink, state_hash(device.name), result)
        run.check()
        result.target_state = sink.start()
        result.source_state = retire_source(device)
    except Error as error:
        result.error = cause_of(error, run.check)
        _undo(run)
    except BaseException:
        _undo(run)
        raise
    finally:
        run.close()
        result.total_ns = boot_ns() - result.started_boot_ns


def _undo(run: SourceRun) -> None:
    """Let the source run again and the target forget: in this order, it is the one in use."""
    run.result.source_state = resume_source(run.device, saving=run.saving)
    run.result.target_state = run.sink.abandon()


def cause_of(error: Error, check: Callable[[], None]) -> MigrationError:
    """Return why a migration ended: a signal makes calls fail, and then it is the reason."""
    try:
        check()
    except Error as cancelled:
        error = cancelled
    return MigrationError.of(error)


def feed(
    file: StreamFile,
    parser: StreamParser,
    sink: Sink,
    result: Result,
    check: Callable[[], None],
    tell: Callable[[str, int, int], None],
) -> None:
    """Feed ``file`` to ``sink``; on failure leave the target usable and note it in the result."""
    result.started_boot_ns = boot_ns()
    result.precopy = bool(parser.final_from)
    result.source_state = "a file, unchanged"
    try:
        sink.open()
        for data in file.chunks():
            forward(data, parser, sink, result, check)
            tell("loading", result.read_bytes, file.data_bytes)
        parser.finish_state(str(file.path))
        sink.finish(parser)
        compare(sink, file.trailer.get("state_hash"), result)
        check()
        result.target_state = sink.start()
    except Error as error:
        result.error = cause_of(error, check)
        result.target_state = sink.abandon()
    except BaseException:
        sink.abandon()
        raise
    finally:
        result.total_ns = boot_ns() - result.started_boot_ns


def compare(sink: Sink, source_hash: str | None, result: Result) -> None:
    """Compare the hashes of the saved and the loaded state, where there are any.

    Raises:
        MigrationError: they differ.
    """
    began = boot_ns()
    loaded = sink.compare(source_hash)
    result.state_hashes = (source_hash, loaded)
    result.downtime.hash_ns = boot_ns() - began
    if source_hash is not None and loaded is not None and source_hash != loaded:
        raise MigrationError(
            f"{result.target}: the state hash is {loaded}, the source's is {source_hash}",
            "the target accepted the stream, but what it loaded is not what was saved",
        )


def shaped(
    sink: Sink, flip_byte: int | None, bandwidth_limit: float | None, check: Callable[[], None]
) -> Sink:
    """Return ``sink``, behind one that damages a byte and one that slows down, where wanted."""
    if flip_byte is not None:
        sink = FlipByte(sink, flip_byte)
    if bandwidth_limit is not None:
        sink = LimitedSink(sink, bandwidth_limit, check)
    return sink


def flag_names(flags: MigrationFlags) -> str:
    """Return ``STOP_COPY P2P PRE_COPY``, or those of them that are set."""
    return " ".join(flag.name or "" for flag in flags)
