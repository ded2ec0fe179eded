# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels in the cache: the image, the headers and the driver sources of a Debian kernel.

``kernels/RELEASE/`` is what the packages of one release unpack to, made relocatable, with the
modules decompressed; ``sources/linux-source-SERIES/`` is the part of the source package that the
drivers are built from. Nothing is installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxpatch import cache, debian, vmlinux

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlxpatch.progress import Progress

# What is taken from the source package: the drivers, their headers, and the tools for both.
_SOURCE_PARTS = (
    "drivers/vfio",
    "include",
    "arch/x86/include",
    # A cross compiler needs its target's part of the uapi headers.
    "arch/*/include/uapi",
    "samples/vfio-mdev",
    "scripts",
    "Makefile",
    "Kbuild",
    "COPYING",
)
_PARTS = " ".join(_SOURCE_PARTS)
_INFO = "mlxtrace.json"


@dataclass(frozen=True)
class Kernel:
    """One kernel release, unpacked in the cache."""

    release: str
    version: str  # Debian's
    root: Path

    @property
    def headers(self) -> Path:
        """What modules are built against."""
        return self.root / "usr/src" / f"linux-headers-{self.release}"

    @property
    def image(self) -> Path:
        """The bootable image."""
        return self.root / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """The image's own module tree."""
        return self.root / "lib/modules" / self.release


@dataclass(frozen=True)
class Source:
    """The part of a kernel source package that drivers are built from."""

    series: str
    version: str  # Debian's
    root: Path


def cached_kernels(series: str) -> list[Kernel]:
    """Return the kernels of ``series`` in the cache, the newest first."""
    found = []
    for path in (cache.root() / "kernels").glob("[0-9]*"):
        info = _info(path)
        if info.get("series") == series:
            found.append(Kernel(info["release"], info["version"], path))
    return sorted(found, key=lambda kernel: debian.release_key(kernel.release), reverse=True)


def cached_kernel(release: str) -> Kernel | None:
    """Return the kernel ``release`` if it is in the cache."""
    path = cache.root() / "kernels" / release
    info = _info(path)
    return Kernel(release, info["version"], path) if info else None


def cached_source(series: str) -> Source | None:
    """Return the sources of ``series`` if they are in the cache."""
    path = cache.root() / "sources" / f"linux-source-{series}"
    info = _info(path)
    # A cache of an earlier version of this program may hold fewer parts.
    return Source(series, info["version"], path) if info.get("parts") == _PARTS else None


def ensure(series: str, progress: Progress, *, offline: bool = False) -> tuple[Kernel, Source]:
    """Return the newest kernel of ``series`` and its sources; what is missing is downloaded.

    What apt knows decides. Where apt cannot be asked or its servers not be reached, what the
    cache has is used, and said. With ``offline`` the cache alone decides.

    Raises:
        Error: nothing is cached and apt cannot help, or may not be asked.
    """
    if offline:
        return _cached(series)
    with cache.locked(f"kernel-{series}", lambda: progress.note("waiting for another download")):
        stamp = debian.lists_stamp()
        state = cache.root() / "kernels" / f"{series}.json"
        kernel, source = _resolved(state, stamp, series)
        if kernel and source:
            vmlinux.provide(kernel.image, kernel.headers)
            return kernel, source
        try:
            packages = debian.kernel_packages(series)
            kernel = _ensure_kernel(series, packages, progress)
            source = _ensure_source(series, debian.source_package(series), progress)
        except Error as error:
            older = cached_kernels(series)
            source = cached_source(series)
            if not older or not source:
                raise
            kernel = older[0]
            progress.note(f"{error}; using {kernel.release} from the cache")
        else:
            _write_json(state, {"stamp": stamp, "release": kernel.release})
        vmlinux.provide(kernel.image, kernel.headers)
        return kernel, source


def _cached(series: str) -> tuple[Kernel, Source]:
    older = cached_kernels(series)
    source = cached_source(series)
    if older and source:
        return older[0], source
    what = f"no Linux {series} kernel" if not older else f"no sources of Linux {series}"
    raise Error(f"the cache, {cache.root()}, has {what}", "leave out --offline once")


def ensure_source(series: str, progress: Progress) -> Source:
    """Return the sources of ``series``, downloaded if they are not in the cache.

    Raises:
        Error: they are not, and apt cannot help.
    """
    with cache.locked(f"kernel-{series}", lambda: progress.note("waiting for another download")):
        cached = cached_source(series)
        return cached or _ensure_source(series, debian.source_package(series), progress)


def ensure_archive(
    series: str, progress: Progress, version: str | None = None, *, offline: bool = False
) -> tuple[str, Path]:
    """Return Debian's version of the source package of ``series``, and its file.

    What apt knows decides; where it cannot be asked, the newest one in the cache is used, and said.
    ``version`` is preferred if it can be had. With ``offline`` the cache alone decides.

    Raises:
        Error: nothing is cached and apt cannot help, or may not be asked.
    """
    with cache.locked(f"kernel-{series}", lambda: progress.note("waiting for another download")):
        kept = cache.root() / "packages" / f"linux-source-{series}_{version}"
        if version is not None and kept.is_dir():
            return version, next(kept.glob("*.deb"))
        cached = _newest_archive(series)
        if offline:
            if cached is None:
                what = f"the cache, {cache.root()}, has no source package of Linux {series}"
                raise Error(what, "leave out --offline once")
            return cached
        try:
            package = debian.source_package(series, version)
            return package.version, _archive(package, progress)
        except Error as error:
            if cached is None:
                raise
            progress.note(f"{error}; using the sources {cached[0]} from the cache")
            return cached


def _newest_archive(series: str) -> tuple[str, Path] | None:
    found = (cache.root() / "packages").glob(f"linux-source-{series}_*/*.deb")
    newest = max(found, key=lambda path: debian.release_key(path.parent.name), default=None)
    return (newest.parent.name.partition("_")[2], newest) if newest else None


def unpack_source(deb: Path, series: str, target: Path) -> None:
    """Unpack the whole kernel tree in the source package ``deb`` into the folder ``target``.

    Raises:
        Error: it is damaged.
    """
    _extract(deb, series, target, ())


def _resolved(state: Path, stamp: int, series: str) -> tuple[Kernel | None, Source | None]:
    # apt takes over a second to answer; its answer stands until its lists change.
    try:
        answer = json.loads(state.read_text())
    except (OSError, ValueError):
        return None, None
    if answer.get("stamp") != stamp:
        return None, None
    return cached_kernel(str(answer.get("release"))), cached_source(series)


def _ensure_kernel(series: str, packages: debian.KernelPackages, progress: Progress) -> Kernel:
    cached = cached_kernel(packages.release)
    if cached and cached.version == packages.version:
        return cached
    target = cache.root() / "kernels" / packages.release
    with cache.publish(target) as partial:
        debs = partial / "debs"
        debs.mkdir()
        files = debian.download(packages.all, debs, progress)
        with progress.stage(f"unpacking Linux {packages.release}"):
            for deb in files:
                debian.unpack(deb, partial)
            shutil.rmtree(debs)
            _make_relocatable(partial, packages.release)
            _decompress(partial / "lib/modules" / packages.release)
        _write_json(
            partial / _INFO,
            {"series": series, "release": packages.release, "version": packages.version},
        )
    return Kernel(packages.release, packages.version, target)


def _ensure_source(series: str, package: debian.Package, progress: Progress) -> Source:
    cached = cached_source(series)
    if cached and cached.version == package.version:
        return cached
    deb = _archive(package, progress)
    target = cache.root() / "sources" / f"linux-source-{series}"
    with cache.publish(target) as partial:
        with progress.stage(f"unpacking the drivers from {package.name}"):
            _extract(deb, series, partial, _SOURCE_PARTS)
        _write_json(
            partial / _INFO,
            {"series": series, "version": package.version, "parts": _PARTS},
        )
    return Source(series, package.version, target)


def _archive(package: debian.Package, progress: Progress) -> Path:
    # The package is kept: patch series are verified against the pristine tree inside.
    archive = cache.root() / "packages" / f"{package.name}_{package.version}"
    if not archive.exists():
        with cache.publish(archive) as partial:
            debian.download([package], partial, progress)
    for old in archive.parent.glob(f"{package.name}_*"):
        if old != archive:
            shutil.rmtree(old, ignore_errors=True)
    return next(archive.glob("*.deb"))


def _extract(deb: Path, series: str, target: Path, parts: Sequence[str]) -> None:
    top = f"linux-source-{series}"
    inner = f"./usr/src/{top}.tar.xz"
    members = [f"{top}/{part}" for part in parts]
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as package,
        subprocess.Popen(
            ["tar", "-xO", inner],
            stdin=package.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as tarball,
        subprocess.Popen(
            ["tar", "-xJ", "--wildcards", "--strip-components=1", "-C", target, *members],
            stdin=tarball.stdout,
            stderr=subprocess.PIPE,
            text=True,
        ) as tree,
    ):
        # Only the readers may hold the pipes, or a writer never learns that its reader died.
        for process in (package, tarball):
            if process.stdout:
                process.stdout.close()
        said = tree.communicate()[1]
    if tree.returncode != 0:
        what = said.strip().splitlines()
        raise Error(f"cannot unpack {deb.name}: {what[-1] if what else 'tar failed'}")


def _make_relocatable(root: Path, release: str) -> None:
    """Make the unpacked headers usable where they are: Debian's name /usr/src absolutely."""
    headers = root / "usr/src" / f"linux-headers-{release}"
    makefile = headers / "Makefile"
    here = "$(dir $(abspath $(lastword $(MAKEFILE_LIST))))"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{here}../"))
    for link in ("build", "source"):
        path = root / "lib/modules" / release / link
        if path.is_symlink():
            target = path.readlink()
            if target.is_absolute():
                path.unlink()
                path.symlink_to(os.path.relpath(root / target.relative_to("/"), path.parent))


def _decompress(modules: Path) -> None:
    # Loading a compressed module costs the guest seconds under emulation, and depmod as well.
    compressed = [str(path) for path in _walk(modules) if path.name.endswith(".ko.xz")]
    if not compressed:
        return
    jobs = ["xargs", "-0", "-P", str(os.cpu_count() or 1), "-n", "64", "xz", "-d"]
    done = subprocess.run(jobs, input="\0".join(compressed), text=True, capture_output=True)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise Error(f"cannot decompress the modules: {said[-1] if said else 'xz failed'}")


def _walk(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            yield Path(parent, name)


def _info(path: Path) -> dict[str, str]:
    try:
        info = json.loads((path / _INFO).read_text())
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in info.items()}


def _write_json(path: Path, value: object) -> None:
    partial = path.with_name(f".{path.name}.new")
    partial.write_text(json.dumps(value) + "\n")
    partial.replace(path)
