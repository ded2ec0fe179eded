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
GONE_S = 90.0
"""How long killed processes may take to go. One that hangs in the kernel stays; but closing a
device waits for what its firmware is at, and mlx5_core gives a command a minute."""
_PATIENCE_S = 3.0
"""After that the user is told what is waited for."""
_PAUSE_S = 0.02


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
        self._gone: bool | None = None
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
            EOFError: nothing more will come: it ends, or has ended.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._input], [], [], left)[0]:
                return None
            data = os.read(self._input, 1 << 16)
            if not data:
                raise EOFError
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        message: Message = json.loads(line)
        return message

    def kill(self) -> None:
        """Kill it and the processes that it has made, as far as they still run."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def end(self, waiting: Callable[[str], None] = lambda _: None) -> bool:
        """Kill it if it still runs; return whether it and all that it has made are gone.

        Their files are closed then. ``waiting`` is told, once, if that takes long. What did not go
        is not waited for again.
        """
        if self._gone is None:
            self.kill()
            self._gone = self._wait(waiting)
        return self._gone

    def _wait(self, waiting: Callable[[str], None]) -> bool:
        """Return whether all of its processes go within :data:`GONE_S`."""
        began, told = time.monotonic(), False
        while left := self._left():
            waited_s = time.monotonic() - began
            if waited_s > GONE_S:
                return False
            if waited_s > _PATIENCE_S and not told:
                told = True
                numbers = ", ".join(map(str, left))
                waiting(f"waiting up to {GONE_S:g} s for killed processes to go: {numbers}")
            time.sleep(_PAUSE_S)
        return True

    def _left(self) -> list[int]:
        """Return those of its processes, itself included, that have not gone."""
        if self._exit is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._exit = status if pid else None
        itself = set() if self._exit is not None else {self.pid}
        return sorted(itself | set(group_members(self.pid)))

    @property
    def fate(self) -> str:
        """What became of it, after :meth:`end`: ``ended with signal SIGKILL``, say."""
        if self._exit is None:
            return "hangs in the kernel as it ends"
        code = os.waitstatus_to_exitcode(self._exit)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
        return f"ended with {how}"

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


def group_members(group: int) -> list[int]:
    """Return the processes of a process group that have not ended, as proc(5) has them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the name, which may have anything in it: state, parent, group, ...
            words = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            state, its_group, threads = words[0], int(words[2]), int(words[17])
        except (OSError, ValueError, IndexError):
            continue
        # One whose first thread has ended is shown as ended, though others may hang in the kernel.
        if its_group == group and (state not in "ZX" or threads > 1):
            found.append(int(path.parent.name))
    return found


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
