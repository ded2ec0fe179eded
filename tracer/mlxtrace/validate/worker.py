# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that runs the checks, and what it tells of them: JSON lines through a pipe.

A check that hangs the kernel takes that process with it, and the parent can still report.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from genbindings.errors import Error
from mlxtrace import vfio_calls
from mlxtrace.checks import Context, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from mlxtrace.checks import Check

    Message = dict[str, Any]
    Tell = Callable[[Message], None]

KERNEL = Path("/sys/kernel")
_KILLED_S = 2.0
"""How long a killed process may take to go. One that is stuck in the kernel stays."""


class TellingContext(Context):
    """A context that tells of each step at once: what hangs cannot tell any more."""

    tell: Tell | None = None

    def note(self, did: str, saw: str = "") -> None:
        """Note a step, and tell of it."""
        super().note(did, saw)
        if self.tell:
            self.tell({"did": did, "saw": saw})

    def goes_on(self) -> None:
        """Tell that a check that repeats itself a number of times has come a step further."""
        if self.tell:
            self.tell({"goes_on": True})


def serve(checks: Sequence[Check], context: TellingContext, tell: Tell) -> None:
    """Run ``checks`` in order, and tell how each goes.

    Messages: ``did`` and ``saw`` for each step of a check, ``goes_on`` where its time begins anew,
    then how it ended: ``status`` (with ``reason`` and ``hung``), ``broken`` (the check itself
    failed), or ``lost`` (with ``hint``): a device cannot be opened, which ends it all. With that
    come ``calls`` (how many were made, by kind), and ``warned`` (the kernel did meanwhile).
    """
    context.tell = tell
    before = _kernel_troubles()
    for check in checks:
        end = _outcome(check, context)
        now = _kernel_troubles()
        tell({**end, "warned": now != before, "calls": vfio_calls.take()})
        before = now
        if "lost" in end or end.get("hung"):
            return


def _outcome(check: Check, context: TellingContext) -> Message:
    """Run ``check`` and return the message of how it ended."""
    try:
        outcome = run(check, context)
    except Error as error:
        return {"lost": str(error), "hint": error.hint}
    except Exception as error:  # noqa: BLE001 - a mistake in a check is told, not thrown
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(frame.filename)}:{frame.lineno}"  # noqa: PTH119
        return {"broken": f"{type(error).__name__} at {where}: {error}"}
    return {"status": outcome.status, "reason": outcome.reason, "hung": outcome.hung}


def _kernel_troubles() -> list[str]:
    """Return how often the kernel warned and oopsed; empty where it does not count that."""
    return [
        path.read_text(encoding="ascii")
        for path in (KERNEL / "warn_count", KERNEL / "oops_count")
        if path.exists()
    ]


class Worker:
    """A forked process that runs ``serve``-like functions; its messages are received here.

    It is the leader of a process group of its own, so that Ctrl-C does not reach it and that its
    children end with it.
    """

    def __init__(self, function: Callable[[Tell], None]) -> None:
        self._input, output = os.pipe()
        self._received = b""
        self._exit: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._input)
            _be_worker(function, output)
        os.close(output)
        with contextlib.suppress(OSError):
            # The child does the same: whoever comes first.
            os.setpgid(self.pid, self.pid)

    def receive(self, timeout_s: float) -> Message | None:
        """Return its next message, or None if none comes for ``timeout_s``.

        Raises:
            EOFError: it has ended; the text says how.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._input], [], [], left)[0]:
                return None
            data = os.read(self._input, 1 << 16)
            if not data:
                raise EOFError(self._ended())
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        message: Message = json.loads(line)
        return message

    def end(self) -> bool:
        """Kill it if it still runs; return whether it has gone, with its files."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + _KILLED_S
        while self._exit is None and time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._exit = status
            else:
                time.sleep(0.01)
        return self._exit is not None

    def _ended(self) -> str:
        if self._exit is None:
            _, self._exit = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(self._exit)
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
        os.close(self._input)


def _be_worker(function: Callable[[Tell], None], output: int) -> None:
    """Run ``function`` and end the process."""
    status = 1
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

        def tell(message: Message) -> None:
            os.write(output, json.dumps(message).encode() + b"\n")

        function(tell)
        status = 0
    finally:
        # Nothing of the parent's may be cleaned up twice.
        os._exit(status)
