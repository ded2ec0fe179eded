# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel tree's uapi headers, as ``make headers_install`` would install them.

Only what the wanted header includes is installed, by the tree's own scripts/headers_install.sh,
which needs nothing that a configured build would make. The result is kept in the cache, by content.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.compiler import errors
from genbindings.errors import Error
from genbindings.locate import cache

if TYPE_CHECKING:
    from collections.abc import Sequence

_INCLUDE = re.compile(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', re.MULTILINE)
_SCRIPT = Path("scripts/headers_install.sh")

# GNU triplet to the kernel's name, where they differ.
_ARCHITECTURES = {
    "x86_64": "x86",
    "i386": "x86",
    "i486": "x86",
    "i586": "x86",
    "i686": "x86",
    "aarch64": "arm64",
    "powerpc64le": "powerpc",
    "powerpc64": "powerpc",
    "ppc64le": "powerpc",
    "s390x": "s390",
    "riscv64": "riscv",
    "riscv32": "riscv",
    "mips64el": "mips",
    "mipsel": "mips",
    "sparc64": "sparc",
    "hppa": "parisc",
    "loongarch64": "loongarch",
}


def is_uapi(header: Path, tree: Path) -> bool:
    """Whether ``header`` is one that ``tree`` installs for user space."""
    return header.is_relative_to(tree / "include/uapi")


def install(header: Path, tree: Path, target: str, others: Sequence[str] = ()) -> tuple[Path, Path]:
    """Install ``header`` of ``tree``, ``others`` (such as ``linux/fs.h``), and what they include.

    Returns:
        The installed header, and the include directory it is in.

    Raises:
        Error: the tree's script fails, for instance on a header without a licence line.
    """
    root = tree / "include/uapi"
    wanted = _closure([str(header.relative_to(root)), *others], tree, target)
    digest = hashlib.sha256(f"{tree}\0{target}".encode())
    for name, source in sorted(wanted.items()):
        digest.update(f"\0{name}\0".encode())
        digest.update(source.read_bytes())
    folder = cache() / "uapi" / digest.hexdigest()[:32]
    relative = header.relative_to(root)
    if not folder.is_dir():
        _install_all(wanted, tree, folder)
    return folder / relative, folder


def source(path: Path, folder: Path, tree: Path) -> Path | None:
    """Return the file of ``tree`` that was installed as ``path`` in ``folder``, or None."""
    if not path.is_relative_to(folder):
        return None
    found = tree / "include/uapi" / path.relative_to(folder)
    return found if found.is_file() else None


def _closure(headers: Sequence[str], tree: Path, target: str) -> dict[str, Path]:
    """Return the files of ``tree`` that ``headers`` need, by the name they are included with."""
    machine = target.split("-", 1)[0]
    arch = re.sub(r"^arm.*", "arm", _ARCHITECTURES.get(machine, machine))
    arch_root = tree / "arch" / arch / "include/uapi"
    root = tree / "include/uapi"
    wanted: dict[str, Path] = {}
    pending = list(headers)
    while pending:
        name = pending.pop()
        if name in wanted:
            continue
        source = root / name
        if name.startswith("asm/") and arch_root.is_dir():
            source = arch_root / name
            if not source.is_file():
                # What the architecture does not have, the kernel's build wraps.
                source = root / "asm-generic" / name.removeprefix("asm/")
        if not source.is_file():
            continue
        wanted[name] = source
        text = source.read_text(encoding="utf-8", errors="replace")
        for included in _INCLUDE.findall(text):
            pending += [included, os.path.normpath(Path(name).parent / included)]
    return wanted


def _install_all(wanted: dict[str, Path], tree: Path, folder: Path) -> None:
    script = tree / _SCRIPT
    if not script.is_file():
        raise Error(f"{tree} has no {_SCRIPT}, which its uapi headers have to go through")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        work = Path(name)
        (work / "scripts").mkdir()
        _provide_unifdef(tree, work / "scripts/unifdef")
        for target, source in wanted.items():
            output = work / "include" / target
            output.parent.mkdir(parents=True, exist_ok=True)
            done = subprocess.run(
                ["sh", str(script), str(source), str(output)],
                cwd=work,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode or not output.is_file():
                lines = done.stderr.strip().splitlines() or ["it wrote nothing"]
                raise Error(f"{script} failed on {source}: {lines[-1].removeprefix('error: ')}")
        try:
            (work / "include").rename(folder)
        except OSError:
            # Another run has just put the same content there.
            if not folder.is_dir():
                raise


def _provide_unifdef(tree: Path, path: Path) -> None:
    """Put the unifdef that the script calls at ``path``: the tree's own, built if need be."""
    built = tree / "scripts/unifdef"
    if built.is_file() and os.access(built, os.X_OK):
        path.symlink_to(built)
        return
    source = tree / "scripts/unifdef.c"
    if source.is_file():
        # The machine's own compiler: unifdef runs here, whatever --cc says.
        command = ["cc", "-O1", "-w", "-o", str(path), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            first = next(iter(errors(done.stderr)), done.stderr.strip())
            raise Error(f"cannot build {source}: {first}")
        return
    found = shutil.which("unifdef")
    if found is None:
        raise Error(f"{tree} has no scripts/unifdef", "install unifdef")
    path.symlink_to(found)
