# SPDX-License-Identifier: GPL-2.0-or-later
"""One function in a process of its own: it can be waited for with a limit, and killed.

A call that hangs the kernel, or a read that nobody wakes, takes that process with it and no other.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtrace import vfio_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PAUSE_S = 0.002


class ChildDiedError(ChildProcessError):
    """The process ended without a result; the text says how.

    Attributes:
        signal: what ended it; 0 if no signal did.
    """

    def __init__(self, status: int) -> None:
        """``status`` is that of waitpid(2)."""
        code = os.waitstatus_to_exitcode(status)
        self.signal = max(0, -code)
        how = signal.Signals(self.signal).name if self.signal else f"status {code}"
        super().__init__(f"the process ended with {how}")


class Child:
    """A forked process that runs one function.

    It has no files open but those in ``keep`` and the standard ones, so that it does not keep a
    device open that its parent closes. The function's result has to be what JSON can hold.
    """

    def __init__(self, function: Callable[[], Any], keep: Sequence[int] = ()) -> None:
        self._output, output = os.pipe()
        self._received = b""
        self._ended = False
        self.pid = os.fork()
        if self.pid == 0:
            _be_child(function, {0, 1, 2, output, *keep}, output)
        os.close(output)

    def result(self, timeout_s: float) -> Any:
        """Return what the function returned.

        Raises:
            TimeoutError: it has not ended after ``timeout_s``; the process goes on.
            ChildDiedError: the process died.
        """
        deadline = time.monotonic() + timeout_s
        while not self._ended:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._output], [], [], left)[0]:
                raise TimeoutError(f"no answer within {timeout_s:g} s")
            data = os.read(self._output, 1 << 16)
            self._received += data
            self._ended = not data
        os.close(self._output)
        _, status = os.waitpid(self.pid, 0)
        if not self._received:
            raise ChildDiedError(status)
        told = json.loads(self._received)
        vfio_calls.add(told["calls"])
        return told["result"]

    def sleeps(self, timeout_s: float) -> bool:
        """Wait until it sleeps in the kernel, where a signal would wake it; False if it ended."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                text = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii")
            except OSError:
                return False
            state = text.rpartition(")")[2].split()[0]
            if state in "SZ":
                return state == "S"
            time.sleep(_PAUSE_S)
        return False

    def kill(self, timeout_s: float = 1.0) -> bool:
        """End it; return whether it has gone within ``timeout_s``.

        One that hangs in the kernel, or waits there for firmware, stays until that lets it go.
        """
        if self._ended:
            return True
        os.kill(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + timeout_s
        while not (is_gone := os.waitpid(self.pid, os.WNOHANG) != (0, 0)):
            if time.monotonic() > deadline:
                break
            time.sleep(_PAUSE_S)
        os.close(self._output)
        self._ended = True
        return is_gone


def _be_child(function: Callable[[], Any], keep: set[int], output: int) -> None:
    """Run ``function`` and end the process."""
    status = 1
    try:
        ends = [*sorted(keep), os.sysconf("SC_OPEN_MAX")]
        for before, after in pairwise(ends):
            # An empty range is not taken for one: closerange(0, 0) closes everything.
            if after > before + 1:
                os.closerange(before + 1, after)
        told = {"result": function(), "calls": vfio_calls.take()}
        os.write(output, json.dumps(told).encode())
        status = 0
    finally:
        # Nothing of the parent's may be cleaned up twice.
        os._exit(status)
