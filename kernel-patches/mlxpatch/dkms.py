# SPDX-License-Identifier: GPL-2.0-or-later
"""A DKMS source package: the patched sources, and what dkms needs to build them for each kernel."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings import resources
from genbindings.errors import Error
from mlxpatch import build, cache

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from mlxpatch.drivers import Revision

NAME = "mlx5-vfio-pci"
CONF = "dkms.conf"
_INCLUDE = "include"
# What the modules need of a kernel's configuration; VFIO's own options come from the kernel.
_OPTIONS = ("CONFIG_MODULES", "CONFIG_MLX5_CORE", "CONFIG_VFIO_PCI_CORE")


@dataclass(frozen=True)
class Place:
    """A module and the folder of the package that its Makefile is in."""

    name: str
    place: str


def default_version(revision: Revision, series: str) -> str:
    """Return a version that changes with the kernel series and with the patches' text."""
    if revision.series is None:
        return series
    return f"{series}+{revision.series.digest()[:8]}"


def write(
    revision: Revision, modules: Iterable[str], series: str, version: str, output: Path
) -> list[Place]:
    """Write the package of ``revision`` to the folder ``output``; return its modules.

    Args:
        revision: what to package.
        modules: the names of the modules that it builds, without ``.ko``.
        series: the kernel series that the sources are of, ``6.1`` say.
        version: the package's.
        output: a new or empty folder, or an older package of this kind, which is replaced.

    Raises:
        Error: the folder holds something else, the version cannot be one, or no Makefile builds a
            module.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+~_-]*", version):
        raise Error(
            f"{version!r} cannot be a version of a DKMS package", "use letters, digits, .+~_-"
        )
    target = output.absolute()
    if target.is_dir() and any(target.iterdir()) and not _is_ours(target):
        raise Error(
            f"{output} is not empty, and not a package that mlxpatch dkms made",
            "give a folder that does not exist yet",
        )
    with cache.publish(target) as partial:
        recipe = revision.scope.recipe
        for place, folder in recipe.folders.items():
            shutil.copytree(folder, partial / place, ignore=build.products)
        for folder in recipe.includes:
            shutil.copytree(folder, partial / _INCLUDE, dirs_exist_ok=True)
        places = [_find(name, recipe.folders, partial) for name in sorted(modules)]
        values = {
            "name": NAME,
            "version": version,
            "series": series,
            "kernels": rf"^{re.escape(series)}\.",
            "options": _OPTIONS,
            "config": recipe.config,
            "modules": places,
            "headers": revision.scope.headers,
            "patches": [patch.subject for patch in revision.series.patches]
            if revision.series
            else [],
            "folders": recipe.folders,
            "includes": [f"$(abspath $(src))/{_INCLUDE}"] if recipe.includes else [],
        }
        for template, file in (
            ("dkms.conf.j2", CONF),
            ("dkms-readme.j2", "README"),
            ("modules.Kbuild.j2", "Kbuild"),
        ):
            text = resources.environment().get_template(template).render(values)
            (partial / file).write_text(text)
    return places


def _is_ours(folder: Path) -> bool:
    try:
        return f'PACKAGE_NAME="{NAME}"' in (folder / CONF).read_text()
    except OSError:
        return False


def _find(module: str, folders: Iterable[str], package: Path) -> Place:
    """Return where ``module`` is built, by the Makefile that has it among its obj- lists."""
    pattern = re.compile(rf"^\s*obj-\S+\s*[+:]?=.*(?<![\w-]){re.escape(module)}\.o\b", re.MULTILINE)
    for makefile in _makefiles(package / folder for folder in folders):
        text = makefile.read_text(errors="replace").replace("\\\n", " ")
        if pattern.search(text):
            return Place(module, str(makefile.parent.relative_to(package)))
    raise Error(f"no Makefile of the sources builds {module}.ko")


def _makefiles(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        for name in ("Kbuild", "Makefile"):
            yield from sorted(folder.rglob(name))
