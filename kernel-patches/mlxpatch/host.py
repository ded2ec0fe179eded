# SPDX-License-Identifier: GPL-2.0-or-later
"""What a test host has: which modules a release would load, which are loaded, which VFs are used.

Every path is below ``root``, so that a mounted image, or a test's folder, is looked at alike.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from genbindings.errors import Error
from mlxpatch import modinfo

DRIVER = "mlx5_vfio_pci"
_DEVICE = re.compile(
    r"/dev/vfio/(?:\d+|noiommu-\d+|devices/vfio\d+)$|anon_inode:\[?vfio-device\]?$"
)


@dataclass(frozen=True)
class User:
    """A process that has a device of VFIO open."""

    pid: int
    command: str
    what: str


@dataclass(frozen=True)
class Host:
    """A host, or the file system of one."""

    root: Path = Path("/")

    @property
    def live(self) -> bool:
        """Whether it is the host that this runs on."""
        return self.root == Path("/")

    def modules(self, release: str) -> Path:
        """Return the folder of the kernel ``release``.

        Raises:
            Error: there is none.
        """
        folder = self.root / "lib/modules" / release
        if not folder.is_dir():
            there = sorted(path.name for path in folder.parent.glob("*") if path.is_dir())
            hint = f"kernels here: {', '.join(there)}" if there else "is it the right --root?"
            raise Error(f"{folder} does not exist", hint)
        return folder

    def vfs(self) -> list[str]:
        """Return the BDFs of the devices that the driver has."""
        folder = self.root / "sys/bus/pci/drivers" / DRIVER
        pattern = "[0-9a-f]*:[0-9a-f]*:[0-9a-f]*.[0-7]"
        return sorted(path.name for path in folder.glob(pattern))

    def users(self) -> list[User]:
        """Return the processes that have a VFIO device or group open."""
        found = []
        for folder in sorted((self.root / "proc").glob("[0-9]*"), key=lambda path: path.name):
            held = _held(folder / "fd")
            if held:
                found.append(User(int(folder.name), _first_line(folder / "comm"), held[0]))
        return sorted(found, key=lambda user: user.pid)

    def references(self, module: str) -> int | None:
        """Return how often the loaded ``module`` is in use, None if it is not loaded."""
        text = _first_line(self.root / "sys/module" / module / "refcnt")
        return int(text) if text.isdigit() else None

    def loaded_build_id(self, module: str) -> str | None:
        """Return the build id of the loaded ``module``, None if it is not loaded or has none."""
        notes = self.root / "sys/module" / module / "notes/.note.gnu.build-id"
        try:
            return modinfo.build_id(notes.read_bytes()) or None
        except OSError:
            return None

    def is_loaded(self, module: str) -> bool:
        """Whether ``module`` is loaded (not built in)."""
        return (self.root / "sys/module" / module / "initstate").exists()

    def depmod(self, release: str) -> None:
        """Write anew the lists that modprobe reads.

        Raises:
            Error: depmod is missing or failed.
        """
        tool = shutil.which("depmod", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if tool is None:
            raise Error("depmod is missing", "run: apt-get install kmod (as root)")
        command = [tool, "-b", str(self.root)]
        if not self.live:
            # depmod would follow the settings of the host that it runs on.
            places = [self.root / place / "depmod.d" for place in ("etc", "run", "usr/lib", "lib")]
            there = [place for place in places if place.is_dir()] or places[:1]
            command += [word for place in there for word in ("-C", str(place))]
        done = subprocess.run([*command, release], capture_output=True, text=True)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()
            raise Error(f"depmod failed: {said[-1] if said else done.returncode}")

    def chosen(self, release: str) -> dict[str, Path]:
        """Return the file of each module that modprobe would load, by depmod's list.

        A file that was removed since is left out.
        """
        folder = self.modules(release)
        try:
            lines = (folder / "modules.dep").read_text().splitlines()
        except OSError:
            return {}
        files = (folder / line.partition(":")[0] for line in lines)
        return {
            path.name.partition(".")[0].replace("-", "_"): path for path in files if path.exists()
        }

    def initramfs(self, release: str) -> list[str] | None:
        """Return the command that makes the initramfs of ``release`` anew, None without one."""
        image = self.root / "boot"
        if (image / f"initrd.img-{release}").exists():
            return ["update-initramfs", "-u", "-k", release]
        if (image / f"initramfs-{release}.img").exists():
            return ["dracut", "--force", "--kver", release]
        return None

    def secure_boot(self) -> bool:
        """Whether the firmware lets only signed modules be loaded, as far as can be told."""
        folder = self.root / "sys/firmware/efi/efivars"
        for path in folder.glob("SecureBoot-*"):
            try:
                # Four bytes of attributes, then the value: 1 is on.
                return path.read_bytes()[4:5] == b"\x01"
            except OSError:
                return False
        return False


def _held(folder: Path) -> list[str]:
    try:
        links = [os.readlink(entry.path) for entry in os.scandir(folder)]  # noqa: PTH115
    except OSError:
        # It ended, or is somebody else's.
        return []
    return sorted(link for link in links if _DEVICE.search(link))


def _first_line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").partition("\n")[0]
    except OSError:
        return ""
