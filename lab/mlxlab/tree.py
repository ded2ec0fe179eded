# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel of the table boots with: its module tree, with the lab's modules on top."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxpatch import build, cache, kernels

if TYPE_CHECKING:
    from pathlib import Path

    from mlxlab.table import Entry
    from mlxpatch.kernels import Kernel
    from mlxpatch.progress import Progress

# Their symbols are the stand-in's too, and depmod would pick either; the card is not there anyway.
_LEFT_OUT = (
    "kernel/drivers/infiniband/hw/mlx5",
    "kernel/drivers/net/ethernet/mellanox/mlx5",
    "kernel/drivers/vdpa/mlx5",
    "kernel/drivers/vfio/pci/mlx5",
)
_KEEP_TREES = 4
# Part of the key: change it when a tree is made up in another way.
_LAYOUT = "build and source"


@dataclass(frozen=True)
class Boot:
    """What the VM is started with."""

    release: str
    image: Path
    modules: Path  # the guest's /lib/modules/RELEASE


def prepare(entry: Entry, progress: Progress, *, offline: bool = False) -> Boot:
    """Download (unless ``offline``), build and assemble what is missing for ``entry``.

    Raises:
        Error: something is missing or does not build.
    """
    kernel, source = kernels.ensure(entry.series, progress, offline=offline)
    firmware = build.build(build.lab_firmware(), kernel.headers, progress)
    driver = build.build(
        build.stock_driver(source.root), kernel.headers, progress, symvers=[firmware.symvers]
    )
    return assemble(kernel, [*firmware.modules, *driver.modules], progress)


def assemble(kernel: Kernel, modules: list[Path], progress: Progress) -> Boot:
    """Return the module tree of ``kernel`` with ``modules`` in its updates folder.

    The kernel's own modules are hard links to the unpacked package.
    """
    text = "\0".join(
        [_LAYOUT, kernel.release, kernel.version, *_LEFT_OUT, *map(str, sorted(modules))]
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
    left_out = {str(kernel.modules / folder) for folder in _LEFT_OUT}

    def ignore(parent: str, names: list[str]) -> set[str]:
        gone = {name for name in names if f"{parent}/{name}" in left_out}
        return gone | ({"build", "source"} & set(names) if parent == str(kernel.modules) else set())

    with cache.publish(root) as partial:
        (partial / "boot").mkdir()
        cache.link(kernel.image, partial / "boot" / kernel.image.name)
        tree = partial / "lib/modules" / kernel.release
        shutil.copytree(kernel.modules, tree, copy_function=cache.link, ignore=ignore)
        # modules.order lists what was left out; without it depmod would warn.
        updates = tree / "updates"
        updates.mkdir()
        for module in modules:
            cache.link(module, updates / module.name)
        # bcc compiles against both: Debian splits the headers in two.
        for link in ("build", "source"):
            (tree / link).symlink_to((kernel.modules / link).resolve())
        done = subprocess.run(
            ["/sbin/depmod", "-b", partial, kernel.release], capture_output=True, text=True
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()
            raise Error(f"depmod failed: {said[-1] if said else done.returncode}")
