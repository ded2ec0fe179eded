# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxlab shell``: the guest's serial console on this terminal."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

from mlxlab import monitor, vm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlxlab.runs import Run
    from mlxlab.tree import Boot


def attach(boot: Boot, machine: vm.Machine, place: Run) -> monitor.Outcome:
    """Boot with the console on this terminal, and return how it ended when the shell has."""
    outcome = monitor.Outcome()
    with contextlib.closing(monitor.Sockets()) as sockets, _keys_for_the_guest():
        command = vm.qemu_command(
            boot,
            machine,
            place.path,
            place.out,
            sockets.descriptors,
            console=f"stdio,signal=off,mux=off,logfile={str(place.console).replace(',', ',,')}",
            # The terminal is for the shell; the whole log is in dmesg.
            quiet=True,
        )
        with place.qemu_log.open("wb") as log:
            qemu = subprocess.Popen(
                [*vm.dies_with_us(), *command],
                pass_fds=tuple(sockets.descriptors.values()),
                stderr=log,
            )
            try:
                sockets.release()
                with sockets.ours["control"].makefile("r", errors="replace") as said:
                    for line in said:
                        outcome.report.feed(line)
                        if outcome.report.ended:
                            break
            finally:
                monitor.stop(qemu)
    if not outcome.report.ended:
        outcome.lost = "it ended before it had reported"
    return outcome


@contextlib.contextmanager
def _keys_for_the_guest() -> Iterator[None]:
    """Let Ctrl-C through to the guest; put the terminal back however QEMU leaves it."""
    before = termios.tcgetattr(sys.stdin)
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        signal.signal(signal.SIGINT, interrupt)
