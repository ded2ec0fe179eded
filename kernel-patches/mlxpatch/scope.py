# SPDX-License-Identifier: GPL-2.0-or-later
"""What is built of a tree that a series was applied to: the smallest set of modules that fits.

A series inside drivers/vfio/pci/mlx5 needs that driver alone. Anything else below drivers/vfio, or
a header that the VFIO core shares, needs the whole of drivers/vfio: its modules then check each
other's symbols when they are loaded.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxpatch import cache
from mlxpatch.build import Recipe, stock_driver

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

VFIO = "drivers/vfio"
DRIVER = "drivers/vfio/pci/mlx5"
# Headers of the card that nothing in drivers/vfio but its driver includes.
_CARD = "include/linux/mlx5/"
# Those of them that describe firmware; the rest describes what mlx5_core has in memory.
_FIRMWARE = ("mlx5_ifc.h", "mlx5_ifc_fpga.h", "mlx5_ifc_vdpa.h", "device.h")
# What takes part in no build.
_TEXTS = re.compile(r"Documentation/|samples/|tools/|MAINTAINERS$|.*\.(rst|txt|yaml)$|.*/Kconfig$")
_QUOTED = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class Scope:
    """What to build, and what a series has that this build does not show.

    Attributes:
        recipe: what to give to :func:`mlxpatch.build.build`.
        places: the folders of the kernel that it builds.
        headers: the series' headers that take precedence, as paths in the tree.
        remarks: sentences on files that are not part of the build.
    """

    recipe: Recipe
    places: tuple[str, ...]
    headers: tuple[str, ...]
    remarks: tuple[str, ...]


def choose(tree: Path, touched: Collection[str], work: Path, *, whole: bool = False) -> Scope:
    """Return what to build of ``tree``, whose files ``touched`` a series has changed.

    The headers that are to take precedence are copied to ``work/include``. ``whole`` asks for all
    of drivers/vfio, whatever was touched.

    Raises:
        Error: the tree has no such driver, or nothing that was touched can be built as a module.
    """
    headers = sorted(name for name in touched if _is_header(name) and (tree / name).is_file())
    sources = [
        name for name in touched if not name.startswith("include/") and not _TEXTS.match(name)
    ]
    outside = sorted(name for name in sources if not name.startswith(f"{VFIO}/"))
    if touched and not headers and len(outside) == len(sources):
        raise Error(
            f"the series touches nothing that is built as a VFIO module: {min(touched)}",
            "modules are built of drivers/vfio and the headers in include/",
        )
    whole = whole or any(
        name.startswith(f"{VFIO}/") and not name.startswith(f"{DRIVER}/") for name in sources
    )
    whole = whole or any(not name.startswith(_CARD) for name in headers)
    recipe = stock_driver(tree)
    places: tuple[str, ...] = (DRIVER,)
    if whole:
        places = (VFIO,)
        recipe = Recipe("vfio", {VFIO: tree / VFIO}, recipe.config)
    if headers:
        overlay = work / "include"
        _overlay(tree, headers, overlay)
        recipe = Recipe(recipe.name, recipe.folders, recipe.config, (overlay,))
    return Scope(recipe, places, tuple(headers), tuple(_remarks(outside, headers)))


def _is_header(name: str) -> bool:
    return name.startswith("include/") and name.endswith(".h")


def _remarks(outside: Collection[str], headers: Collection[str]) -> Iterator[str]:
    for name in outside:
        yield f"{name} is not built: only drivers/vfio is"
    for name in headers:
        if name.startswith(_CARD) and Path(name).name not in _FIRMWARE:
            yield (
                f"{name} is shared with mlx5_core, which is not rebuilt: a struct that changed "
                "there is not the same on both sides"
            )


def _overlay(tree: Path, headers: Collection[str], target: Path) -> None:
    """Copy ``headers`` to a folder that can precede the kernel's own include folders."""
    pending = list(headers)
    done: set[str] = set()
    while pending:
        name = pending.pop()
        if name in done:
            continue
        done.add(name)
        inside = name.removeprefix("include/")
        _copy(tree / name, target / inside)
        # <linux/x.h> means include/uapi/linux/x.h where include/linux has none. A folder uapi in
        # front of the kernel's own ones would hide those that exist in both.
        short = inside.removeprefix("uapi/")
        if short != inside and not (tree / "include" / short).exists():
            _copy(tree / name, target / short)
        # A quoted name is looked for beside the header that has it, so its file goes along.
        text = (tree / name).read_text(encoding="utf-8", errors="replace")
        for quoted in _QUOTED.findall(text):
            neighbour = Path(name).parent / quoted
            if (tree / neighbour).is_file():
                pending.append(str(neighbour))


def _copy(source: Path, target: Path) -> None:
    with cache.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
