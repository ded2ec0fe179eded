# SPDX-License-Identifier: GPL-2.0-or-later
"""The carried series with all mistakes in it: which one is made is a parameter of vfio.ko."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlxpatch import build, drivers, kernels, series
from mlxpatch.apply import Overlay, apply_patch
from mlxpatch.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlxpatch.build import Built
    from mlxpatch.series import Patch

FOLDER = Path(__file__).resolve().parent
SELECTOR = "selector"
CARRIED = FOLDER.parent.parent.parent / "kernel-patches/linux-6.1"


def patch(name: str) -> Patch:
    """Return the patch that makes the mistake ``name`` possible."""
    return series.make(f"{name}.patch", (FOLDER / f"{name}.patch").read_bytes())


def names() -> list[str]:
    """Return the names of all mistakes that there is a patch for."""
    return sorted(file.stem for file in FOLDER.glob("*.patch") if file.stem != SELECTOR)


def carried() -> Overlay:
    """Return the sources of 6.1 with the carried series and the parameter, in memory.

    Raises:
        Error: the sources cannot be had.
    """
    overlay = series.applied(
        series.read(CARRIED), kernels.ensure_source("6.1", Progress("tests")).root
    )
    apply_patch(patch(SELECTOR), overlay)
    return overlay


def modules(mistakes: Iterable[str]) -> Built:
    """Build all of drivers/vfio for the lab's kernel with ``mistakes``, or take it from the cache.

    Raises:
        Error: a patch does not apply, or the compiler refuses what came of them.
    """
    progress = Progress("tests")
    kernel, source = kernels.ensure("6.1", progress)
    firmware = build.build(build.lab_firmware(), kernel.headers, progress)
    goal = drivers.Target(kernel.release, kernel.headers, source.root, kernel.modules)
    with drivers.prepared(CARRIED, source.root, progress, whole=True) as revision:
        overlay = Overlay(revision.tree)
        for name in (SELECTOR, *mistakes):
            apply_patch(patch(name), overlay)
        overlay.write()
        return drivers.built(revision, goal, progress, [firmware.symvers])
