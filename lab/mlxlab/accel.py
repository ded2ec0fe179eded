# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM or TCG: KVM is used where a short probe boot shows that it works.

That /dev/kvm can be opened says little: in many containers and nested machines it can, and the
guest then dies or stands still. The probe boots the lab's own kernel, with the lab's machine, up to
the panic that follows from having no root file system. Its answer holds until this machine boots
again or QEMU changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from mlxlab.errors import NotStartedError
from mlxpatch import cache

if TYPE_CHECKING:
    from mlxpatch.progress import Progress

QEMU = "qemu-system-x86_64"
DEVICE = Path("/dev/kvm")
CHOICES = ("auto", "kvm", "tcg")
# Up to the panic it takes about a second where KVM works, and 3 s under TCG.
_PROBE_S = 20.0
_SUCCESS = b"Kernel panic - not syncing: VFS"

# One thread for all CPUs, which costs nothing here. With a thread for each, QEMU 7.2 crashes the
# guest now and then ("Oops: int3"), where the kernel patches code that another CPU runs.
_ARGUMENTS = {
    "tcg": ["-machine", "kernel-irqchip=off", "-accel", "tcg,thread=single"],
    # Interrupt remapping needs the I/O APIC in QEMU; the local ones may be the kernel's.
    "kvm": ["-machine", "kernel-irqchip=split", "-accel", "kvm", "-cpu", "host"],
}


def arguments(accelerator: str) -> list[str]:
    """Return QEMU's arguments for ``accelerator``, ``kvm`` or ``tcg``."""
    return list(_ARGUMENTS[accelerator])


def choose(wanted: str, image: Path, progress: Progress) -> str:
    """Return ``kvm`` or ``tcg``; ``wanted`` is one of :data:`CHOICES`, ``image`` a kernel.

    Raises:
        NotStartedError: KVM is wanted and does not work.
    """
    if wanted == "tcg":
        return "tcg"
    obstacle = _obstacle(image, progress)
    if obstacle and wanted == "kvm":
        raise NotStartedError(f"KVM does not work here: {obstacle}", "leave out --accel")
    return "tcg" if obstacle else "kvm"


def _obstacle(image: Path, progress: Progress) -> str:
    """Return why KVM cannot be used, or nothing."""
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"{DEVICE} {'may not be opened' if DEVICE.exists() else 'does not exist'}"
    state = cache.root() / "kvm.json"
    key = _key()
    with contextlib.suppress(OSError, ValueError, KeyError):
        known = json.loads(state.read_text())
        if known["key"] == key:
            return str(known["obstacle"])
    with progress.stage("trying KVM"):
        obstacle = probe(image)
    with cache.writing(state):
        state.write_text(json.dumps({"key": key, "obstacle": obstacle}) + "\n")
    return obstacle


def _key() -> str:
    qemu = Path(shutil.which(QEMU) or QEMU)
    about = qemu.stat()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    text = f"{boot} {qemu.resolve()} {about.st_size} {about.st_mtime_ns}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def probe(image: Path) -> str:
    """Boot ``image`` under KVM; return what went wrong, or nothing."""
    command = [
        QEMU,
        *("-machine", "q35", *arguments("kvm")),
        *("-device", "intel-iommu,intremap=on"),
        *("-m", "512", "-smp", "2", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-serial", "stdio", "-kernel", str(image)),
        *("-append", "console=ttyS0 earlyprintk=serial panic=-1 intel_iommu=on"),
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PROBE_S,
        )
    except subprocess.TimeoutExpired as error:
        said, ended = error.stdout or b"", False
    else:
        said, ended = done.stdout, True
    if _SUCCESS in said:
        return ""
    lines = said.decode(errors="replace").strip().splitlines()
    last = f"; its last words: {lines[-1][:120]}" if lines else ""
    if ended:
        return f"a kernel did not come up{last}"
    return f"a kernel had not come up after {_PROBE_S:.0f} s{last}"
