# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording as text or JSON: what the live run printed, without root, bcc or the kernel."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from genbindings.errors import Error
from mlxtrace import output
from mlxtrace.counters import Counters
from mlxtrace.decoder import Decoder
from mlxtrace.recording import Reader
from mlxtrace.selection import EVERYTHING, Selection

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def report(
    path: Path,
    stream: TextIO,
    *,
    as_json: bool = False,
    verbose: bool = False,
    selection: Selection = EVERYTHING,
    warn: Callable[[str], None] | None = None,
) -> bool:
    """Print the recording at ``path``; return whether nothing was lost in it.

    A cut or damaged recording is printed up to the damage, and ``warn`` gets a sentence.

    Raises:
        Error: it is not a recording, or nothing can be read of it.
    """
    warned: list[str] = []

    def remember(sentence: str) -> None:
        warned.append(sentence)
        (warn or _warn)(sentence)

    reader = Reader(path, remember)
    try:
        meta = output.meta_of(reader.header)
    except (KeyError, TypeError, ValueError) as error:
        raise Error(f"the header of {path} lacks something: {error}") from None
    printer = output.Output(stream, meta, as_json=as_json, verbose=verbose, selection=selection)
    decoder = Decoder()
    for chunk in reader.chunks():
        printer.write(decoder.feed(chunk))
    counters: Counters | None = None
    ended: int | None = None
    if reader.closing is not None:
        try:
            ended = int(reader.closing["clock"]["boot_ns"])
            counters = Counters.from_json(reader.closing["counters"])
        except (KeyError, TypeError, ValueError, AttributeError):
            remember(f"the closing counters of {path} cannot be read")
    printer.write(decoder.finish(counters, ended))
    return printer.complete and not warned


def _warn(sentence: str) -> None:
    print(f"mlxtrace: warning: {sentence}", file=sys.stderr)
