# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache: what is in it is complete, or it is not there.

Everything is made in a temporary folder beside its final name and renamed when it is whole, under
a lock of its own. A killed download or build leaves a temporary folder, which the next one that
holds the same lock removes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings import locate
from genbindings.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PARTIAL = ".partial-"
_NAMING = str.maketrans(dict.fromkeys("/ \t", "_"))
# make(1) and the kernel's command line split at these, and neither can be told not to.
_UNSAFE = frozenset(" \t\n'\"$#:;,\\&|<>*?()")


def root() -> Path:
    """Return the cache's folder, ``${XDG_CACHE_HOME:-~/.cache}/mlxtrace``; it is made if needed.

    Raises:
        Error: it cannot be written, or its path has characters that make cannot deal with.
    """
    path = locate.cache().absolute()
    bad = sorted(_UNSAFE & set(str(path)))
    if bad:
        raise Error(
            f"the cache is {path}, and kernel builds cannot deal with {bad[0]!r} in a path",
            "set XDG_CACHE_HOME to another folder",
        )
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the errors of writing to ``path`` into an :class:`Error` that names it."""
    try:
        yield
    except OSError as error:
        # copytree() collects the errors of all files, as texts.
        several = isinstance(error, shutil.Error)
        if error.errno == errno.ENOSPC or (several and os.strerror(errno.ENOSPC) in str(error)):
            raise Error(f"no space left for {path}", "mlxlab needs about 2 GB of cache") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "set XDG_CACHE_HOME to a folder that you can write"
            raise Error(f"cannot write {path}: {error.strerror}", hint) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise Error(f"{error.filename or path} is a file, not a folder") from error
        if several and isinstance(error.args[0], list):
            raise Error(f"cannot write {path}: {error.args[0][0][2]}") from error
        raise


@contextlib.contextmanager
def locked(name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock ``name`` of the cache; the kernel drops it when the process dies.

    ``waiting`` is called once if somebody else holds it.
    """
    folder = root() / "locks"
    with writing(folder):
        folder.mkdir(exist_ok=True)
        # os.open makes it close-on-exec: a child that outlives this process must not keep it.
        lock = os.open(folder / f"{name.translate(_NAMING)}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def publish(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``target`` if the block succeeds and vanishes if not.

    The caller holds a lock that covers ``target``. An older ``target`` is replaced.
    """
    parent = target.parent
    with writing(target):
        parent.mkdir(parents=True, exist_ok=True)
        sweep(target)
        partial = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{target.name}.", dir=parent))
        try:
            partial.chmod(0o755)
            yield partial
            if target.exists():
                old = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{target.name}.", dir=parent))
                target.rename(old / "old")
            partial.rename(target)
            sweep(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Path]:
    """Yield an empty folder in the cache that vanishes after the block, whatever happens.

    It is on the cache's disk, since builds are too big for a /tmp in memory. What a killed
    process left is removed by the next one.
    """
    parent = root() / "scratch"
    with writing(parent):
        parent.mkdir(exist_ok=True)
    _sweep_scratch(parent)
    folder = parent / f"{name}.{os.getpid()}.{time.monotonic_ns()}"
    with writing(folder):
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep_scratch(parent: Path) -> None:
    for folder in parent.iterdir():
        process = folder.name.split(".")[1:2]
        if process and process[0].isdigit() and not Path("/proc", process[0]).exists():
            shutil.rmtree(folder, ignore_errors=True)


def sweep(target: Path) -> None:
    """Remove what a killed :func:`publish` of ``target`` left; the caller holds its lock."""
    for leftover in target.parent.glob(f"{_PARTIAL}{target.name}.*"):
        shutil.rmtree(leftover, ignore_errors=True)


def touch(path: Path) -> None:
    """Note that ``path`` was used now; :func:`prune` keeps what was used last."""
    with contextlib.suppress(OSError):
        os.utime(path)


def put(file: str | Path, target: str | Path) -> None:
    """Make ``target`` the same file as ``file``, or a copy where that cannot be."""
    try:
        os.link(file, target)
    except OSError:  # another file system, or somebody else's file
        shutil.copy2(file, target)


def prune(folder: Path, pattern: str, keep: int, unused_s: float = 3600.0) -> None:
    """Remove all but the ``keep`` last used entries of ``folder`` that match ``pattern``.

    What was used in the last ``unused_s`` seconds stays: another process may be using it.
    """
    try:
        entries = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
        old = [path for path in entries[keep:] if path.stat().st_mtime < time.time() - unused_s]
    except FileNotFoundError:
        return
    for path in old:
        shutil.rmtree(path, ignore_errors=True)


def size_bytes() -> int:
    """Return the space that the cache takes on its disk; hard links count once."""
    sizes = {}
    for parent, _, names in os.walk(root()):
        for name in names:
            with contextlib.suppress(OSError):
                entry = Path(parent, name).lstat()
                sizes[entry.st_ino] = entry.st_blocks * 512
    return sum(sizes.values())


def empty() -> int:
    """Remove everything in the cache; return how much space that gave back, in bytes.

    Raises:
        Error: somebody is downloading or building.
    """
    before = size_bytes()
    with contextlib.ExitStack() as held:
        for path in sorted((root() / "locks").glob("*.lock")):
            lock = os.open(path, os.O_RDWR)
            held.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Error(f"the cache is in use: {path.stem}", "try again later") from None
        for entry in root().iterdir():
            # A lock that is removed while somebody waits for it would be held by two.
            if entry.name == "locks":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
    return before - size_bytes()
