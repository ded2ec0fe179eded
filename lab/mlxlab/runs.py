# SPDX-License-Identifier: GPL-2.0-or-later
"""The folder of one run: what the guest is told, and what is kept of it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlxlab import errors, vm
from mlxpatch import cache

if TYPE_CHECKING:
    from collections.abc import Sequence

_KEEP_RUNS = 20
_PASSED_ON = ("HOME", "LANG", "LC_ALL", "TERM", "USER", "COLUMNS", "NO_COLOR", "FORCE_COLOR")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Run:
    """A run's folder in the cache, and the folder that the guest can write to.

    In a kept lab, the logs of one command begin where those of the command before end:
    ``console_from`` and ``dmesg_from`` bytes into the files.
    """

    path: Path
    out: Path
    console_from: int = 0
    dmesg_from: int = 0

    @property
    def console(self) -> Path:
        """The guest's serial console: its boot log, and its last words."""
        return self.path / "console.log"

    @property
    def dmesg(self) -> Path:
        """The guest's kernel log, written when it ends."""
        return self.path / "dmesg.txt"

    @property
    def qemu_log(self) -> Path:
        """What QEMU said."""
        return self.path / "qemu.log"

    def close(self) -> None:
        """Remove what only the VM needed."""
        (self.path / "initramfs").unlink(missing_ok=True)


def create(out: Path | None) -> Run:
    """Make the folder of a new run; older ones beyond the last few are removed.

    Raises:
        Error: the cache or ``out`` cannot be written.
    """
    parent = cache.root() / "runs"
    cache.prune(parent, "[0-9]*", _KEEP_RUNS)
    path = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    chosen = (out or path / "out").absolute()
    with cache.writing(path):
        path.mkdir(parents=True)
        chosen.mkdir(parents=True, exist_ok=True)
    return Run(path, chosen)


def write_settings(
    run: Run,
    machine: vm.Machine,
    *,
    modules: Sequence[str],
    pf_driver: str,
    vf_driver: str,
    mode: str,
    device: str = "mlx5",
    firmware: Sequence[str] = (),
) -> None:
    """Write what the scripts in the guest read; ``firmware`` has lines ``SCOPE KNOB VALUE``.

    ``device`` is ``mlx5`` or ``mtty``, which has no PF and no firmware.
    ``mode`` is ``run`` (end after the command), ``keep`` (wait for another) or ``shell``.
    """
    variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    variables["PATH"] = f"{Path(sys.executable).parent}:{_SYSTEM_PATH}"
    if device == "mlx5":
        variables["MLXLAB_PF"] = vm.PF
    variables["MLXLAB_OUT"] = str(run.out)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    size = shutil.get_terminal_size()
    settings = {
        "mode": mode,
        "device": device,
        "modules": " ".join(modules),
        "pf_driver": pf_driver,
        "vf_driver": vf_driver,
        "vfs": str(machine.vfs),
        "cwd": str(Path.cwd()),
        "rows": str(size.lines),
        "columns": str(size.columns),
    }
    lines += [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    with cache.writing(run.path):
        (run.path / "settings").write_text("\n".join(lines) + "\n")
        (run.path / "firmware").write_text("".join(f"{line}\n" for line in firmware))


def write_command(
    run: Run, command: Sequence[str], environment: Sequence[str] = (), number: int = 1
) -> None:
    """Write the file that the guest runs as its ``number``-th command, in this working directory.

    ``environment`` has NAME=VALUE words for the command, beside what it always gets.
    """
    here = shlex.quote(str(Path.cwd()))
    lost = shlex.quote(f"mlxlab: the guest does not see the working directory {Path.cwd()}")
    lines = [f"cd {here} || {{ echo {lost} >&2; exit {errors.NOT_STARTED}; }}"]
    for word in environment:
        name, _, value = word.partition("=")
        lines.append(f"export {name}={shlex.quote(value)}")
    lines.append(f"exec {shlex.join(command)}")
    with cache.writing(run.path):
        (run.path / f"command-{number}").write_text("\n".join(lines) + "\n")
