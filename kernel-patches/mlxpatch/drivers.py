# SPDX-License-Identifier: GPL-2.0-or-later
"""A revision of a driver, ready to be built: a kernel's sources with a series on top, or as is."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxpatch import build, cache, debian, headers, kernels, scope, series
from mlxpatch.apply import Overlay

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlxpatch.build import Built
    from mlxpatch.progress import Progress
    from mlxpatch.scope import Scope
    from mlxpatch.series import Patch, Series

STOCK = "stock"
# The parts of a kernel tree that modules of ours are built from.
_PARTS = ("drivers/vfio/", "include/")


@dataclass(frozen=True)
class Target:
    """The kernel that is built for, and the tree that series are applied to."""

    release: str
    headers: Path
    source: Path
    modules: Path | None  # its /lib/modules/RELEASE, where it is known


@dataclass(frozen=True)
class Revision:
    """A tree with a series applied.

    Attributes:
        name: what the user calls it.
        base: the kernel's sources.
        tree: drivers/vfio, the headers around it, and the files that the series touches.
        work: a folder that is there as long as the tree is.
        touched: the files of the tree that the series changed.
        series: as it was loaded, None for the kernel's own sources.
        patches: those of its patches that are applied, without the skipped files.
        skipped: files of the series that the sources here do not include.
        scope: what is to be built.
    """

    name: str
    base: Path
    tree: Path
    work: Path
    touched: tuple[str, ...]
    series: Series | None
    patches: tuple[Patch, ...]
    skipped: tuple[str, ...]
    scope: Scope

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences on what the build does not show."""
        gone = tuple(
            f"{name} is not part of the build, and was not applied" for name in self.skipped
        )
        return (*self.scope.remarks, *gone)


def target(release: str, folder: Path | None, source: Path | None, progress: Progress) -> Target:
    """Return the kernel to build for; its sources are downloaded if they are not there.

    Args:
        release: as in /lib/modules; empty stands for that of the headers in ``folder``.
        folder: the kernel's headers, or None to look for them.
        source: a kernel tree, or None for the distribution's.
        progress: says what is downloaded.

    Raises:
        Error: there are no headers or no sources of it.
    """
    found = folder or headers.find(release)
    actual = headers.inspect(found).release
    if release and release != actual:
        raise Error(f"{found} is for kernel {actual}, not {release}")
    cached = kernels.cached_kernel(actual)
    installed = Path("/lib/modules") / actual
    modules = installed if (installed / "modules.dep").is_file() else None
    if modules is None and cached:
        modules = cached.modules
    return Target(actual, found, source or _source(actual, progress), modules)


def _source(release: str, progress: Progress) -> Path:
    match = re.match(r"\d+\.\d+", release)
    if match is None:
        raise Error(f"cannot tell the kernel series of {release}", "give --source DIR")
    cached = kernels.cached_source(match[0])
    if cached:
        return cached.root
    if not debian.available():
        raise Error(f"no sources of Linux {match[0]}", "give --source DIR")
    return kernels.ensure_source(match[0], progress).root


@contextlib.contextmanager
def prepared(
    spec: str | Path | None, base: Path, progress: Progress, *, whole: bool = False
) -> Iterator[Revision]:
    """Yield the revision that ``spec`` names, in a folder that vanishes with the block.

    Args:
        spec: what :func:`mlxpatch.series.load` takes; None or ``stock`` for ``base`` as it is.
        base: the kernel tree that the series is for.
        progress: says what is going on.
        whole: build all of drivers/vfio, whatever the series touches.

    Raises:
        Error: the series cannot be read, does not apply, or has nothing that can be built.
    """
    with tempfile.TemporaryDirectory(prefix="mlxpatch-") as name:
        work = Path(name)
        if spec is None or str(spec) == STOCK:
            yield _revision(STOCK, base, None, work, whole)
            return
        yield _revision(str(spec), base, series.load(spec, progress), work, whole)


def _revision(name: str, base: Path, loaded: Series | None, work: Path, whole: bool) -> Revision:
    tree = work / "tree"
    overlay = Overlay(base)
    patches: tuple[Patch, ...] = ()
    skipped: tuple[str, ...] = ()
    if loaded is not None:
        patches, skipped = _applicable(loaded.patches, base)
        overlay = series.applied(replace(loaded, patches=patches), base)
    with cache.writing(tree):
        shutil.copytree(base / scope.VFIO, tree / scope.VFIO)
        # What headers include by a quoted name, and what decides where a uapi header belongs.
        shutil.copytree(base / "include/linux", tree / "include/linux")
        shutil.copytree(base / "include/uapi/linux", tree / "include/uapi/linux")
    overlay.write(tree)
    touched = tuple(sorted(overlay.files))
    chosen = scope.choose(tree, touched, work, whole=whole)
    return Revision(name, base, tree, work, touched, loaded, patches, skipped, chosen)


def _applicable(patches: Sequence[Patch], base: Path) -> tuple[tuple[Patch, ...], tuple[str, ...]]:
    """Leave out of ``patches`` what is about files of which the sources here have no part.

    The cache has the drivers and their headers only; documentation that a series changes would
    need the whole source package, and changes no module.
    """
    kept, skipped = [], set()
    made: set[str] = set()
    for patch in patches:
        diffs = []
        for diff in patch.diffs:
            old = diff.old
            if (
                old is not None
                and not old.startswith(_PARTS)
                and old not in made
                and not (base / old).exists()
            ):
                skipped.add(old)
                continue
            if diff.new is not None:
                made.add(diff.new)
            diffs.append(diff)
        if diffs:
            kept.append(replace(patch, diffs=tuple(diffs)))
    return tuple(kept), tuple(sorted(skipped))


def widened(revision: Revision) -> Revision:
    """Return ``revision`` with all of drivers/vfio to be built."""
    chosen = scope.choose(revision.tree, revision.touched, revision.work, whole=True)
    return replace(revision, scope=chosen)


def full_tree(revision: Revision) -> Path:
    """Return a kernel tree of ``revision`` that headers can be installed and compared from.

    What the series does not touch is the same file as in the base, where the disk allows it.
    """
    tree = revision.work / "full"
    if not tree.exists():
        with cache.writing(tree):
            for part in ("include", "arch", "scripts"):
                if (revision.base / part).is_dir():
                    shutil.copytree(
                        revision.base / part, tree / part, symlinks=True, copy_function=cache.put
                    )
            series.applied(applicable(revision), revision.base).write(tree)
    return tree


def applicable(revision: Revision) -> Series:
    """Return the series of ``revision`` as it is applied; that of the stock drivers is empty."""
    if revision.series is None:
        return series.Series(revision.base, ())
    return replace(revision.series, patches=revision.patches)


def built(
    revision: Revision, goal: Target, progress: Progress, symvers: Sequence[Path] = ()
) -> Built:
    """Build ``revision`` for the kernel ``goal``, or take it from the cache.

    Raises:
        Error: it does not build; the message has the compiler's lines.
    """
    try:
        return build.build(revision.scope.recipe, goal.headers, progress, symvers=symvers)
    except Error as error:
        if revision.series is None:
            raise
        raise Error(f"{revision.name}: {error}", error.hint) from None
