# SPDX-License-Identifier: GPL-2.0-or-later
"""Small series of our own against drivers/vfio of Linux 6.1, made anew from whatever 6.1 is here.

The edits find their place by text that the stable updates leave alone.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Edit:
    """In ``file``, put ``new`` where ``old`` is."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Step:
    """A patch: its subject and what it edits."""

    subject: str
    edits: tuple[Edit, ...]


OPS = "include/linux/vfio.h"
UAPI = "include/uapi/linux/vfio.h"
CMD_H = "drivers/vfio/pci/mlx5/cmd.h"
CMD = "drivers/vfio/pci/mlx5/cmd.c"
_RECORD = "struct mlx5_vf_migration_file {\n"
_OPS = "struct vfio_migration_ops {\n"
_FLAG = "#define VFIO_MIGRATION_P2P\t\t(1 << 1)\n"

CORE = Step(
    "vfio: Let drivers note a migration",
    (
        Edit(OPS, _OPS, f"{_OPS}\tvoid (*migration_note)(struct vfio_device *device);\n"),
        Edit(UAPI, _FLAG, f"{_FLAG}#define VFIO_MIGRATION_NOTE\t\t(1 << 7)\n"),
    ),
)
DRIVER = Step(
    "vfio/mlx5: Count the notes of a migration",
    (Edit(CMD_H, _RECORD, f"{_RECORD}\tu64 notes;\n"),),
)
RENAMED = Step(
    "vfio/mlx5: Call the callback of a SAVE what it is",
    (
        Edit(CMD, "mlx5vf_save_callback", "mlx5vf_save_done"),
        Edit(CMD_H, "\tu8 disabled:1;\n\tu8 is_err:1;\n", "\tu8 disabled;\n\tu8 is_err:2;\n"),
    ),
)
DRIVER_V2 = Step(
    "vfio/mlx5: Count the notes of a migration",
    (Edit(CMD_H, _RECORD, f"{_RECORD}\tu64 notes;\n\tu64 notes_lost;\n"),),
)
_NOTES = "\tu64 notes;\n"
V1 = (CORE, DRIVER)
# As long as a real one.
FOURTEEN = (
    *V1,
    *(
        Step(
            f"vfio/mlx5: Note {number} things of a migration",
            (Edit(CMD_H, _NOTES, f"\tu64 note_{number};\n{_NOTES}"),),
        )
        for number in range(3, 15)
    ),
)
V2 = (CORE, DRIVER_V2, RENAMED)
DRIVER_ONLY = (DRIVER,)


def make(source: Path, folder: Path, steps: Sequence[Step]) -> Path:
    """Write the series ``steps`` on the kernel tree ``source`` to ``folder``; return it.

    It is as git format-patch writes it, with quilt's file ``series``.
    """
    work = folder.parent / f".{folder.name}.git"
    for part in ("drivers/vfio", "include/linux/vfio.h", "include/uapi/linux/vfio.h"):
        target = work / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target)
        else:
            shutil.copyfile(source / part, target)
    _git(work, "init", "-q")
    _commit(work, "base")
    for step in steps:
        for edit in step.edits:
            file = work / edit.file
            text = file.read_text()
            assert edit.old in text, f"{edit.file} has no {edit.old!r}"
            file.write_text(text.replace(edit.old, edit.new))
        _commit(work, step.subject)
    done = _git(
        work, "format-patch", "-o", str(folder.absolute()), f"-{len(steps)}", "--zero-commit"
    )
    names = [line.rpartition("/")[2] for line in done.split()]
    (folder / "series").write_text("".join(f"{name}\n" for name in names))
    shutil.rmtree(work)
    return folder


def _commit(work: Path, subject: str) -> None:
    _git(work, "add", "-A")
    _git(work, "commit", "-q", "-m", f"{subject}\n\nFor the tests.")


def _git(work: Path, *words: str) -> str:
    who = ["-c", "user.name=mlxtrace project", "-c", "user.email=patches@mlxtrace.invalid"]
    done = subprocess.run(
        ["git", *who, *words], cwd=work, capture_output=True, text=True, check=True
    )
    return done.stdout
