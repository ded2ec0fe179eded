# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a header is: a path, a kernel tree, the compiler's include path, installed kernel headers.

In this order: ``--include`` directories, the ``--kernel`` tree, the compiler's include path, the
running kernel's build and source trees, the newest /usr/src/linux-headers-*-common, the kernel
sources in the cache. The caller says which file it was.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from genbindings.compiler import Compiler

# Folders below an include directory where a bare name is looked for, the most usual first.
_FOLDERS = (
    "",
    "linux",
    "linux/mlx5",
    "rdma",
    "drm",
    "sound",
    "asm",
    "asm-generic",
    "misc",
    "mtd",
    "scsi",
    "scsi/fc",
    "video",
    "xen",
    "linux/can",
    "linux/dvb",
    "linux/netfilter",
    "linux/usb",
)


@dataclass(frozen=True, slots=True)
class Located:
    """A header as found: its path, and the kernel tree it belongs to, if it is in one."""

    path: Path
    tree: Path | None

    @property
    def name(self) -> str:
        """The header's base name."""
        return self.path.name


def cache() -> Path:
    """Return this distribution's folder in the user's cache: ``~/.cache/mlxtrace``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlxtrace"


def kernel_tree(name: str, base: Path) -> Path:
    """Return the kernel tree ``name``: a folder (below ``base``), or a source package in the cache.

    Raises:
        Error: it is neither.
    """
    for path in (base / name, cache() / "sources" / name):
        if (path / "include").is_dir():
            return path
    raise Error(
        f"{name}: no such kernel tree, and no such source package in the cache",
        f"unpack it, or let mlxpatch and mlxlab download it to {cache() / 'sources'}",
    )


def locate(
    header: str, compiler: Compiler, *, includes: Sequence[Path] = (), kernel: Path | None = None
) -> Located:
    """Find ``header``: a path with or without a directory, or a bare name.

    With ``kernel``, nowhere but there (and in ``includes``).

    Raises:
        Error: it is in none of the places, or the kernel tree is not one.
    """
    if kernel is not None and not (kernel / "include").is_dir():
        raise Error(f"{kernel} is not a kernel tree: it has no include folder")
    direct = Path(header)
    if kernel is None and ("/" in header or direct.is_file()) and direct.is_file():
        path = direct.resolve()
        return Located(path, tree_of(path))
    searched: list[Path] = []
    for folder, tree in _places(compiler, includes, kernel):
        searched.append(folder)
        for below in _FOLDERS:
            path = folder / below / header
            if path.is_file():
                return Located(path.resolve(), tree)
    where = "kernel tree " + str(kernel) if kernel else f"{len(searched)} include directories"
    raise Error(
        f"{header}: no such header in the {where}" if kernel else f"{header}: not found in {where}",
        "give a path, --include DIR, or --kernel DIR; or install linux-libc-dev or linux-headers",
    )


def _places(
    compiler: Compiler, includes: Sequence[Path], kernel: Path | None
) -> Iterator[tuple[Path, Path | None]]:
    for folder in includes:
        yield folder, None
    if kernel is not None:
        yield from _tree(kernel)
        return
    for folder in compiler.include_path:
        yield folder, None
    modules = Path("/lib/modules") / os.uname().release
    for tree in (modules / "source", modules / "build", *_installed_headers(), *_cached_sources()):
        if (tree / "include").is_dir():
            yield from _tree(tree)


def _tree(tree: Path) -> Iterator[tuple[Path, Path | None]]:
    tree = tree.resolve()
    yield tree / "include/uapi", tree
    yield tree / "include", tree


def _installed_headers() -> list[Path]:
    return _newest(Path("/usr/src").glob("linux-headers-*-common"))


def _cached_sources() -> list[Path]:
    return _newest((cache() / "sources").glob("linux-source-*"))


def _newest(paths: Iterator[Path]) -> list[Path]:
    def version(path: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", path.name)]

    return sorted(paths, key=version, reverse=True)


def tree_of(path: Path) -> Path | None:
    """Return the kernel tree that has ``path`` below its include folder, or None."""
    for parent in path.parents:
        if parent.name == "include" and (parent.parent / "scripts/headers_install.sh").is_file():
            return parent.parent
    return None
