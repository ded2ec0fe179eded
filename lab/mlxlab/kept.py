# SPDX-License-Identifier: GPL-2.0-or-later
"""A lab that is kept between commands: start it, find it, run a command in it, end it.

The keeper (:mod:`mlxlab.keeper`) is told by a JSON file in the run's folder: ``command`` (QEMU's
words), and descriptors that it inherits: ``guest_ends`` (for QEMU), ``ports`` (name to our end) and
``listener`` (where commands connect); ``idle_s``; and ``note``, the file in the cache that names
the kept run, which the keeper removes. It inherits the VM lock as well, and never closes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlxlab import keeper, monitor
from mlxlab.errors import NotStartedError
from mlxlab.runs import Run
from mlxpatch import cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_SOCKET = "keeper.sock"
_NOTE = "MLXLAB_KEPT"
_HINT = "mlxlab run --keep -- COMMAND starts one"


@dataclass
class Guest:
    """A kept VM that is lent to this process.

    Attributes:
        qemu_pid: QEMU's process.
        ends: our ends of the ports, by name.
        idle: the guest is known to have nothing to do; if not, it is made to end what runs.
    """

    qemu_pid: int
    ends: dict[str, socket.socket]
    idle: bool = False


def note() -> Path:
    """Return the file that exists while a lab is kept: $MLXLAB_KEPT, or one in the cache.

    Who sets the variable has a lab of their own, which no command without it finds.
    """
    return Path(os.environ.get(_NOTE) or cache.root() / "kept.json")


def stop_command() -> str:
    """Return the command line, for people, that ends the lab of :func:`note`."""
    where = os.environ.get(_NOTE)
    return f"{_NOTE}={shlex.quote(where)} mlxlab stop" if where else "mlxlab stop"


def start(
    place: Run, command: Sequence[str], sockets: monitor.Sockets, lock: int, idle_s: float
) -> None:
    """Start the keeper of the VM that ``command`` describes, and note that it is there.

    The keeper takes over ``sockets`` and the VM lock ``lock``.
    """
    with _listening(place.path / _SOCKET) as listener:
        ends = {name: end.fileno() for name, end in sockets.ours.items()}
        guest_ends = list(sockets.descriptors.values())
        settings = {
            "command": list(command),
            "guest_ends": guest_ends,
            "ports": ends,
            "listener": listener.fileno(),
            "idle_s": idle_s,
            "note": str(note()),
        }
        with cache.writing(place.path):
            told = place.path / "keeper.json"
            told.write_text(json.dumps(settings, indent=1) + "\n")
            log = place.qemu_log.open("wb")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "mlxlab.keeper", told],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[*guest_ends, *ends.values(), listener.fileno(), lock],
                # A terminal's Ctrl-C and hang-up are not for it.
                start_new_session=True,
            )
    with cache.writing(note()):
        note().write_text(
            json.dumps({"run": str(place.path), "out": str(place.out), "keeper_pid": process.pid})
        )


def found() -> tuple[Run, int]:
    """Return the kept lab's folder and the number of its next command.

    Its logs begin at what comes from now on.

    Raises:
        NotStartedError: no lab is kept.
    """
    noted = _noted()
    place = Run(Path(noted["run"]), Path(noted["out"]))
    cache.touch(place.path)
    numbers = [int(path.name.split("-")[1]) for path in place.path.glob("command-[0-9]*")]
    return (
        Run(place.path, place.out, _size(place.console), _size(place.dmesg)),
        max(numbers, default=0) + 1,
    )


@contextlib.contextmanager
def borrowed(waiting: Callable[[str], None]) -> Iterator[Guest]:
    """Borrow the VM, until the block ends.

    ``waiting`` is called, with what for, if another command has the VM.

    Raises:
        NotStartedError: no lab is kept.
    """
    with _connected() as connection:
        connection.settimeout(1)
        try:
            said, descriptors = _borrow(connection)
        except TimeoutError:
            waiting("waiting for another command in the kept lab")
            connection.settimeout(None)
            said, descriptors = _borrow(connection)
        if not descriptors:
            raise NotStartedError("the kept lab has just ended", _HINT)
        ends = {
            name: socket.socket(fileno=descriptor)
            for name, descriptor in zip(monitor.PORTS, descriptors, strict=True)
        }
        try:
            guest = Guest(json.loads(said)["qemu_pid"], ends)
            yield guest
            if guest.idle:
                with contextlib.suppress(OSError):
                    connection.sendall(keeper.DONE)
        finally:
            for end in ends.values():
                end.close()


def abandon(guest: Guest) -> None:
    """Kill the VM, which does not answer."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(guest.qemu_pid, signal.SIGKILL)


def end_at_once() -> bool:
    """Kill the kept VM if a command runs in it; return whether that was so.

    Raises:
        NotStartedError: no lab is kept.
    """
    with _connected() as connection:
        connection.settimeout(1)
        try:
            _borrow(connection)
        except TimeoutError:
            pass
        else:
            with contextlib.suppress(OSError):
                connection.sendall(keeper.DONE)
            return False
        with contextlib.suppress(ProcessLookupError):
            process = os.pidfd_open(int(_noted()["keeper_pid"]))
            signal.pidfd_send_signal(process, signal.SIGTERM)
            select.select([process], [], [])
            os.close(process)
    return True


def _noted() -> dict[str, str]:
    try:
        noted = json.loads(note().read_text())
        return {key: str(noted[key]) for key in ("run", "out", "keeper_pid")}
    except (OSError, ValueError, KeyError):
        raise NotStartedError("no lab is kept", _HINT) from None


@contextlib.contextmanager
def _named(path: Path) -> Iterator[str]:
    """Yield a short name of ``path``: a socket's may have 107 bytes at most (unix(7))."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    with _named(path) as name, socket.socket(socket.AF_UNIX) as listener:
        with cache.writing(path):
            listener.bind(name)
        path.chmod(0o600)
        listener.listen()
        yield listener


@contextlib.contextmanager
def _connected() -> Iterator[socket.socket]:
    path = Path(_noted()["run"]) / _SOCKET
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            with _named(path) as name:
                connection.connect(name)
        except OSError:
            # A keeper that was killed left its note behind.
            note().unlink(missing_ok=True)
            raise NotStartedError("no lab is kept", _HINT) from None
        yield connection


def _borrow(connection: socket.socket) -> tuple[bytes, list[int]]:
    try:
        said, descriptors, _, _ = socket.recv_fds(connection, 1 << 12, len(monitor.PORTS))
    except ConnectionError:
        return b"", []
    return said, descriptors


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
