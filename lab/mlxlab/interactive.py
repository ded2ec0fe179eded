# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxlab shell``: the guest's serial console on this terminal."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import termios
import threading
import tty
from typing import TYPE_CHECKING

from mlxlab import vm
from mlxlab.monitor import Outcome, Sockets, stop

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from mlxlab.runs import Run
    from mlxlab.tree import Boot


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Pass every key to the guest, Ctrl-C included; put the terminal back afterwards."""
    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    tty.setraw(handle)
    try:
        yield
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)
        signal.signal(signal.SIGINT, interrupt)


def _listen(control: socket.socket, outcome: Outcome) -> None:
    """Take what the guest reports until it is gone."""
    with control.makefile("r", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            outcome.report.feed(line)


def attach(boot: Boot, machine: vm.Machine, run: Run) -> Outcome:
    """Boot with the console on this terminal and return how it ended, when it has."""
    outcome, sockets = Outcome(), Sockets()
    log = str(run.console).replace(",", ",,")
    command = vm.qemu_command(
        boot,
        machine,
        run.path,
        run.out,
        sockets.descriptors,
        console=f"stdio,signal=off,logfile={log}",
        cache="loose",
        extra=("quiet",),
    )
    listener = threading.Thread(target=_listen, args=(sockets.ours["control"], outcome))
    with contextlib.closing(sockets), _raw_terminal():
        qemu = subprocess.Popen(command, pass_fds=tuple(sockets.descriptors.values()))
        sockets.release()
        listener.start()
        try:
            qemu.wait()
        finally:
            stop(qemu)
        listener.join(5)
    if not outcome.report.ended:
        outcome.lost = "it ended before it had reported"
    return outcome
