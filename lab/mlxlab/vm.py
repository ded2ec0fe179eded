# SPDX-License-Identifier: GPL-2.0-or-later
"""The VM: QEMU's command line.

virtme-ng finds the modules that the kernel needs to reach its root, makes the initramfs and says
how to start QEMU with the host's root file system over 9p (``virtme-run --dry-run``). This adds
the lab's devices (an IOMMU, and an SR-IOV capable device behind a root port), the ports to the
guest, and a kernel command line that boots into mlxlab's own init, so that what runs in the guest
does not depend on which udev or systemd the host has.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlxlab import accel
from mlxlab.errors import NotStartedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlxlab.tree import Boot

GUEST = Path(__file__).resolve().parent / "guest"
# The root port is the first bridge, so what is behind it is on bus 1.
PF = "0000:01:00.0"
MAX_VFS = 64
_TOOLS = {
    accel.QEMU: "qemu-system-x86",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "modprobe": "kmod",
    "setpriv": "util-linux",
    "file": "file",
}


@dataclass(frozen=True)
class Machine:
    """The size of the VM, and what runs it: ``kvm`` or ``tcg``."""

    cpus: int = 2
    memory_mib: int = 2048
    vfs: int = 2
    accelerator: str = "tcg"


def check_tools() -> None:
    """Raise an error that names the package of the first missing tool."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for tool, package in _TOOLS.items():
        if shutil.which(tool, path=path) is None:
            raise NotStartedError(f"{tool} is missing", f"run: apt-get install {package} (as root)")
    if importlib.util.find_spec("virtme") is None:
        raise NotStartedError(
            "virtme-ng is missing from this Python environment", "install mlxtrace[lab]"
        )


def devices(machine: Machine) -> list[str]:
    """Return QEMU's arguments for the IOMMU and the device with SR-IOV.

    QEMU 7.2's nvme device is the SR-IOV capable one; its queues are shared out among the VFs,
    which need one each. Nobody uses it as an nvme: the stand-in takes it over.
    """
    vfs = max(machine.vfs, 1)
    queues = 2 * vfs + 2
    nvme = (
        f"nvme,serial=mlxlab,subsys=mlxlab,bus=mlxlab.port,sriov_max_vfs={vfs}"
        f",max_ioqpairs={queues},msix_qsize={queues + 1}"
        f",sriov_vq_flexible={2 * vfs},sriov_vi_flexible={vfs}"
    )
    return [
        *accel.arguments(machine.accelerator),
        *("-device", "intel-iommu,intremap=on"),
        *("-device", "pcie-root-port,id=mlxlab.port,bus=pcie.0,chassis=1,slot=1"),
        *("-device", "nvme-subsys,id=mlxlab"),
        *("-device", nvme),
    ]


def share(tag: str, path: Path, *, writable: bool) -> list[str]:
    """Return QEMU's arguments that export ``path`` to the guest over 9p as ``tag``."""
    ident = tag.replace(".", "-")
    readonly = "off" if writable else "on"
    # A comma in an option's value is written twice.
    quoted = str(path).replace(",", ",,")
    backend = f"local,id={ident},path={quoted},security_model=none,readonly={readonly}"
    return [
        *("-fsdev", f"{backend},multidevs=remap"),
        *("-device", f"virtio-9p-pci,fsdev={ident},mount_tag={tag}"),
    ]


def ports(sockets: Mapping[str, int], dmesg: Path) -> list[str]:
    """Return QEMU's arguments for the ports to the guest.

    ``sockets`` are inherited file descriptors of connected sockets by port name; ``dmesg`` is the
    file that the guest's kernel log goes to.
    """
    arguments = ["-device", "virtio-serial-pci,id=mlxlab-ports"]
    for name, descriptor in sockets.items():
        ident = f"mlxlab-{name}"
        arguments += ["-chardev", f"socket,id={ident},fd={descriptor}"]
        arguments += ["-device", f"virtserialport,name=mlxlab.{name},chardev={ident}"]
    arguments += ["-chardev", f"file,id=mlxlab-dmesg,path={str(dmesg).replace(',', ',,')}"]
    arguments += ["-device", "virtserialport,name=mlxlab.dmesg,chardev=mlxlab-dmesg"]
    return arguments


def kernel_command_line(boot: Boot, run: Path, *, quiet: bool = False) -> str:
    """Return the guest kernel's command line.

    Unless ``quiet``, the whole boot log goes to the serial console, which costs nothing that can be
    measured.
    """
    words = [
        "console=ttyS0",
        *(["quiet"] if quiet else ["earlyprintk=serial,ttyS0,115200", "loglevel=7"]),
        "log_buf_len=4M",
        "panic=-1",
        "oops=panic",
        "intel_iommu=on",
        # Nobody attacks the guest, and the workarounds are slow when they are emulated.
        "mitigations=off",
        # On a busy host ticks come late, and the kernel takes the timer for broken: it panics.
        "no_timer_check",
        "psmouse.proto=exps",
        f"mlxlab.run={run}",
        f"mlxlab.modules={boot.modules}",
        f"init={GUEST / 'init'}",
    ]
    for word in words:
        if set(word) & set(" \t\n'\""):
            raise NotStartedError(f"{word!r} cannot be a kernel parameter: it has white space")
    return " ".join(words)


def virtme_command(boot: Boot, machine: Machine, initramfs: Path) -> list[str]:
    """Return the command of virtme-ng that writes ``initramfs`` and prints QEMU's command."""
    return [
        sys.executable,
        "-m",
        "virtme.commands.run",
        "--dry-run",
        # A kernel that has all it needs built in gets one too: there is one way to boot.
        "--force-initramfs",
        "--show-command",
        f"--save-initramfs={initramfs}",
        f"--kimg={boot.image}",
        "--mods=auto",
        f"--memory={machine.memory_mib}M",
        f"--cpus={machine.cpus}",
        # The lab's own arguments choose.
        "--disable-kvm",
        "--disable-microvm",
        "--disable-monitor",
        "--force-9p",
        # Has overlay.ko put into the initramfs; mlxlab's init makes an overlay of the whole root.
        "--overlay-rwdir=/tmp",
    ]


def base_command(boot: Boot, machine: Machine, initramfs: Path) -> list[str]:
    """Run virtme-ng for QEMU's command, and make its initramfs.

    Raises:
        NotStartedError: it failed, or printed something else.
    """
    done = subprocess.run(
        virtme_command(boot, machine, initramfs),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NotStartedError(f"virtme-ng failed: {said[-1] if said else done.returncode}")
    return shlex.split(lines[-1])


def adapt(command: Sequence[str], console: str, kernel: str) -> list[str]:
    """Return virtme-ng's QEMU ``command`` with the lab's console and kernel command line.

    ``console`` is a chardev without its id: ``stdio,signal=off``.

    Raises:
        NotStartedError: the command is not as expected: another virtme-ng than we know.
    """
    words = list(command)
    consoles = [
        index
        for index, word in enumerate(words)
        if words[index - 1] == "-chardev" and ",id=console," in f"{word},"
    ]
    if len(consoles) != 1 or words.count("-append") != 1 or words.count("-initrd") != 1:
        raise NotStartedError(
            "this virtme-ng starts QEMU in a way that mlxlab does not know",
            "install virtme-ng 1.42",
        )
    backend, _, options = console.partition(",")
    words[consoles[0]] = f"{backend},id=console" + (f",{options}" if options else "")
    words[words.index("-append") + 1] = kernel
    return words


def dies_with_us() -> list[str]:
    """Return words before a command that make the kernel kill it when this process dies.

    The shell sees to the moment before that is arranged: a parent that has died by then has been
    replaced by another.
    """
    check = '[ "$PPID" = "$1" ] && shift && exec "$@"'
    return ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", check, "sh", str(os.getpid())]


def qemu_command(
    boot: Boot,
    machine: Machine,
    run: Path,
    out: Path,
    sockets: Mapping[str, int],
    *,
    console: str,
    quiet: bool = False,
) -> list[str]:
    """Return the complete command that starts the VM of the run in folder ``run``."""
    base = base_command(boot, machine, run / "initramfs")
    return [
        *adapt(base, console, kernel_command_line(boot, run, quiet=quiet)),
        "-no-reboot",
        *devices(machine),
        *share("mlxlab.root", Path("/"), writable=False),
        *share("mlxlab.out", out, writable=True),
        *ports(sockets, run / "dmesg.txt"),
    ]
