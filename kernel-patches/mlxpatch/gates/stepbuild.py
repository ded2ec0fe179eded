# SPDX-License-Identifier: GPL-2.0-or-later
"""Gate ``build``: after every patch everything compiles and links, with no new warning.

One build tree goes through all the patches, so that make compiles only what a patch changes.
Headers that the series touches are in the tree from the start, so that make knows who uses them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings import resources
from genbindings.errors import Error
from mlxpatch import base as bases
from mlxpatch import build
from mlxpatch import headers as kernel_headers
from mlxpatch.apply import Overlay, applied
from mlxpatch.gates import warnings
from mlxpatch.gates.core import Result

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlxpatch.gates.core import Context
    from mlxpatch.headers import Headers
    from mlxpatch.progress import Stage
    from mlxpatch.series import Patch

_DRIVERS = "drivers/vfio"
_DRIVER = "CONFIG_MLX5_VFIO_PCI"
_QUOTED = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
_LINES = 6


class _BuildError(Exception):
    """Building stopped; the text is what to say."""


def check(context: Context) -> Result:
    """Build the base, then apply and build one patch after the other.

    Raises:
        Error: headers, make or the compiler are missing, or the base itself does not build.
        Skipped: the series does not apply.
    """
    context.require_applied()
    kernel = kernel_headers.inspect(
        bases.kernel_headers(context.base, context.headers, context.progress)
    )
    builder = _Builder(context, kernel)
    total = len(context.series.patches)
    problems: list[str] = []
    with context.progress.stage(f"building {total} patches for {kernel.release}") as stage:
        try:
            stage.update("the base, unpatched")
            known = warnings.Known(builder.make("the base, unpatched"))
        except _BuildError as failed:
            raise Error(
                f"{context.base.name} does not build for {kernel.release} without the series: "
                f"{failed}",
                "give the headers of its own kernel with --headers DIR",
            ) from None
        try:
            builder.each(known, problems, stage)
        except _BuildError as failed:
            problems.append(str(failed))
    notes = builder.notes()
    return Result(f"{total} patches for {kernel.release}, W=1{builder.sparse}", problems, notes)


class _Builder:
    def __init__(self, context: Context, kernel: Headers) -> None:
        self._context = context
        self._kernel = kernel
        self._tree = context.work / "build"
        self._log = context.work / "build.log"
        checker = shutil.which("sparse")
        self.sparse = " and sparse" if checker else ", no sparse here"
        base = context.base.tree
        self._folders = _folders(context.series.files, base)
        for folder in self._folders:
            shutil.copytree(base / folder, self._tree / folder, symlinks=True)
        self._headers(base)
        template = resources.environment().get_template("modules.Kbuild.j2")
        includes = [str(self._tree / "include"), str(self._tree / "include/uapi")]
        text = template.render(folders=sorted(self._folders), includes=includes)
        (self._tree / "Kbuild").write_text(text)
        self._command = [
            *("make", "-C", str(kernel.path), f"M={self._tree}", f"-j{os.cpu_count() or 1}"),
            *kernel.words,
            # Neither changes a warning, and both take time.
            *("W=1", "CONFIG_DEBUG_INFO=", "CONFIG_DEBUG_INFO_BTF_MODULES="),
            *(("C=1",) if checker else ()),
            # Debian 6.1 leaves the driver out; and a new option would be off.
            *(f"{option}=m" for option in (_DRIVER, *_new_options(context))),
            "modules",
        ]

    def _headers(self, base: Path) -> None:
        """Copy the headers that the series touches, and their neighbours."""
        (self._tree / "include/uapi").mkdir(parents=True)
        pending = [path for path in self._context.series.files if path.startswith("include/")]
        done: set[str] = set()
        while pending:
            path = pending.pop()
            if path in done or not (base / path).is_file():
                continue
            done.add(path)
            target = self._tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(base / path, target)
            if path.startswith("include/uapi/"):
                # <linux/vfio.h> is the kernel's, which includes the other.
                pending.append(path.replace("include/uapi/", "include/", 1))
            text = target.read_text(errors="replace")
            folder = os.path.dirname(path)  # noqa: PTH120
            pending += [os.path.normpath(f"{folder}/{name}") for name in _QUOTED.findall(text)]

    def each(self, known: warnings.Known, problems: list[str], stage: Stage) -> None:
        """Build after each patch; findings go to ``problems``."""
        total = len(self._context.series.patches)
        count = 0
        last: dict[str, bytes | None] = {}

        def step(patch: Patch, overlay: Overlay) -> None:
            nonlocal count
            count += 1
            stage.update(f"{count} of {total}, {patch.name}")
            changed = Overlay(overlay.tree)
            changed.modes = overlay.modes
            changed.files = {
                path: data
                for path, data in overlay.files.items()
                if path not in last or last[path] != data
            }
            last.update(changed.files)
            changed.write(self._tree)
            fresh = known.fresh(self.make(patch.name))
            problems.extend(f"{patch.name}: new warning in {warning}" for warning in fresh)

        applied(self._context.series, self._context.base.tree, each=step)

    def make(self, what: str) -> dict[str, list[str]]:
        """Run make; return its warnings, see :func:`mlxpatch.gates.warnings.found`."""
        status, said = build.make(self._command, subprocess.PIPE)
        text = said.replace(f"{self._tree}/", "").replace(f"{self._kernel.path.parent}/", "")
        lines = text.splitlines()
        if status != 0:
            raise _BuildError(f"{what} does not build: " + "\n    ".join(_errors(lines)))
        return warnings.found(lines)

    def notes(self) -> list[str]:
        """Return which sources of the series this kernel's configuration does not compile."""
        sources = [path for path in self._context.series.files if path.endswith((".c", ".S"))]
        left = [
            path
            for path in sources
            if (self._tree / path).is_file() and not (self._tree / path).with_suffix(".o").is_file()
        ]
        return [f"not compiled in this configuration: {path}" for path in left]


def _errors(lines: list[str]) -> list[str]:
    """Return the lines that say why make failed."""
    chosen = []
    for index, line in enumerate(lines):
        if not re.search(r"error:|^ERROR:", line):
            continue
        chosen.append(line)
        # An error inside a macro of a header: where it was used comes in a note.
        following = lines[index + 1 : index + 16]
        until = next((i for i, text in enumerate(following) if "error:" in text), len(following))
        used = [text for text in following[:until] if "in expansion of macro" in text]
        chosen += used[-1:]
    return (chosen or [line for line in lines if "***" in line] or lines[-_LINES:])[:_LINES]


def _folders(files: Iterable[str], base: Path) -> set[str]:
    """Return the folders to build: the VFIO drivers, and whatever else the series touches."""
    found = {_DRIVERS} if (base / _DRIVERS / "Makefile").is_file() else set()
    for path in files:
        if path.startswith(("include/", f"{_DRIVERS}/")) or not path.endswith((".c", ".h")):
            continue
        folder = Path(path).parent
        while folder.name and not (base / folder / "Makefile").is_file():
            folder = folder.parent
        # A module of its own; not a whole subsystem.
        if len(folder.parts) > 1 and folder.parts[0] in ("drivers", "samples", "fs", "net"):
            found.add(str(folder))
    if not found:
        raise Error(f"there is no {_DRIVERS} in {base} to build")
    return found


def _new_options(context: Context) -> list[str]:
    """Return the tristate options that the series adds to a Kconfig file."""
    found = []
    for patch in context.series.patches:
        for diff in patch.diffs:
            if not diff.path.rpartition("/")[2].startswith("Kconfig"):
                continue
            text = "".join(line for hunk in diff.hunks for line in hunk.new if line not in hunk.old)
            found += re.findall(r"^config (\w+)\n\s+tristate", text, re.MULTILINE)
    return [f"CONFIG_{name}" for name in dict.fromkeys(found)]
