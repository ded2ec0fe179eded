# SPDX-License-Identifier: GPL-2.0-or-later
"""What the VM boots: an image, and the modules that become the guest's /lib/modules/RELEASE."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxpatch import cache

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# Their symbols are the stand-in's too, and depmod would pick either; the card is not there anyway.
LEFT_OUT = (
    "kernel/drivers/infiniband/hw/mlx5",
    "kernel/drivers/net/ethernet/mellanox/mlx5",
    "kernel/drivers/vdpa/mlx5",
    "kernel/drivers/vfio/pci/mlx5",
)


@dataclass(frozen=True)
class Boot:
    """What the VM is started with.

    Attributes:
        release: as ``uname -r`` says it.
        image: the kernel.
        modules: the guest's /lib/modules/RELEASE.
        slowness: how many times longer than a usual kernel it takes; watchdogs wait as much longer.
    """

    release: str
    image: Path
    modules: Path
    slowness: float = 1.0


def finish(
    partial: Path, release: str, image: Path, updates: Iterable[Path], links: Mapping[str, Path]
) -> None:
    """Add to the kernel's own modules in ``partial`` what else belongs to a tree of the lab.

    The image is linked to ``boot/vmlinuz-RELEASE``, the modules ``updates`` to the folder of that
    name, which depmod prefers; ``links`` are links beside them.

    Raises:
        Error: depmod failed.
    """
    (partial / "boot").mkdir()
    cache.put(image, partial / "boot" / f"vmlinuz-{release}")
    tree = partial / "lib/modules" / release
    # modules.order lists what was left out; without it depmod would warn.
    (tree / "updates").mkdir()
    for module in updates:
        cache.put(module, tree / "updates" / module.name)
    for name, target in links.items():
        (tree / name).symlink_to(target)
    done = subprocess.run(["/sbin/depmod", "-b", partial, release], capture_output=True, text=True)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise Error(f"depmod failed: {said[-1] if said else done.returncode}")
