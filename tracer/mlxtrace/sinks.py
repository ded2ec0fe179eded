# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a trace goes: to a recording and to rows. One of them may fail; the other goes on.

What was captured cannot be captured again, so that a full disk or a reader that goes away ends a
trace only if nothing is left to write to.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, TextIO

from genbindings.errors import Error
from mlxtrace import output
from mlxtrace.decoder import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlxtrace.counters import Counters
    from mlxtrace.live_output import LiveOutput
    from mlxtrace.output import Output
    from mlxtrace.recording import Writer


class Sinks:
    """Records and prints what is captured.

    Attributes:
        failed: whether something could not be written, other than for want of a reader.

    Args:
        writer: of the recording, if there is one.
        make_printer: makes what prints; may print already.
        stream: what that prints on.

    Raises:
        BrokenPipeError, Error: in every method but :meth:`close`: nothing is left to write to.
    """

    def __init__(
        self,
        writer: Writer | None,
        make_printer: Callable[[], Output | LiveOutput],
        stream: TextIO,
    ) -> None:
        self._writer = writer
        self._stream = stream
        self._muted = False
        self._decoder = Decoder()
        self.failed = False
        try:
            self._printer = make_printer()
        except OSError as error:
            self._mute(error)
            self._printer = make_printer()

    @property
    def complete(self) -> bool:
        """Whether the closing loss line was reached and tells of no loss."""
        return self._printer.complete

    def take(self, chunk: bytes) -> None:
        """Record and print whole records."""
        if chunk:
            self._record(lambda writer: writer.write(chunk))
            self._print(lambda: self._printer.write(self._decoder.feed(chunk)))

    def tick(self, boot_ns: int) -> None:
        """Time has gone on to ``boot_ns``."""
        self._print(lambda: self._printer.tick(boot_ns, self._decoder.pending(boot_ns)))

    def finish(
        self, chunk: bytes, counters: Counters | None, clock: dict[str, int], command_status: int
    ) -> None:
        """Record and print the last records, and what is only known at the end.

        Without ``counters`` the losses are not known, and the recording gets no end.
        """
        self._record(lambda writer: writer.write(chunk))
        if counters is not None:
            closing = {
                "clock": clock,
                "counters": counters.to_json(),
                "command_status": command_status or None,
            }
            self._record(lambda writer: writer.close(closing))
        self._print(lambda: self._printer.write(self._decoder.feed(chunk)))
        self._print(lambda: self._printer.write(self._decoder.finish(counters, clock["boot_ns"])))

    def close(self) -> None:
        """Give back the terminal, and the file if it is still open."""
        with contextlib.suppress(OSError):
            self._printer.close()
        if self._writer is not None:
            self._writer.abandon()

    def _record(self, write: Callable[[Writer], None]) -> None:
        if self._writer is None:
            return
        try:
            write(self._writer)
        except Error as error:
            self._writer.abandon()
            self._writer = None
            self.failed = True
            if self._muted:
                raise
            output.warn(f"{error}; the recording ends there, the trace goes on without it")

    def _print(self, write: Callable[[], None]) -> None:
        if self._muted and self._writer is None:
            return
        try:
            write()
        except OSError as error:
            self._mute(error)

    def _mute(self, error: OSError) -> None:
        """Print no more, if there is a recording that goes on.

        What prints is still called, since it knows at the end what was lost.
        """
        known, self._muted = self._muted, True
        _send_nowhere(self._stream)
        why = f"cannot write to standard output: {error.strerror}"
        if isinstance(error, BrokenPipeError):
            why = "nobody reads standard output any more"
        else:
            self.failed = True
        if self._writer is None:
            raise error if isinstance(error, BrokenPipeError) else Error(why)
        if not known:
            output.warn(f"{why}; the recording goes on")


def _send_nowhere(stream: TextIO) -> None:
    """Let nothing that is written to ``stream`` fail, not even at exit what is in its buffer."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
