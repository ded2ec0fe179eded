# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel of the table boots with: its module tree, with the lab's modules on top."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

from mlxlab import boot, debugkernel, kerneldir, mtty, needs
from mlxlab.boot import Boot as Boot  # for those who look for it here
from mlxpatch import build, cache, drivers, kernels

if TYPE_CHECKING:
    from pathlib import Path

    from mlxlab.table import Entry
    from mlxpatch.build import Built
    from mlxpatch.kernels import Kernel
    from mlxpatch.progress import Progress

_KEEP_TREES = 4
# Part of the key: change it when a tree is made up in another way.
_LAYOUT = "build and source"


def prepare(
    entry: Entry, progress: Progress, *, device: str = "mlx5", offline: bool = False
) -> Boot:
    """Download (unless ``offline``), build and assemble what is missing for ``entry``.

    ``device`` is what the guest is to have: ``mlx5`` or ``mtty``.

    Raises:
        Error: something is missing or does not build.
    """
    if entry.folder is not None:
        return kerneldir.prepare(entry.folder, progress, device=device)
    if entry.config:
        return debugkernel.prepare(entry, progress, device=device)
    kernel, source = kernels.ensure(entry.series, progress, offline=offline)
    name = f"Debian's Linux {entry.series}"
    sources = f"{name} (linux-source-{entry.series})"
    stock = (
        mtty.recipe(source.root, sources)
        if device == "mtty"
        else needs.driver(source.root, sources)
    )
    needs.check(
        f"{name} (linux-image-{kernel.release})",
        (kernel.root / "boot" / f"config-{kernel.release}").read_text(errors="replace"),
        needs.module_names((kernel.modules / "modules.order").read_text()),
        progress,
        "take another kernel of the table: mlxlab kernels",
        device=device,
    )
    if device == "mtty":
        return assemble(kernel, [*build.build(stock, kernel.headers, progress).modules], progress)
    firmware = build.build(build.lab_firmware(), kernel.headers, progress)
    series = entry.spec or entry.carried
    if series:
        driver = _patched(series, kernel, source.root, firmware, progress)
    else:
        driver = build.build(stock, kernel.headers, progress, symvers=[firmware.symvers])
    return assemble(kernel, [*firmware.modules, *driver.modules], progress)


def _patched(
    series: str | Path, kernel: Kernel, source: Path, firmware: Built, progress: Progress
) -> Built:
    """Build all of drivers/vfio with ``series``, or take it from the cache.

    The cache knows it by the patched files: a series that is the same in those is the same.
    """
    goal = drivers.Target(kernel.release, kernel.headers, source, kernel.modules)
    with drivers.prepared(series, source, progress, whole=True) as revision:
        driver = drivers.built(revision, goal, progress, [firmware.symvers])
        for remark in revision.remarks if driver.fresh else ():
            progress.note(remark)
    return driver


def assemble(kernel: Kernel, modules: list[Path], progress: Progress) -> Boot:
    """Return the module tree of ``kernel`` with ``modules`` in its updates folder.

    The kernel's own modules are hard links to the unpacked package.
    """
    text = "\0".join(
        [_LAYOUT, kernel.release, kernel.version, *boot.LEFT_OUT, *map(str, sorted(modules))]
    )
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    root = cache.root() / "trees" / f"{kernel.release}-{key}"
    with cache.locked(f"tree-{root.name}"):
        if not root.exists():
            with progress.stage(f"assembling the modules of {kernel.release}"):
                _assemble(kernel, modules, root)
        cache.touch(root)
    cache.prune(root.parent, f"{kernel.release}-*", _KEEP_TREES)
    place = f"lib/modules/{kernel.release}"
    return Boot(kernel.release, root / "boot" / kernel.image.name, root / place)


def _assemble(kernel: Kernel, modules: list[Path], root: Path) -> None:
    left_out = {str(kernel.modules / folder) for folder in boot.LEFT_OUT}

    def ignore(parent: str, names: list[str]) -> set[str]:
        gone = {name for name in names if f"{parent}/{name}" in left_out}
        return gone | ({"build", "source"} & set(names) if parent == str(kernel.modules) else set())

    with cache.publish(root) as partial:
        tree = partial / "lib/modules" / kernel.release
        shutil.copytree(kernel.modules, tree, copy_function=cache.put, ignore=ignore)
        # bcc compiles against both: Debian splits the headers in two.
        links = {link: (kernel.modules / link).resolve() for link in ("build", "source")}
        boot.finish(partial, kernel.release, kernel.image, modules, links)
