# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording as text or JSON: what the live run printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from mlxtrace import bulk, output, probetable
from mlxtrace.bulk import SummaryDecoder
from mlxtrace.bulk_text import TextDecoder
from mlxtrace.decoder import Decoder
from mlxtrace.recording import UnreadableError
from mlxtrace.replay import Replay
from mlxtrace.selection import EVERYTHING, Selection

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LARGE_BYTES = 2 << 20
"""Of a recording: fewer records are decoded one by one before numpy is even loaded."""


def report(
    path: Path,
    stream: TextIO,
    *,
    as_json: bool = False,
    verbose: bool = False,
    summary_only: bool = False,
    selection: Selection = EVERYTHING,
    warn: Callable[[str], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> bool:
    """Print the recording at ``path``; return whether nothing was lost in it.

    With ``summary_only`` nothing but summaries and losses, which takes a fraction of the time;
    ``selection`` may only be of devices then.
    A cut or damaged recording is printed up to the damage. ``warn`` gets a sentence about that, and
    one about each VF or process that ``selection`` asks for and the recording has not. ``tell``
    gets the lines about its probes that the live run wrote to stderr.

    Raises:
        Error: it cannot be read, or is not a recording.
    """
    warn = warn or output.warn
    try:
        replay = Replay(path, warn)
    except UnreadableError as error:
        warn(str(error))
        return False
    if tell is not None:
        for line in probetable.told(replay.meta.probes, verbose=verbose):
            tell(line)
    printer = output.Output(
        stream,
        replay.meta,
        as_json=as_json,
        verbose=verbose,
        selection=selection,
        rows=not summary_only,
    )
    decoder = Decoder()
    by_block = _is_large(path) and bulk.numpy() is not None
    if summary_only:
        decoder = SummaryDecoder(by_block=by_block)
    # Rows by the block are lines already, which no selection can choose from.
    elif by_block and not as_json and selection == EVERYTHING:
        decoder = TextDecoder(printer.text)
    for events in replay.batches(decoder):
        printer.write(events)
    for what in printer.not_there():
        warn(f"{path} has {what}")
    return printer.complete and not replay.warnings


def _is_large(path: Path) -> bool:
    """Whether it pays to load numpy. What comes through a pipe may well be large."""
    try:
        return not path.is_file() or path.stat().st_size >= LARGE_BYTES
    except OSError:
        return False
