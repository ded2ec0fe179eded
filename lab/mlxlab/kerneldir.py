# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel that the user built (``--kernel-dir``): its build tree becomes what the VM boots.

Nothing is written into the tree. Modules and image are linked into the cache, where the stand-in
and the tree's own mlx5-vfio-pci, built out of tree against it, are added.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from genbindings import resources
from genbindings.errors import Error
from mlxlab import boot, mtty, needs
from mlxlab.boot import Boot
from mlxpatch import build, cache

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mlxpatch.progress import Progress

_IMAGE = "arch/x86/boot/bzImage"
_EXAMPLE = "lab/debug-6.1.config"
_CONFIG = "include/config/auto.conf"
_RELEASE = "include/config/kernel.release"
_LISTS = ("modules.order", "modules.builtin", "modules.builtin.modinfo")
_KEEP_TREES = 4
# Part of the key: change it when a tree is made up in another way.
_LAYOUT = "1"
# What a boot of debug-6.1 takes, compared with the image that has the same drivers.
_KASAN_SLOWNESS = 3.0


@dataclass(frozen=True)
class KernelDir:
    """A kernel's build tree.

    Attributes:
        folder: where make put what it built.
        source: where the sources are, the same folder unless it was built with ``O=``.
        release: as ``uname -r`` says it.
        modules: the modules that were built, relative to ``folder``.
    """

    folder: Path
    source: Path
    release: str
    modules: tuple[str, ...]

    @property
    def image(self) -> Path:
        """The bootable image."""
        return self.folder / _IMAGE


def look(folder: Path) -> KernelDir:
    """Look at the build tree in ``folder``.

    Raises:
        Error: it is none, or something in it is not built; the message says what, all at once.
    """
    folder = folder.resolve()
    if not (folder / "Makefile").is_file() or not (folder / ".config").is_file():
        first = ".config" if (folder / "Makefile").is_file() else "Makefile"
        raise Error(
            f"{folder} is not a kernel's build tree: it has no {first}",
            "give the folder that make built in: the sources', or the one of O=",
        )
    source = (folder / "source").resolve() if (folder / "source").is_dir() else folder
    lacking = [name for name in (_IMAGE, _RELEASE, _CONFIG) if not (folder / name).is_file()]
    targets = ["bzImage"] if lacking else []
    modules = _modules(folder / "modules.order")
    absent = [path for path in modules if not (folder / path).is_file()]
    lists = [name for name in ("Module.symvers", *_LISTS) if not (folder / name).is_file()]
    if lists or absent:
        lacking += [*lists, *absent]
        targets.append("modules")
    if lacking:
        shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if lacking[5:] else "")
        raise Error(
            f"the kernel in {folder} is not built completely: no {shown}",
            f"run: make -C {folder} -j$(nproc) {' '.join(targets)}",
        )
    return KernelDir(folder, source, (folder / _RELEASE).read_text().strip(), modules)


def _modules(order: Path) -> tuple[str, ...]:
    if not order.is_file():
        return ()
    # Object files since Linux 6.3, modules before.
    lines = [line.removeprefix("kernel/") for line in order.read_text().split()]
    return tuple(f"{line.rpartition('.')[0]}.ko" for line in lines)


def prepare(folder: Path, progress: Progress, *, device: str = "mlx5") -> Boot:
    """Build the lab's modules against the tree in ``folder``, and assemble what the VM boots.

    Raises:
        Error: the tree is not complete, the kernel lacks what the lab needs, or modules do not
            build.
    """
    kernel = look(folder)
    example = f"; an example that has all of it: {resources.find(_EXAMPLE)}"
    if device == "mtty":
        # Whatever its configuration is: the kernel may be too old.
        mtty.recipe(kernel.source, f"the kernel in {kernel.folder}")
        example = " with CONFIG_VFIO_MDEV"
    # What it was built with; .config may have changed since.
    config = (kernel.folder / _CONFIG).read_text(errors="replace")
    needs.check(
        f"the kernel in {kernel.folder}",
        config,
        needs.module_names((kernel.folder / "modules.order").read_text()),
        progress,
        f"change its configuration and build it again{example}",
        device=device,
    )
    assembled = assemble(kernel, _build(kernel, progress, device), progress)
    if needs.parse(config).get("KASAN") == "y":
        return replace(assembled, slowness=_KASAN_SLOWNESS)
    return assembled


def _build(kernel: KernelDir, progress: Progress, device: str) -> list[Path]:
    """Build what the kernel does not have itself for ``device``; return the modules."""
    what = f"the kernel in {kernel.folder}"
    if device == "mtty":
        recipe = mtty.recipe(kernel.source, what)
        return [*build.build(recipe, kernel.folder, progress).modules]
    recipe = needs.driver(kernel.source, what)
    firmware = build.build(build.lab_firmware(), kernel.folder, progress)
    driver = build.build(recipe, kernel.folder, progress, symvers=[firmware.symvers])
    return [*firmware.modules, *driver.modules]


def assemble(kernel: KernelDir, updates: list[Path], progress: Progress) -> Boot:
    """Return what to boot: the image and modules of ``kernel``, with the modules ``updates``."""
    root = cache.root() / "trees" / f"{kernel.release}-{_key(kernel, updates)}"
    with cache.locked(f"tree-{root.name}"):
        if not root.exists():
            with progress.stage(f"assembling the modules of {kernel.release}"):
                _assemble(kernel, updates, root)
        cache.touch(root)
    cache.prune(root.parent, f"{kernel.release}-*", _KEEP_TREES)
    place = f"lib/modules/{kernel.release}"
    return Boot(kernel.release, root / "boot" / f"vmlinuz-{kernel.release}", root / place)


def _key(kernel: KernelDir, updates: Iterable[Path]) -> str:
    key = hashlib.sha256(f"{_LAYOUT} {kernel.folder} {sorted(map(str, updates))}".encode())
    for name in (_IMAGE, "Module.symvers", *_LISTS, *kernel.modules):
        stat = (kernel.folder / name).stat()
        key.update(f"{name} {stat.st_mtime_ns} {stat.st_size}\n".encode())
    return key.hexdigest()[:16]


def _assemble(kernel: KernelDir, updates: Iterable[Path], root: Path) -> None:
    with cache.publish(root) as partial:
        top = partial / "lib/modules" / kernel.release
        for path in kernel.modules:
            target = top / "kernel" / path
            if not any(f"kernel/{path}".startswith(f"{folder}/") for folder in boot.LEFT_OUT):
                target.parent.mkdir(parents=True, exist_ok=True)
                cache.put(kernel.folder / path, target)
        top.mkdir(parents=True, exist_ok=True)
        order = "".join(f"kernel/{path}\n" for path in kernel.modules)
        (top / "modules.order").write_text(order)
        for name in _LISTS[1:]:
            cache.put(kernel.folder / name, top / name)
        links = {"build": kernel.folder, "source": kernel.source}
        boot.finish(partial, kernel.release, kernel.image, updates, links)
