# SPDX-License-Identifier: GPL-2.0-or-later
"""Build a whole kernel in a source tree, with the configuration of a fragment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxlab import needs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_TOOLS = {
    "bc": "bc",
    "bison": "bison",
    "flex": "flex",
    "gcc": "gcc",
    "make": "make",
    "setpriv": "util-linux",
}
_STEP = re.compile(rb"^  (?:CC|AS|LD|AR|HOSTCC|GEN)\b", re.MULTILINE)
_TICK_S = 0.5
_GRACE_S = 20.0
_LOG_LINES = 12


def check_tools() -> None:
    """Raise an error that names the packages of all tools that are missing."""
    missing = [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if "gcc" not in missing and not _compiles("#include <gelf.h>\n"):
        missing.append("libelf-dev")
    if missing:
        raise Error(
            f"building a kernel needs {', '.join(missing)}",
            f"run: apt-get install {' '.join(missing)} (as root)",
        )


def _compiles(text: str) -> bool:
    command = ["gcc", "-fsyntax-only", "-x", "c", "-"]
    return subprocess.run(command, input=text, text=True, capture_output=True).returncode == 0


def configure(source: Path, fragment: Path, log: Path) -> None:
    """Configure the tree: what ``fragment`` says, and nothing else that can be left out.

    Raises:
        Error: an option of the fragment is not taken, since the kernel does not have it or
            something that it depends on is missing.
    """
    # A path: relative to the sources, where make runs.
    make(source, ["allnoconfig"], log, variables={"KCONFIG_ALLCONFIG": str(fragment.resolve())})
    wanted = needs.parse(fragment.read_text())
    got = needs.parse((source / ".config").read_text())
    refused = [
        f"CONFIG_{option}={value}"
        for option, value in wanted.items()
        if got.get(option, "n") != value
    ]
    if refused:
        raise Error(f"the kernel in {source} does not take {', '.join(refused)} of {fragment}")


def make(
    folder: Path,
    words: Sequence[str],
    log: Path,
    *,
    variables: dict[str, str] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> None:
    """Run make in ``folder``; what it says is added to ``log``.

    ``on_step`` is told now and then how many files it has made.

    Raises:
        Error: it failed; the message has the compiler's lines.
    """
    command = ["setpriv", "--pdeathsig", "TERM", "--"]
    command += ["make", f"-j{os.cpu_count() or 1}", *words]
    dropped = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "KBUILD_EXTMOD", "KBUILD_OUTPUT", "M", "O", "V"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    naming = {"KBUILD_BUILD_USER": "mlxlab", "KBUILD_BUILD_HOST": "mlxlab", "LC_ALL": "C"}
    with log.open("ab") as stream:
        begin = stream.tell()
        child = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**kept, **naming, **(variables or {})},
        )
    try:
        _watch(child, log, begin, on_step)
    except BaseException:
        # make removes what is half-made when it is asked to stop.
        child.terminate()
        try:
            child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise
    if child.returncode != 0:
        targets = [word for word in words if "=" not in word]
        raise Error(
            f"make {' '.join(targets)} failed:\n{_reason(_since(log, begin))}",
            f"the whole log is {log}",
        )


def _watch(
    child: subprocess.Popen[bytes], log: Path, begin: int, on_step: Callable[[int], None] | None
) -> None:
    steps = 0
    with log.open("rb") as reader:
        reader.seek(begin)
        while True:
            try:
                child.wait(_TICK_S)
            except subprocess.TimeoutExpired:
                steps += len(_STEP.findall(reader.read()))
                if on_step is not None:
                    on_step(steps)
            else:
                return


def _since(log: Path, begin: int) -> str:
    with log.open("rb") as reader:
        reader.seek(begin)
        return reader.read().decode(errors="replace")


def _reason(text: str) -> str:
    lines = text.splitlines()
    chosen = [
        line
        for line in lines
        if re.search(r": (?:fatal )?error:|^ERROR:|undefined reference", line)
    ]
    chosen = chosen or [line for line in lines if "***" in line] or lines
    return "\n".join(f"  {line}" for line in chosen[:_LOG_LINES])
