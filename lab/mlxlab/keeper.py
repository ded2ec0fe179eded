# SPDX-License-Identifier: GPL-2.0-or-later
"""The background process of a lab that is kept: holds the VM, and lends its ports to commands.

One command at a time connects to the keeper's socket and gets the ports' descriptors; it talks to
the guest itself, as the command of an ordinary run does. While nobody is there, the keeper reads
what the guest says, so that the guest never waits. When a command goes away in the middle, it has
the guest end what runs. The VM and its lock are gone when the keeper is, however it dies.

``python -m mlxlab.keeper SETTINGS``: started by :mod:`mlxlab.kept`, which documents SETTINGS.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlxlab import monitor, vm

if TYPE_CHECKING:
    from collections.abc import Sequence

# What a command says in the end. Going away without it means: end what runs in the guest.
DONE = b"done"
# Killing what runs takes the guest 3 s; then it writes its kernel log.
_ENDING_S = 60.0
_POWER_OFF_S = 30.0


class Keeper:
    """One kept VM, from its start to its end."""

    def __init__(
        self,
        command: Sequence[str],
        guest_ends: Sequence[int],
        ports: dict[str, socket.socket],
        listener: socket.socket,
        idle_s: float,
    ) -> None:
        """Start QEMU by ``command``, which inherits ``guest_ends``; ``ports`` are our ends."""
        self._ports = ports
        self._listener = listener
        self._idle_s = idle_s
        self._qemu = subprocess.Popen(
            [*vm.dies_with_us(), *command], stdin=subprocess.DEVNULL, pass_fds=guest_ends
        )
        for descriptor in guest_ends:
            os.close(descriptor)
        self._exit = os.pidfd_open(self._qemu.pid)

    def hold(self) -> None:
        """Serve commands until the VM is gone or nobody has come for the idle time."""
        try:
            while True:
                guest = self._next_command()
                if guest is None:
                    break
                with guest:
                    if not self._lend(guest):
                        break
            if self._qemu.poll() is None:
                self._tell("end")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._qemu.wait(_POWER_OFF_S)
        finally:
            monitor.stop(self._qemu)

    def _next_command(self) -> socket.socket | None:
        """Return the connection of the next command; None ends the VM."""
        deadline = time.monotonic() + self._idle_s
        while (left := deadline - time.monotonic()) > 0:
            ready = self._ready([self._listener, *self._ports.values()], left)
            if ready is None:
                return None
            if self._listener in ready:
                return self._listener.accept()[0]
            for port in ready:
                self._take(port)
        return None

    def _lend(self, command: socket.socket) -> bool:
        """Lend the ports to ``command`` until it is done; return whether the VM goes on."""
        about = json.dumps({"qemu_pid": self._qemu.pid}).encode()
        try:
            socket.send_fds(command, [about], [port.fileno() for port in self._ports.values()])
            if self._ready([command]) is None:
                return False
            said = command.recv(16)
        except OSError:
            said = b""
        return said == DONE or self._end_what_runs()

    def _end_what_runs(self) -> bool:
        self._tell("stop")
        deadline = time.monotonic() + _ENDING_S
        said = b""
        while (left := deadline - time.monotonic()) > 0:
            ready = self._ready(list(self._ports.values()), left)
            if ready is None:
                return False
            for port in ready:
                data = self._take(port)
                if port is self._ports["control"]:
                    said += data
            if b"idle\n" in said:
                return True
        return False

    def _ready(
        self, waited: list[socket.socket], timeout_s: float | None = None
    ) -> list[socket.socket] | None:
        """Return which of ``waited`` can be read; None once the VM is gone."""
        numbers = {end.fileno(): end for end in waited}
        ready, _, _ = select.select([self._exit, *numbers], [], [], timeout_s)
        return None if self._exit in ready else [numbers[number] for number in ready]

    def _take(self, port: socket.socket) -> bytes:
        try:
            return port.recv(1 << 16, socket.MSG_DONTWAIT)
        except OSError:
            return b""

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._ports["control"].sendall(f"{line}\n".encode())


def main() -> None:
    """Hold the VM that the settings file describes; then remove the note that says it is there."""
    # Unwinds the stack, so that the note goes away.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    settings = json.loads(Path(sys.argv[1]).read_text())
    note = Path(settings["note"])
    try:
        Keeper(
            settings["command"],
            settings["guest_ends"],
            {name: socket.socket(fileno=end) for name, end in settings["ports"].items()},
            socket.socket(fileno=settings["listener"]),
            settings["idle_s"],
        ).hold()
    finally:
        note.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
