# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's dkms in a tree of its own."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from mlxpatch.kernels import Kernel


def dkms_build(package: Path, name: str, version: str, kernel: Kernel, work: Path) -> Path:
    """Have dkms build ``package`` for ``kernel``; return the folder with the modules."""
    trees = {option: work / option for option in ("dkmstree", "sourcetree", "installtree")}
    options = [word for option, path in trees.items() for word in (f"--{option}", str(path))]
    for path in trees.values():
        path.mkdir(parents=True)
    _run("add", str(package), *options)
    _run(
        "build",
        f"{name}/{version}",
        "-k",
        kernel.release,
        "--kernelsourcedir",
        str(kernel.headers),
        *options,
    )
    return trees["dkmstree"] / name / version / kernel.release / "x86_64/module"


def _run(*words: str) -> None:
    done = subprocess.run(["dkms", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
