# SPDX-License-Identifier: GPL-2.0-or-later
"""A series of three patches for linux-source-6.1, made anew wherever a test needs one."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlxpatch import kernels
from mlxpatch.apply import Overlay
from mlxpatch.gitrepo import ADDRESS, NAME, Repository
from mlxpatch.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

UAPI = "include/uapi/linux/vfio.h"
CMD = "drivers/vfio/pci/mlx5/cmd.c"
MAIN = "drivers/vfio/vfio_main.c"
PROGRESS = Progress("tests", quiet=True)
_BODY = "The tests of the gates need a series that changes as little as possible."


_SAMPLE = """\
/**
 * struct vfio_sample - What a test wants to know of a device
 * @argsz: size of the structure
 * @flags: none yet
 * @sample_bytes: size of the sample
 */
struct vfio_sample {
	__u32 argsz;
	__u32 flags;
	__aligned_u64 sample_bytes;
};

"""
_END = "/* ***************************************************************** */\n\n#endif"


@dataclass(frozen=True)
class Step:
    """A patch: in each file, one text is replaced by another."""

    subject: str
    edits: tuple[tuple[str, str, str], ...]
    body: str = _BODY


STEPS = (
    Step(
        "vfio: Describe a device's sample in the uAPI",
        (
            (
                UAPI,
                _END,
                _SAMPLE + _END,
            ),
        ),
    ),
    Step(
        "vfio/mlx5: Hold the sample's size",
        (
            (
                CMD,
                "enum { CQ_OK = 0,",
                "static_assert(sizeof(struct vfio_sample) == 16);\n\nenum { CQ_OK = 0,",
            ),
        ),
    ),
    Step(
        "vfio: Say in the module that it has samples",
        (
            (
                MAIN,
                'MODULE_ALIAS("devname:vfio/vfio");\n',
                'MODULE_ALIAS("devname:vfio/vfio");\nMODULE_INFO(samples, "1");\n',
            ),
        ),
    ),
)


def changed(steps: tuple[Step, ...], position: int, old: str, new: str) -> tuple[Step, ...]:
    """Return ``steps`` with ``old`` replaced in what the one at ``position`` writes."""
    step = steps[position]
    path, before, after = step.edits[0]
    assert old in after
    all_steps = list(steps)
    all_steps[position] = replace(step, edits=((path, before, after.replace(old, new)),))
    return tuple(all_steps)


def source() -> Path:
    """Return the sources of 6.1 in the cache, fetched if they are not there."""
    return kernels.ensure_source("6.1", PROGRESS).root


def repository(folder: Path, steps: tuple[Step, ...] = STEPS, tree: Path | None = None) -> str:
    """Make a repository with ``steps`` on top of the touched files of 6.1; return its base."""
    origin = tree or source()
    repo = Repository(folder)
    overlay = Overlay(origin)
    for path in sorted({edit[0] for step in steps for edit in step.edits}):
        data = overlay.read(path)
        if data is not None:
            overlay.files[path] = data
    overlay.write(folder)
    repo.git("add", "-A")
    repo.git("commit", "-q", "-m", "base")
    base = repo.git("rev-parse", "HEAD").decode().strip()
    for step in steps:
        for path, before, after in step.edits:
            file = folder / path
            text = file.read_text() if file.exists() else ""
            assert before in text
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.replace(before, after, 1) if before else text + after)
        repo.git("add", "-A")
        message = f"{step.subject}\n\n{step.body}\n\nSigned-off-by: {NAME} <{ADDRESS}>\n"
        repo.git("commit", "-q", "-F", "-", input_=message.encode())
    return base


def export(folder: Path, base: str, out: Path, *, version: int = 1) -> None:
    """Write the commits after ``base`` to ``out`` as a carried series, cover letter included."""
    repo = Repository(folder)
    out.mkdir(parents=True, exist_ok=True)
    again = f"-v{version}" if version > 1 else "--subject-prefix=PATCH"
    repo.git(
        *("format-patch", "-q", "--full-index", "--zero-commit", "--no-signature"),
        *("--cover-letter", f"--base={base}", again, "-o", str(out), f"{base}..HEAD"),
    )
    for path in sorted(out.glob("v*-0*.patch")):
        path.rename(out / re.sub(r"^v\d+-", "", path.name))
    cover = out / "0000-cover-letter.patch"
    text = cover.read_text().replace("*** SUBJECT HERE ***", "vfio: Samples")
    cover.write_text(text.replace("*** BLURB HERE ***", "A series for tests."))
    names = sorted(path.name for path in out.glob("0*.patch"))
    (out / "series").write_text("# in order\n" + "".join(f"{name}\n" for name in names[1:]))


def make(work: Path, steps: tuple[Step, ...] = STEPS, *, version: int = 1) -> Path:
    """Make the series in ``work`` and return its folder, which names its base."""
    folder = work / f"series-v{version}"
    base = repository(work / f"repository-v{version}", steps)
    export(work / f"repository-v{version}", base, folder, version=version)
    version_, deb = kernels.ensure_archive("6.1", PROGRESS)
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()
    (folder / "BASE").write_text(
        f"package: linux-source-6.1\nversion: {version_}\nsha256: {digest}\n"
    )
    return folder


TINY_UAPI = "include/uapi/linux/tiny.h"
TINY = "drivers/vfio/tiny.c"
_TINY_FILES = {
    "Makefile": "VERSION = 6\nPATCHLEVEL = 1\n",
    "drivers/vfio/Makefile": "obj-m += tiny.o\n",
    TINY: "// SPDX-License-Identifier: GPL-2.0-only\n#include <linux/module.h>\n"
    '#include <linux/tiny.h>\n\nMODULE_DESCRIPTION("tiny");\nMODULE_LICENSE("GPL");\n',
    TINY_UAPI: "/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */\n"
    "#ifndef _UAPI_LINUX_TINY_H\n#define _UAPI_LINUX_TINY_H\n\n#include <linux/types.h>\n\n"
    "#endif /* _UAPI_LINUX_TINY_H */\n",
}
TINY_STEPS = (
    Step(
        "vfio: Describe a sample",
        ((TINY_UAPI, "#endif /*", _SAMPLE + "#endif /*"),),
    ),
    Step(
        "vfio: Hold the size of a sample",
        (
            (
                TINY,
                "MODULE_DESCRIPTION",
                "static_assert(sizeof(struct vfio_sample) == 16);\n\nMODULE_DESCRIPTION",
            ),
        ),
    ),
    Step("vfio: Say that there are samples", ((TINY, "", 'MODULE_INFO(samples, "1");\n'),)),
)


def tiny(
    work: Path, steps: tuple[Step, ...] = TINY_STEPS, *, version: int = 1
) -> tuple[Path, Path]:
    """Make a tree with one small module and a series for it: seconds for all gates.

    Returns:
        The series' folder and the tree.
    """
    tree = work / "linux"
    if not tree.exists():
        for name, text in _TINY_FILES.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text)
        shutil.copytree(source() / "scripts", tree / "scripts", symlinks=True)
    folder = work / f"series-v{version}"
    base = repository(work / f"repository-v{version}", steps, tree)
    export(work / f"repository-v{version}", base, folder, version=version)
    return folder, tree
