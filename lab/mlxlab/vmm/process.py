# SPDX-License-Identifier: GPL-2.0-or-later
"""One QEMU in the guest: its command line, its files, its end."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxlab.vmm.qmp import Qmp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Everything QEMU can tell of the migration of a VFIO device, and of the migration around it.
TRACED = (
    "vfio_migration_*",
    "vfio_save_*",
    "vfio_load_*",
    "vfio_state_pending_*",
    "vfio_vmstate_change*",
    "vfio_pci_reset*",
    "migrate_set_state",
    "*switchover*",
)
_END_S = 30.0


@dataclass(frozen=True)
class Installation:
    """An unpacked QEMU."""

    root: Path
    version: tuple[int, ...]

    def command(self) -> list[str]:
        """Return the beginning of a command line: the program and where its data is."""
        return [
            str(self.root / "usr/bin/qemu-system-x86_64"),
            *("-L", str(self.root / "usr/share/qemu")),
            *("-L", str(self.root / "usr/share/seabios")),
        ]


def command_line(
    installation: Installation, side: str, vf: str, files: Path, capabilities: Sequence[str] = ()
) -> list[str]:
    """Return the command of the QEMU on ``side`` (``source`` or ``target``) with the VF ``vf``.

    The VM has no disk: its firmware runs and finds nothing to boot. The target waits for a
    migration, and does not start by itself after it, so that both states can be compared. Logs and
    sockets go to the folder ``files``.
    """
    device = [
        f"vfio-pci,host={vf},id={side}",
        # "auto" is refused: neither the device nor the IOMMU tracks what a device writes.
        "enable-migration=on",
        # A BAR that the MSI-X table splits is not page aligned, and QEMU 10's dirty sync fails.
        "x-no-mmap=on",
    ]
    if "multifd" in capabilities:
        device.append("x-migration-multifd-transfer=on")
    command = [
        *installation.command(),
        # Names the threads, which the tracer shows.
        *("-name", f"{side},debug-threads=on"),
        *("-machine", "pc"),
        *("-accel", "tcg"),
        *("-m", "32"),
        *("-display", "none"),
        "-no-user-config",
        "-nodefaults",
        *("-qmp", f"unix:{files / side}.qmp,server=on,wait=off"),
        *("-device", ",".join(device)),
        *("-msg", "timestamp=on"),
        *("-D", f"{files / side}.log"),
    ]
    for events in TRACED:
        command += ["-trace", events]
    if side == "target":
        command += ["-S", "-incoming", "defer"]
    return command


class Vmm:
    """A running QEMU and its QMP session."""

    def __init__(
        self,
        installation: Installation,
        side: str,
        vf: str,
        files: Path,
        capabilities: Sequence[str],
    ) -> None:
        """Start it; :meth:`connect` waits until it is up."""
        self.side = side
        self.vf = vf
        self._files = files
        self._log = (files / f"{side}.stderr").open("wb")
        self.exit_status: int | None = None
        self._qmp: Qmp | None = None
        self._process = subprocess.Popen(
            command_line(installation, side, vf, files, capabilities),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={
                **os.environ,
                "QEMU_MODULE_DIR": str(installation.root / "usr/lib/x86_64-linux-gnu/qemu"),
            },
        )

    @property
    def qmp(self) -> Qmp:
        """The QMP session."""
        assert self._qmp is not None
        return self._qmp

    def connect(self) -> None:
        """Wait until QEMU answers on QMP.

        Raises:
            Error: it ended before, with what it said.
        """
        try:
            self._qmp = Qmp.connect(self._files / f"{self.side}.qmp", self.alive)
        except Error as error:
            raise Error(f"the {self.side} QEMU: {error}: {self._last_words()}") from None

    def log(self) -> str:
        """Return what it has traced so far."""
        try:
            return (self._files / f"{self.side}.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def alive(self) -> bool:
        """Return whether it runs."""
        return self._process.poll() is None

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; return whether it came."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.exit_status = self._process.wait(timeout_s)
        return self.exit_status is not None

    def quit(self) -> int:
        """End it, with QMP's ``quit`` if it still answers; return its exit status."""
        if self._qmp is not None:
            # It may have ended by itself, as a target does when a migration to it fails.
            with contextlib.suppress(Error):
                self._qmp.command("quit")
            self._qmp.close()
        else:
            self._process.terminate()
        if not self.wait(_END_S):
            self._process.kill()
            self.exit_status = self._process.wait()
        self._log.close()
        assert self.exit_status is not None
        return self.exit_status

    def keep(self, folder: Path) -> None:
        """Move its logs to ``folder``; writing them there directly is slow over 9p."""
        for suffix in ("log", "stderr"):
            source = self._files / f"{self.side}.{suffix}"
            if source.exists():
                shutil.copyfile(source, folder / source.name)
                source.unlink()

    def _last_words(self) -> str:
        self._log.flush()
        text = (self._files / f"{self.side}.stderr").read_text(errors="replace")
        lines = [line for line in text.splitlines() if "warning:" not in line]
        return lines[-1] if lines else "it said nothing"
