# SPDX-License-Identifier: GPL-2.0-or-later
"""Build kernel modules out of tree against a distribution kernel's headers.

A :class:`Recipe` names source folders and where they go in the build tree; headers given with it
take precedence over the kernel's. Results are cached by a hash of everything that goes in, so
asking again is free and asking after a change rebuilds. Modules carry DWARF always, and BTF where
the kernel's own can be had, from the headers or from the image, and pahole is there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from genbindings import resources
from genbindings.errors import Error
from mlxpatch import cache, vmlinux
from mlxpatch.headers import Headers, inspect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mlxpatch.progress import Progress

# Part of the key: raise it when the way of building changes.
_FORMAT = 1
_LOG_LINES = 12
_KEEP_BUILDS = 6


@dataclass(frozen=True)
class Recipe:
    """What to build.

    Attributes:
        name: names the result, ``mlx5-vfio-pci`` say.
        folders: source folder to its place in the build tree (relative; ``drivers/vfio`` say).
        config: options to set on make's command line, such as ``CONFIG_MLX5_VFIO_PCI=m``.
        includes: folders of headers that take precedence over the kernel's own, in order.
    """

    name: str
    folders: Mapping[str, Path]
    config: Mapping[str, str] = field(default_factory=dict)
    includes: Sequence[Path] = ()


@dataclass(frozen=True)
class Built:
    """A finished build: ``modules`` are the .ko files, ``symvers`` their exported symbols."""

    folder: Path
    modules: tuple[Path, ...]
    symvers: Path
    log: Path
    fresh: bool  # built now, not found in the cache


def stock_driver(source: Path) -> Recipe:
    """Return the recipe of the mlx5-vfio-pci driver in the kernel tree ``source``.

    Raises:
        Error: the tree has no such driver.
    """
    place = "drivers/vfio/pci/mlx5"
    if not (source / place / "Makefile").is_file():
        raise Error(f"{source} has no {place}", "give the kernel's source tree with --source")
    return Recipe("mlx5-vfio-pci", {place: source / place}, {"CONFIG_MLX5_VFIO_PCI": "m"})


def lab_firmware() -> Recipe:
    """Return the recipe of the lab's stand-in for mlx5_core."""
    return Recipe("mlx5_lab", {"mlx5_lab": resources.find("lab/firmware")})


def build(
    recipe: Recipe, headers: Path, progress: Progress, *, symvers: Sequence[Path] = ()
) -> Built:
    """Build ``recipe`` against the kernel headers in ``headers``, or take it from the cache.

    ``symvers`` are Module.symvers files of other out-of-tree modules that it uses.

    Raises:
        Error: tools or headers are missing, or the compiler refused; the message has its lines.
    """
    kernel = inspect(headers)
    for path in symvers:
        if not path.is_file():
            raise Error(f"{path}: no such Module.symvers")
    key = _key(recipe, kernel, symvers)
    target = cache.root() / "builds" / f"{recipe.name}-{kernel.release}-{key[:16]}"
    waiting = f"waiting for another build of {recipe.name}"
    with cache.locked(f"build-{target.name}", lambda: progress.note(waiting)):
        fresh = not target.exists()
        if fresh:
            with progress.stage(f"building {recipe.name} for {kernel.release}"):
                _build(recipe, kernel, symvers, target)
        cache.touch(target)
    cache.prune(target.parent, f"{recipe.name}-{kernel.release}-*", _KEEP_BUILDS)
    modules = tuple(sorted(target.glob("*.ko")))
    return Built(target, modules, target / "Module.symvers", target / "build.log", fresh)


def _build(recipe: Recipe, kernel: Headers, symvers: Sequence[Path], target: Path) -> None:
    with cache.publish(target) as partial:
        tree = partial / "tree"
        tree.mkdir()
        for place, folder in recipe.folders.items():
            shutil.copytree(folder, tree / place, ignore=products, dirs_exist_ok=True)
        includes = []
        for number, folder in enumerate(recipe.includes):
            copy = tree / f"include-{number}"
            shutil.copytree(folder, copy)
            # -I of a relative path would mean the headers' folder, where make runs.
            includes.append(str(copy))
        kbuild = resources.environment().get_template("modules.Kbuild.j2")
        (tree / "Kbuild").write_text(kbuild.render(folders=recipe.folders, includes=includes))
        log = partial / "build.log"
        command = _command(recipe, kernel, symvers, tree)
        with log.open("w") as stream:
            stream.write(f"$ {' '.join(command)}\n")
            stream.flush()
            status, _ = make(command, stream)
        modules = sorted(tree.rglob("*.ko"))
        if status != 0 or not modules:
            kept = cache.root() / "builds" / f"{recipe.name}-failed.log"
            shutil.copy(log, kept)
            raise _failure(recipe, log.read_text(errors="replace"), kept, tree)
        if kernel.btf_configured and not kernel.btf_possible and kernel.btf_base:
            vmlinux.add_btf(modules, kernel.btf_base)
        for module in modules:
            module.rename(partial / module.name)
        (tree / "Module.symvers").rename(partial / "Module.symvers")
        shutil.rmtree(tree)


def _command(recipe: Recipe, kernel: Headers, symvers: Sequence[Path], tree: Path) -> list[str]:
    command = ["make", "-C", str(kernel.path), f"M={tree}", f"-j{os.cpu_count() or 1}"]
    command += kernel.words
    command += [f"{option}={value}" for option, value in recipe.config.items()]
    if symvers:
        command.append("KBUILD_EXTRA_SYMBOLS=" + " ".join(str(path.resolve()) for path in symvers))
    if not kernel.debug_info:
        command.append("KCFLAGS=-g")
    if kernel.btf_configured and not kernel.btf_possible:
        # Without pahole the build would fail at its last step.
        command.append("CONFIG_DEBUG_INFO_BTF_MODULES=")
    return [*command, "modules"]


def make(command: Sequence[str], output: IO[str] | int) -> tuple[int, str]:
    """Run ``command``, which is make; return its exit status, and its output if that is a pipe.

    ``output`` is a file or ``subprocess.PIPE``. If this is interrupted, so are all of make's jobs.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_environment(),
        start_new_session=True,
    ) as process:
        try:
            text = process.communicate()[0]
        except BaseException:
            # Compilers would write on into a folder that is being removed.
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, text


def _environment() -> dict[str, str]:
    # A make that runs us must not hand its own options and job server to this one.
    dropped = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "KBUILD_EXTMOD", "M", "O", "ARCH"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "LC_ALL": "C"}


def _failure(recipe: Recipe, text: str, log: Path, tree: Path) -> Error:
    lines = [line.replace(f"{tree}/", "") for line in text.splitlines()]
    chosen: list[str] = []
    for index, line in enumerate(lines):
        if ": error:" in line or "fatal error:" in line or line.startswith("ERROR:"):
            # The compiler's source line and its caret follow.
            chosen += [line, *(extra for extra in lines[index + 1 : index + 3] if " | " in extra)]
        elif "***" in line and not chosen:
            chosen.append(line)
    chosen = chosen[:_LOG_LINES] or lines[-_LOG_LINES:]
    detail = "\n".join(f"  {line}" for line in chosen)
    return Error(f"{recipe.name} does not build:\n{detail}", f"the whole log is {log}")


def _key(recipe: Recipe, kernel: Headers, symvers: Sequence[Path]) -> str:
    key = hashlib.sha256()

    def add(text: str) -> None:
        key.update(text.encode() + b"\0")

    add(f"{_FORMAT} {recipe.name} {sorted(recipe.config.items())} {kernel.identity()}")
    for place, folder in sorted(recipe.folders.items()):
        add(place)
        _hash_files(add, folder)
    for folder in recipe.includes:
        add("include")
        _hash_files(add, folder)
    for path in symvers:
        add(hashlib.sha256(path.read_bytes()).hexdigest())
    return key.hexdigest()


def _hash_files(add: Callable[[str], None], folder: Path) -> None:
    for path in sorted(_files(folder)):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        add(f"{path.relative_to(folder)} {digest}")


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        skipped = products(parent, [*folders, *names])
        folders[:] = [name for name in folders if name not in skipped]
        yield from (Path(parent, name) for name in names if name not in skipped)


def products(_parent: str, names: Iterable[str]) -> set[str]:
    """Return those of ``names`` that a build in the source folder made, and hidden ones."""
    suffixes = (".o", ".ko", ".mod", ".mod.c", ".cmd", ".a")
    exact = {"Module.symvers", "modules.order", "__pycache__"}
    return {
        name for name in names if name.endswith(suffixes) or name in exact or name.startswith(".")
    }
