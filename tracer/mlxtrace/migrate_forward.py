# SPDX-License-Identifier: GPL-2.0-or-later
"""Passing a stream on, record by record, so that a refusal can be laid at one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxtrace.migrate_model import MigrationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlxtrace.migrate_model import Result, Sink
    from mlxtrace.stream import StreamParser


def forward(
    data: bytes, parser: StreamParser, sink: Sink, result: Result, check: Callable[[], None]
) -> int:
    """Pass ``data`` to ``sink``, count it in ``result``, and return the images it completed.

    A write never spans two records: mlx5 loads an image in the write that completes it, so the
    write that fails belongs to the image that was refused.

    Raises:
        MigrationError: the sink refused; it names the image.
        Error: ``check`` raised.
    """
    completed = 0
    result.read_bytes += len(data)
    for piece in parser.feed(data):
        if piece.record is not None and piece.record.kind is not None:
            if not result.images or result.images[-1] is not piece.record:
                result.images.append(piece.record)
            completed += piece.complete
        check()
        try:
            sink.write(piece)
        except Error as error:
            if isinstance(error, MigrationError) and error.record is not None:
                # A target on another host read behind: it knows better where it was.
                raise
            where = piece.record.describe() if piece.record else parser.where()
            raise MigrationError(
                f"{error}, in {where}",
                error.hint,
                errno=MigrationError.of(error).errno,
                record=piece.record,
            ) from None
        result.written_bytes += len(piece.data)
    return completed
