# SPDX-License-Identifier: GPL-2.0-or-later
"""The sources that a series is made for: a pinned source package, a tree, a tarball, a commit.

A series' folder names its base in the file ``BASE``, ``key: value`` lines: ``package``,
``version`` and ``sha256`` of the package file. ``#`` begins a comment.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error, UsageError
from mlxpatch import cache, kernels, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlxpatch.progress import Progress
    from mlxpatch.series import Series

_NAME = "BASE"
_KEYS = ("package", "version", "sha256")
# What the gates need beside the files of the series.
NEEDED = ("drivers/vfio", "include", "scripts", "arch/x86/include", "samples/vfio-mdev")
_ASK = "give --base DIR, --base TARBALL or --base PACKAGE (linux-source-6.1, say)"


@dataclass(frozen=True)
class Pin:
    """What a file ``BASE`` says."""

    package: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Base:
    """A source tree to apply a series to; it has the files of the series and :data:`NEEDED`.

    Attributes:
        tree: the folder; nobody writes to it.
        name: what it is, for people.
        exact: it is what the series says it was made for: positions and blobs must agree.
        note: why it is not, if there is a reason to tell.
    """

    tree: Path
    name: str
    exact: bool
    note: str = ""

    @property
    def kernel_series(self) -> str:
        """The kernel's version and patch level, ``6.1``, or nothing where it has no Makefile."""
        makefile = self.tree / "Makefile"
        text = makefile.read_text(errors="replace") if makefile.is_file() else ""
        numbers = [
            re.search(rf"^{key} = (\d+)$", text, re.MULTILINE) for key in ("VERSION", "PATCHLEVEL")
        ]
        return ".".join(number[1] for number in numbers if number)


def read_pin(folder: Path) -> Pin | None:
    """Return what ``folder/BASE`` says, or None without one.

    Raises:
        Error: it is not complete.
    """
    file = folder / _NAME
    if not file.is_file():
        return None
    values: dict[str, str] = {}
    for number, line in enumerate(file.read_text(errors="replace").splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        key, colon, value = text.partition(":")
        if not colon:
            raise Error(f"{file}, line {number}: not 'key: value'")
        values[key.strip()] = value.strip()
    missing = [key for key in _KEYS if not values.get(key)]
    if missing:
        raise Error(f"{file} has no {missing[0]!r}", f"it needs {', '.join(_KEYS)}")
    pin = Pin(values["package"], values["version"], values["sha256"].lower())
    if not re.fullmatch(r"linux-source-\d+\.\d+", pin.package):
        raise Error(f"{file}: {pin.package} is no kernel source package", "linux-source-6.1, say")
    if not re.fullmatch(r"[0-9a-f]{64}", pin.sha256):
        raise Error(f"{file}: sha256 must have 64 hexadecimal digits")
    return pin


@contextlib.contextmanager
def opened(
    series: Series, given: str | None, folder: Path | None, progress: Progress
) -> Iterator[Base]:
    """Yield the base of ``series``; ``given`` is what ``--base`` says, ``folder`` may have BASE.

    Raises:
        UsageError: nothing says what it is.
        Error: it cannot be had.
    """
    files = series.files
    pin = read_pin(folder) if folder else None
    with cache.scratch("base") as work:
        if given is not None:
            yield _given(given, series, work, progress)
        elif pin is not None:
            yield _package(pin.package, pin, files, progress)
        elif (series.folder / ".git").exists() and series.base_commit:
            yield _commit(series.folder, series.base_commit, files, work)
        elif series.base_commit:
            raise UsageError(
                f"the series is for the commit {series.base_commit[:12]}; where is it?",
                f"{_ASK}; in a clone of the kernel that has this commit, exactly it is taken",
            )
        else:
            raise UsageError("nothing says which base the series is for", _ASK)


def _given(given: str, series: Series, work: Path, progress: Progress) -> Base:
    path = Path(given)
    if path.is_dir():
        commit = series.base_commit
        if commit and (path / ".git").exists() and _has(path, commit):
            return _commit(path, commit, series.files, work)
        return Base(path, str(path), exact=False)
    if path.is_file():
        with progress.stage(f"unpacking {path.name}"):
            if path.suffix == ".deb":
                top = path.name.partition("_")[0]
                unpack.from_package(path, top, [*NEEDED, "Makefile", *series.files], work)
            else:
                unpack.from_tarball(path, [*NEEDED, "Makefile", *series.files], work)
        return Base(work, path.name, exact=False)
    if re.fullmatch(r"linux-source-\d+\.\d+", given):
        return _package(given, None, series.files, progress)
    raise UsageError(f"there is no base {given}", _ASK)


def _package(package: str, pin: Pin | None, files: Sequence[str], progress: Progress) -> Base:
    number = package.removeprefix("linux-source-")
    version, deb = kernels.ensure_archive(number, progress, pin.version if pin else None)
    exact = pin is not None and pin.version == version
    if exact and pin is not None:
        _check(deb, pin)
    note = ""
    if pin is not None and not exact:
        note = (
            f"the archive has dropped {package} {pin.version}: {version} is used, index lines and "
            "the positions of hunks are ignored"
        )
    return Base(_tree(package, version, deb, files, progress), f"{package} {version}", exact, note)


def _tree(package: str, version: str, deb: Path, files: Sequence[str], progress: Progress) -> Path:
    # One folder for each set of files: unpacking takes longer than all the quick gates.
    outside = [path for path in files if not path.startswith(tuple(f"{part}/" for part in NEEDED))]
    wanted = [*NEEDED, "Makefile", *outside]
    key = hashlib.sha256("\0".join(wanted).encode()).hexdigest()[:16]
    target = cache.root() / "bases" / f"{package}_{version}-{key}"
    with cache.locked(f"base-{target.name}", lambda: progress.note("waiting for another unpack")):
        if not target.exists():
            with cache.publish(target) as partial, progress.stage(f"unpacking {deb.name}"):
                unpack.from_package(deb, package, wanted, partial)
        cache.touch(target)
    cache.prune(target.parent, "*", 4)
    return target


def _check(deb: Path, pin: Pin) -> None:
    with deb.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != pin.sha256:
        raise Error(
            f"{deb.name} is not the package that BASE names: its sha256 is {digest}, not "
            f"{pin.sha256}",
            f"remove {deb.parent} and try again, or correct BASE",
        )


def _has(repository: Path, commit: str) -> bool:
    if shutil.which("git") is None:
        return False
    done = subprocess.run(
        ["git", "-C", str(repository), "cat-file", "-e", f"{commit}^{{commit}}"],
        capture_output=True,
    )
    return done.returncode == 0


def _commit(repository: Path, commit: str, files: Sequence[str], work: Path) -> Base:
    """Unpack the needed part of a commit of ``repository`` into ``work``."""
    listing = subprocess.run(
        [
            *("git", "-C", str(repository), "ls-tree", "--name-only", "-z", "--full-tree", commit),
            *("--", *NEEDED, "Makefile", *files),
        ],
        capture_output=True,
        text=True,
    )
    there = [path for path in listing.stdout.split("\0") if path]
    if listing.returncode != 0 or not there:
        raise Error(f"{repository} has no commit {commit[:12]} with files of the series")
    archive = work.with_name(f"{work.name}.tar")
    try:
        done = subprocess.run(
            ["git", "-C", str(repository), "archive", f"--output={archive}", commit, "--", *there],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise Error(f"git cannot read {commit[:12]}: {done.stderr.strip()}")
        unpack.from_tarball(archive, [], work, strip=0)
    finally:
        archive.unlink(missing_ok=True)
    return Base(work, f"commit {commit[:12]}", exact=True)


def kernel_headers(base: Base, given: Path | None, progress: Progress) -> Path:
    """Return the headers to build against: ``given``, else those of a kernel of the same series.

    In the cache, else installed, else downloaded.

    Raises:
        Error: there are none.
    """
    if given is not None:
        return given
    number = base.kernel_series
    found = kernels.cached_kernels(number)
    if found:
        return found[0].headers
    for build in sorted(Path("/lib/modules").glob(f"{number}.*/build"), reverse=True):
        if (build / "Makefile").is_file():
            return build.resolve()
    if not number:
        raise Error(f"{base.name} does not say which kernel it is", "give --headers DIR")
    try:
        return kernels.ensure(number, progress)[0].headers
    except Error as error:
        hint = f"give --headers DIR; {error.hint}".removesuffix("; ")
        raise Error(f"no headers of a {number} kernel to build against: {error}", hint) from None
