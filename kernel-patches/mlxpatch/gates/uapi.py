# SPDX-License-Identifier: GPL-2.0-or-later
"""Gate ``uapi``: a header for user space compiles alone, in C and in C++."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from genbindings import uapi
from genbindings.errors import Error
from mlxpatch.apply import Overlay, applied
from mlxpatch.gates.core import Result, Skipped

if TYPE_CHECKING:
    from pathlib import Path

    from mlxpatch.gates.core import Context
    from mlxpatch.series import Patch

_ROOT = "include/uapi/"
# language, compiler, its package, standard
_COMPILERS = (("C", "gcc", "gcc", "-std=gnu11"), ("C++", "g++", "g++", "-std=gnu++17"))


def check(context: Context) -> Result:
    """Compile each touched header after each patch that touches it, as it would be installed.

    What fails on the base already is noted, and no fault of the series.

    Raises:
        Error: there is no compiler.
        Skipped: the series touches no such header, or does not apply.
    """
    headers = [
        path for path in context.series.files if path.startswith(_ROOT) and path.endswith(".h")
    ]
    if not headers:
        raise Skipped("the series touches no header in include/uapi")
    context.require_applied()
    for _, tool, package, _ in _COMPILERS:
        if shutil.which(tool) is None:
            raise Error(f"{tool} is missing", f"run: apt-get install {package} (as root)")
    tree = context.work / "uapi"
    shutil.copytree(context.base.tree / "include/uapi", tree / "include/uapi")
    (tree / "scripts").mkdir()
    # The base's script, whatever the series makes of it.
    for name in ("headers_install.sh", "unifdef.c"):
        if (context.base.tree / "scripts" / name).is_file():
            shutil.copy2(context.base.tree / "scripts" / name, tree / "scripts" / name)
    arch = context.base.tree / "arch/x86/include/uapi"
    if arch.is_dir():
        shutil.copytree(arch, tree / "arch/x86/include/uapi")
    before = {fault for path in headers for fault in _faults(tree, path)}
    problems: list[str] = []
    compiled = 0

    def each(patch: Patch, overlay: Overlay) -> None:
        nonlocal compiled
        Overlay.write(_only(overlay, _ROOT), tree)
        for path in headers:
            if path in patch.files and overlay.read(path) is not None:
                compiled += 1
                faults = [fault for fault in _faults(tree, path) if fault not in before]
                problems.extend(f"{patch.name}: {fault}" for fault in faults)

    applied(context.series, context.base.tree, each=each)
    names = ", ".join(path.removeprefix(_ROOT) for path in headers)
    return Result(
        f"{names}: {compiled} times in C and in C++",
        problems,
        notes=[f"on the base already: {fault}" for fault in sorted(before)],
        hint="user space has neither u32 nor kernel headers: use __u32 and linux/types.h"
        if problems
        else "",
    )


def _only(overlay: Overlay, prefix: str) -> Overlay:
    part = Overlay(overlay.tree)
    part.files = {path: data for path, data in overlay.files.items() if path.startswith(prefix)}
    part.modes = overlay.modes
    return part


def _faults(tree: Path, path: str) -> list[str]:
    """Return what the compilers say about the header ``path`` of ``tree``, one line each."""
    if not (tree / path).is_file():
        return []
    try:
        header, folder = uapi.install(tree / path, tree, "x86_64-linux-gnu")
    except Error as error:
        return [f"{path}: {error}"]
    faults = []
    for language, tool, _, standard in _COMPILERS:
        done = subprocess.run(
            [
                *(tool, "-x", "c++" if language == "C++" else "c", standard, "-fsyntax-only"),
                *("-Wall", "-Wextra", "-Werror", "-Wno-pragma-once-outside-header"),
                *(f"-I{folder}", "-include", str(header), "/dev/null"),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": str(tree)},
        )
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if "error:" in line]
            text = (said or done.stderr.splitlines() or ["refused"])[0]
            faults.append(f"{path} in {language}: {text.replace(f'{folder}/', '')}")
    return faults
