# SPDX-License-Identifier: GPL-2.0-or-later
"""The command of ``precopy -c``, which runs while it is traced."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from genbindings.errors import Error

if TYPE_CHECKING:
    from collections.abc import Sequence

GRACE_S = 10
"""How long a command may take to end when it is asked to, before it is killed."""
STUCK_S = 120
"""How long one that was killed may take: a command of the firmware times out after 60 s."""


class Child:
    """A running command. Nothing here waits, so that the trace can go on until it has ended.

    Args:
        words: the command.
        stdout: a file descriptor for its output, or subprocess.DEVNULL; None: where ours goes.

    Raises:
        Error: it cannot be run.
    """

    def __init__(self, words: Sequence[str], stdout: int | None) -> None:
        try:
            self._process = subprocess.Popen(words, stdout=stdout, stdin=subprocess.DEVNULL)
        except OSError as error:
            raise Error(f"cannot run {words[0]}: {error.strerror}") from None
        self._asked_s: float | None = None

    @property
    def ended(self) -> bool:
        """Whether it is over: it ended, or nothing ends it."""
        return self._process.poll() is not None or self.stuck

    @property
    def stuck(self) -> bool:
        """Whether it still runs long after it was killed: something in the kernel holds it."""
        return self._process.poll() is None and self._asked_for() > GRACE_S + STUCK_S

    @property
    def status(self) -> int:
        """Its exit status as a shell would tell it, once it has ended."""
        status = self._process.poll()
        if status is None:
            return 128 + signal.SIGKILL
        return 128 - status if status < 0 else status

    def end(self) -> None:
        """Ask it to end, or kill it if it had its time for that. Repeat this until it has ended."""
        if self._asked_s is None:
            self._asked_s = time.monotonic()
            self._process.terminate()
        elif self._asked_for() > GRACE_S:
            self._process.kill()

    def close(self) -> None:
        """Kill it if it still runs, without its time: nobody traces it any more."""
        if self._process.poll() is None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)

    def _asked_for(self) -> float:
        """Seconds since it was asked to end."""
        return 0 if self._asked_s is None else time.monotonic() - self._asked_s
