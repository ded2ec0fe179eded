# SPDX-License-Identifier: GPL-2.0-or-later
"""What of a kernel's build tree is kept: enough to boot it, and to build modules and BPF programs.

Also what was built from what: a patch series that touches nothing that the kernel itself was built
from needs no other kernel, only other modules.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

VFIO = "drivers/vfio"
INPUTS = "inputs"
_FILES = (
    ".config",
    "Makefile",
    "Module.symvers",
    "System.map",
    "arch/x86/Makefile",
    "arch/x86/Makefile_32.cpu",
    "arch/x86/boot/bzImage",
    "modules.builtin",
    "modules.builtin.modinfo",
    "modules.order",
    "tools/objtool/objtool",
)
_FOLDERS = ("arch/x86/include", "include", "scripts", VFIO)
# Thousands of empty files: only the kernel's own build looks at them.
_CONFIG = "include/config"
_CONFIG_FILES = ("auto.conf", "kernel.release")
_PRODUCTS = (".o", ".a", ".cmd", ".mod", ".mod.c", ".d")
# What is built where nothing notes it, or decides what is built at all.
_DECIDING = re.compile(
    r"(?:^|/)(?:Kconfig[^/]*|Makefile[^/]*|Kbuild[^/]*)$|^(?:scripts|tools|usr)/"
)


def prune(source: Path, target: Path) -> None:
    """Move what is kept of the finished build in ``source`` to ``target/tree``.

    ``target/inputs`` lists the files that the kernel itself was built from.
    """
    (target / INPUTS).write_text("".join(f"{name}\n" for name in sorted(_inputs(source))))
    tree = target / "tree"
    modules = [line.strip() for line in (source / "modules.order").read_text().splitlines()]
    for name in (*_FILES, *_FOLDERS, *modules):
        if not (tree / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).rename(tree / name)
    for path in (tree / _CONFIG).iterdir():
        if path.name not in _CONFIG_FILES:
            path.unlink()
    _sweep(tree)


def _sweep(folder: Path) -> None:
    """Remove what a build left in ``folder`` on its way."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.endswith(_PRODUCTS) and name != "module.lds":
                Path(parent, name).unlink()


def _inputs(source: Path) -> set[str]:
    found = set()
    for parent, folders, names in os.walk(source):
        if os.path.relpath(parent, source) == "drivers" and "vfio" in folders:
            folders.remove("vfio")
        for name in names:
            if name.startswith(".") and name.endswith(".cmd"):
                text = Path(parent, name).read_text(errors="replace")
                found |= set(re.findall(r"^(?:source_\S+ := |  )([\w./-]+)", text, re.MULTILINE))
    return found


def inputs(folder: Path) -> set[str]:
    """Return the files that the kernel in ``folder`` was built from, its modules' left out."""
    return set((folder / INPUTS).read_text().split())


def modules_only(touched: set[str]) -> bool:
    """Return whether changes of these files may be such that only vfio modules change."""
    return not any(_DECIDING.search(name) for name in touched if not _is_vfio_makefile(name))


def _is_vfio_makefile(name: str) -> bool:
    return name.startswith(f"{VFIO}/") and name.endswith("/Makefile")


def copy(base: Path, source: Path, touched: set[str], target: Path) -> None:
    """Make ``target`` the kept tree ``base`` with the ``touched`` files as they are in ``source``.

    Files are hard links to those of ``base``; those that make will write are left out.
    """

    def ignore(parent: str, names: list[str]) -> set[str]:
        if not Path(parent).is_relative_to(base / VFIO):
            return set()
        return {name for name in names if name.endswith(".ko")}

    shutil.copytree(base, target, copy_function=os.link, symlinks=True, ignore=ignore)
    for name in touched:
        if name.startswith(tuple(f"{folder}/" for folder in _FOLDERS)):
            (target / name).unlink(missing_ok=True)
            if (source / name).exists():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source / name, target / name)


def merge(base: Path, tree: Path) -> None:
    """Note the vfio modules that were built in ``tree`` in place of those of ``base``."""
    for name, pattern in (
        ("modules.order", rf"{VFIO}/"),
        ("Module.symvers", rf"\S+\t\S+\t{VFIO}/"),
    ):
        lines = (base / name).read_text().splitlines(keepends=True)
        kept = [line for line in lines if not re.match(pattern, line)]
        built = (tree / VFIO / name).read_text()
        (tree / name).unlink()
        (tree / name).write_text("".join([*kept, built]))
        (tree / VFIO / name).unlink()
    _sweep(tree / VFIO)
