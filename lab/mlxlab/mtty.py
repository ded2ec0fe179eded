# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's sample driver mtty (samples/vfio-mdev/mtty.c): a device to migrate that is not mlx5.

Two serial ports on no hardware, as a mediated device. From Linux 6.7 on it has migration, with
PRE_COPY. Distributions do not build it; mdev.ko, which it stands on, they have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genbindings.errors import Error, UsageError
from mlxpatch import build

if TYPE_CHECKING:
    from pathlib import Path

MODULES = ("vfio_iommu_type1", "mdev", "mtty")
MAX_DEVICES = 12
"""It has 24 ports in all (MAX_MTTYS), and a device of the lab's takes two."""
_PLACE = "samples/vfio-mdev"


def recipe(source: Path, what: str) -> build.Recipe:
    """Return how to build it from the kernel sources ``source``.

    Raises:
        Error: ``what``, as the message calls it, has no mtty, or one without migration.
    """
    try:
        text = (source / _PLACE / "mtty.c").read_text(encoding="utf-8", errors="replace")
    except OSError:
        raise Error(
            f"{what} has no mtty: {source} has no {_PLACE}/mtty.c", "take a kernel that has it"
        ) from None
    if "vfio_migration_ops" not in text:
        raise Error(
            f"the mtty driver of {what} offers no migration",
            "it came with Linux 6.7: --kernel upstream-6.12",
        )
    return build.Recipe("mtty", {_PLACE: source / _PLACE}, {"CONFIG_SAMPLE_VFIO_MDEV_MTTY": "m"})


def check_count(devices: int) -> None:
    """Check that so many devices can be made.

    Raises:
        UsageError: they are more than it has ports for.
    """
    if devices > MAX_DEVICES:
        raise UsageError(
            f"--vfs {devices}: mtty has ports for {MAX_DEVICES} devices", "ask for fewer"
        )
