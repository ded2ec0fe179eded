# SPDX-License-Identifier: GPL-2.0-or-later
"""One VM at a time: two emulated guests on two cores starve each other until neither boots."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mlxlab.errors import NotStartedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PLACES = (Path("/run/lock"), Path("/tmp"))


@contextlib.contextmanager
def one_vm(waiting: Callable[[str], None]) -> Iterator[int]:
    """Hold the machine's VM lock, whose descriptor is yielded.

    The kernel drops the lock when the last process that has the descriptor dies or closes it.
    ``waiting`` is called once, with who holds it, if somebody else does.
    """
    lock = _open()
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting(os.pread(lock, 200, 0).decode(errors="replace").strip() or "another process")
            fcntl.flock(lock, fcntl.LOCK_EX)
        name_holder(lock, f"the VM of process {os.getpid()}")
        yield lock
    finally:
        os.close(lock)


def name_holder(lock: int, who: str) -> None:
    """Write into the lock what others wait for."""
    # Another user's file may be read only, which is enough for locking it.
    with contextlib.suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{who}\n".encode(), 0)


def _open() -> int:
    for place in _PLACES:
        path = place / "mlxlab.lock"
        # Without O_CREAT first: in a sticky folder that flag is refused for another user's file.
        for flags in (os.O_RDWR, os.O_RDONLY, os.O_RDWR | os.O_CREAT):
            with contextlib.suppress(OSError):
                return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    raise NotStartedError(f"cannot make a lock in {' or '.join(map(str, _PLACES))}")
