# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording as events: what the live run decoded, without root, bcc or the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genbindings.errors import Error
from mlxtrace import output
from mlxtrace.counters import Counters
from mlxtrace.decoder import Decoder
from mlxtrace.recording import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from mlxtrace.events import Event, Meta

_CLOCKS = ("boot_ns", "monotonic_ns", "realtime_ns")
_ERROR = "realtime_error_ns"
_NS_MAX = 1 << 64


class Replay:
    """One recording, read once from start to end.

    Attributes:
        path: the file.
        header: what the writer knew at the start.
        meta: the event that opens the output.
        clocks: readings of the three clocks, of the start and, once all was read, of the end.
        warnings: sentences about damage so far.

    Args:
        path: the file.
        warn: gets each warning when it arises.

    Raises:
        UnreadableError: its header is cut or damaged.
        Error: it is not a recording, or its header lacks something or has something odd.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path = path
        self.warnings: list[str] = []
        self._tell = warn
        self._reader = Reader(path, self._warn)
        self.header = self._reader.header
        try:
            self.clocks = [_clock(self.header["clock"])]
            self.meta: Meta = output.meta_of(self.header)
        except KeyError as error:
            raise Error(f"the header of {path} lacks {error}") from None
        except (TypeError, ValueError) as error:
            raise Error(f"the header of {path} cannot be read: {error}") from None

    def chunks(self) -> Iterator[bytes]:
        """Yield whole records, block by block, up to the end or the first damage."""
        return self._reader.chunks()

    def batches(self, decoder: Decoder | None = None) -> Iterator[Iterable[Event]]:
        """Yield the events block by block, and those that are only known at the end.

        Without ``decoder`` all of them.
        """
        decoder = decoder or Decoder()
        for chunk in self.chunks():
            yield decoder.feed(chunk)
        yield decoder.finish(*self.closing())

    def closing(self) -> tuple[Counters | None, int | None]:
        """Return what was counted, and when tracing ended; None for what is not known."""
        closing = self._reader.closing
        if closing is None:
            return None, None
        try:
            clock = _clock(closing["clock"])
            counters = Counters.from_json(closing["counters"])
        except (KeyError, TypeError, ValueError, AttributeError):
            self._warn(f"the closing counters of {self.path} cannot be read")
            return None, None
        self.clocks.append(clock)
        return counters, clock["boot_ns"]

    def _warn(self, sentence: str) -> None:
        self.warnings.append(sentence)
        self._tell(sentence)


def _clock(value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        raise TypeError("clock is no object")
    clock = {name: value[name] for name in _CLOCKS}
    if _ERROR in value:
        clock[_ERROR] = value[_ERROR]
    for name, reading in clock.items():
        if type(reading) is not int or not 0 <= reading < _NS_MAX:
            raise ValueError(f"{name} is no time")
    return clock
