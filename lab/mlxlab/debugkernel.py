# SPDX-License-Identifier: GPL-2.0-or-later
"""Debug kernels: built once from Debian's source package, kept in the cache as build trees.

``debug/NAME/tree`` has what ``--kernel-dir`` takes, without what only the build needed. While it is
built it is in ``work/NAME``, where an interrupted build goes on.

A patch series makes a kernel of its own, ``NAME+FOLDER``. Where it changes nothing that the kernel
without it was built from, only the vfio modules are built, in that kernel's tree.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings import resources
from genbindings.errors import Error, UsageError
from mlxlab import kernelbuild, kerneldir, kernelprune
from mlxpatch import cache, kernels
from mlxpatch import series as patches

if TYPE_CHECKING:
    from mlxlab.boot import Boot
    from mlxlab.table import Entry
    from mlxpatch.progress import Progress
    from mlxpatch.series import Series

# Part of the key: raise it when the way of building changes.
_FORMAT = 1
_INFO = "info.json"
# The checkers themselves run without the compiler's checks, which would double the guest's time.
_UNCHECKED = ("debugobjects", "kmemleak", "lockdep", "unwind_frame")
_MAKE = [
    *("bzImage", "modules"),
    *(f"KASAN_SANITIZE_{name}.o=n" for name in _UNCHECKED),
    *(f"UBSAN_SANITIZE_{name}.o=n" for name in _UNCHECKED),
]


@dataclass(frozen=True)
class Built:
    """A debug kernel in the cache.

    Attributes:
        name: what ``--kernel`` takes.
        version: Debian's, of the source package.
        release: as ``uname -r`` says it.
        config: hash of the configuration's fragment.
        series: the folder of the patch series, if any.
        digest: hash of its patches.
    """

    name: str
    version: str
    release: str
    config: str
    series: str = ""
    digest: str = ""

    @property
    def tree(self) -> Path:
        """Its build tree."""
        return _folder(self.name) / "tree"


def find(name: str) -> Built | None:
    """Return the debug kernel ``name`` if it is built."""
    try:
        info = json.loads((_folder(name) / _INFO).read_text())
        return Built(**{field: str(info[field]) for field in Built.__dataclass_fields__})
    except (OSError, ValueError, KeyError):
        return None


def variants(name: str) -> list[Built]:
    """Return the kernels that are ``name`` with a patch series."""
    folders = sorted((cache.root() / "debug").glob(f"{name}+*"))
    return [built for folder in folders if (built := find(folder.name))]


def news(built: Built, entry: Entry) -> str:
    """Return why ``built`` is not what would be built now, or nothing."""
    again = f"mlxlab kernel build {entry.name.partition('+')[0]}"
    folder = Path(built.series)
    if built.series:
        again += f" --series {folder}"
    if built.config != _digest(_fragment(entry)):
        return f"{built.name} was built with an older configuration; to build it anew: {again}"
    there = built.series and (folder / "series").is_file()
    if there and patches.read(folder).digest() != built.digest:
        return f"{folder} has changed since {built.name} was built; to build it anew: {again}"
    return ""


def prepare(entry: Entry, progress: Progress, *, device: str = "mlx5") -> Boot:
    """Return what boots the debug kernel ``entry``.

    Raises:
        Error: it is not built, or the lab's modules do not build for it.
    """
    built = find(entry.name)
    if built is None:
        raise Error(f"{entry.name} is {entry.obstacle}")
    note = news(built, entry)
    if note:
        progress.note(note)
    return kerneldir.prepare(built.tree, progress, device=device)


def build(entry: Entry, folder: Path | None, progress: Progress, *, offline: bool = False) -> Built:
    """Build the kernel ``entry``, with the patch series in ``folder`` if there is one.

    What is built already is returned as it is. The sources are downloaded unless ``offline``.

    Raises:
        Error: tools are missing, a patch does not apply, or something does not build.
    """
    kernelbuild.check_tools()
    series = patches.read(folder.resolve()) if folder else None
    version, deb = kernels.ensure_archive(entry.series, progress, offline=offline)
    name = f"{entry.name}+{_label(series)}" if series else entry.name
    wanted = Built(
        name,
        version,
        "",
        _digest(_fragment(entry)),
        str(series.folder) if series else "",
        series.digest() if series else "",
    )
    waiting = f"waiting for another build of {entry.name}"
    with cache.locked(f"debug-{entry.name}", lambda: progress.note(waiting)):
        if not series:
            return _whole(entry, wanted, deb, None, progress)
        built = _current(wanted)
        if built:
            return built
        source, touched = _unpack(wanted, deb, entry, series, progress)
        if not kernelprune.modules_only(touched):
            return _whole(entry, wanted, deb, series, progress)
        plain = Built(entry.name, version, "", wanted.config)
        base = _whole(entry, plain, deb, None, progress)
        if kernelprune.inputs(_folder(base.name)) & touched:
            return _whole(entry, wanted, deb, series, progress)
        return _modules(base, wanted, source, touched, progress)


def _label(series: Series) -> str:
    label = series.folder.name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", label):
        raise UsageError(
            f"{series.folder}: the folder's name becomes part of the kernel's, and cannot",
            "letters, digits, '.', '_' and '-' will do",
        )
    return label


def _current(wanted: Built) -> Built | None:
    built = find(wanted.name)
    return built if built and {**asdict(built), "release": ""} == asdict(wanted) else None


def _unpack(
    wanted: Built, deb: Path, entry: Entry, series: Series | None, progress: Progress
) -> tuple[Path, set[str]]:
    """Return the sources to build ``wanted`` in, and which of them the series touched."""
    work = cache.root() / "work" / wanted.name
    stamp = json.dumps([_FORMAT, asdict(wanted)])
    state = work / "state.json"
    if not state.is_file() or json.loads(state.read_text())["stamp"] != stamp:
        with cache.publish(work) as partial:
            source = partial / "source"
            source.mkdir()
            with progress.stage(f"unpacking linux-source-{entry.series} {wanted.version}"):
                kernels.unpack_source(deb, entry.series, source)
            touched = patches.apply(series, source) if series else set()
            (partial / "state.json").write_text(
                json.dumps({"stamp": stamp, "touched": sorted(touched)})
            )
    return work / "source", set(json.loads(state.read_text())["touched"])


def _whole(
    entry: Entry, wanted: Built, deb: Path, series: Series | None, progress: Progress
) -> Built:
    built = _current(wanted)
    if built:
        return built
    source, _ = _unpack(wanted, deb, entry, series, progress)
    log = source.parent / "build.log"
    what = f"building Linux {wanted.version} as {wanted.name} (10 minutes on two CPUs)"
    try:
        with progress.stage(what) as stage:
            kernelbuild.configure(source, _fragment(entry), log)
            kernelbuild.make(
                source,
                _MAKE,
                log,
                on_step=lambda steps: stage.update(f"{min(100 * steps // entry.steps, 99)} %"),
            )
    except BaseException:
        progress.note(f"{source.parent} is kept: the same command goes on where this one stopped")
        raise
    with (
        progress.stage("putting away what only the build needed"),
        cache.publish(_folder(wanted.name)) as partial,
    ):
        # From here on it cannot be gone on with.
        (source.parent / "state.json").unlink()
        kernelprune.prune(source, partial)
        built = _finish(wanted, partial)
    shutil.rmtree(source.parent, ignore_errors=True)
    return built


def _modules(
    base: Built, wanted: Built, source: Path, touched: set[str], progress: Progress
) -> Built:
    log = source.parent / "build.log"
    with cache.publish(_folder(wanted.name)) as partial:
        tree = partial / "tree"
        kernelprune.copy(base.tree, source, touched, tree)
        with progress.stage(f"building the vfio modules of {wanted.name}"):
            kernelbuild.make(tree, [f"M={kernelprune.VFIO}", "modules"], log)
        kernelprune.merge(base.tree, tree)
        shutil.copy2(_folder(base.name) / kernelprune.INPUTS, partial)
        built = _finish(wanted, partial)
    shutil.rmtree(source.parent, ignore_errors=True)
    return built


def _finish(wanted: Built, partial: Path) -> Built:
    release = (partial / "tree/include/config/kernel.release").read_text().strip()
    built = Built(**{**asdict(wanted), "release": release})
    (partial / _INFO).write_text(json.dumps(asdict(built), indent=1) + "\n")
    return built


def _folder(name: str) -> Path:
    return cache.root() / "debug" / name


def _fragment(entry: Entry) -> Path:
    if entry.config is None:
        raise UsageError(f"kernel {entry.name} is none that is built here")
    return resources.find(entry.config)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
