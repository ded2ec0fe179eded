# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel must have been configured with to run as the lab's guest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxpatch import build

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from mlxpatch.progress import Progress

_DRIVER = "drivers/vfio/pci/mlx5"


@dataclass(frozen=True)
class Need:
    """One option that the lab cannot do without.

    Attributes:
        option: its name without ``CONFIG_``.
        why: what needs it, as the end of a sentence.
        module: the module's name where ``m`` will do, nothing where it must be built in.
        choose: what to switch on to get it, where it is not offered itself.
    """

    option: str
    why: str
    module: str = ""
    choose: str = ""


# The guest's init and session, the VM's devices (vm.py), lab/firmware and mlx5-vfio-pci.
NEEDS = (
    Need("X86_64", "the VM is an x86_64 machine"),
    Need("MODULES", "the stand-in and the driver are modules"),
    Need("BLK_DEV_INITRD", "the guest boots from an initramfs"),
    Need("BINFMT_ELF", "the guest's programs"),
    Need("BINFMT_SCRIPT", "the guest's init is a script"),
    Need("DEVTMPFS", "the guest's /dev"),
    Need("PROC_FS", "the guest's /proc"),
    Need("SYSFS", "the guest's /sys"),
    Need("TMPFS", "what the guest writes stays in memory"),
    Need("DEBUG_FS", "the knobs of the simulated firmware"),
    Need("MAGIC_SYSRQ", "the guest powers off by it"),
    Need("SERIAL_8250_CONSOLE", "the console"),
    Need("ACPI", "the IOMMU is found by an ACPI table"),
    Need("PCI", "the VFs are PCI devices"),
    Need("PCI_MMCONFIG", "SR-IOV is in the extended configuration space"),
    Need("PCI_MSI", "interrupts of VFs"),
    Need("PCI_IOV", "SR-IOV"),
    Need("INTEL_IOMMU", "IOMMU groups of the VFs"),
    Need("IRQ_REMAP", "vfio wants interrupts to be remapped"),
    Need("VIRTIO_PCI", "the guest's root and its ports to the host", "virtio_pci"),
    Need("VIRTIO_CONSOLE", "the guest's ports to the host", "virtio_console"),
    Need("NET_9P", "the guest's root is the host's, over 9p", "9pnet"),
    Need("NET_9P_VIRTIO", "the guest's root is the host's, over 9p", "9pnet_virtio"),
    Need("9P_FS", "the guest's root is the host's, over 9p", "9p"),
    Need("OVERLAY_FS", "the guest's root can be written", "overlay"),
    Need("VFIO_PCI_CORE", "mlx5-vfio-pci stands on it", "vfio_pci_core", choose="VFIO_PCI"),
    Need("VFIO_IOMMU_TYPE1", "DMA mappings of vfio's users", "vfio_iommu_type1", choose="VFIO"),
    Need("KPROBES", "the stand-in notices an FLR by one"),
    Need("CRC32", "checksums of the simulated images", "crc32"),
    Need("XXHASH", "hashes of the simulated state", "xxhash", choose="CRYPTO_XXHASH"),
)
_MTTY = (Need("VFIO_MDEV", "mtty makes mediated devices", "mdev"),)
# What must not be set, and why; MLX5_CORE may be a module.
_OBSTACLES = (
    Need("MODULE_SIG_FORCE", "the lab's modules are not signed"),
    Need("LOCK_DOWN_KERNEL_FORCE_INTEGRITY", "the lab's modules are not signed"),
    Need("LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY", "the lab's modules are not signed"),
    Need("TRIM_UNUSED_KSYMS", "the lab's modules use symbols that nothing in the kernel does"),
    Need("MLX5_CORE", "the stand-in exports the same symbols; m or n will do", "mlx5_core"),
)
# The lab runs without these, but mlxtrace precopy does not.
_TRACING = ("BPF_SYSCALL", "PERF_EVENTS", "KPROBE_EVENTS", "BPF_EVENTS")


def parse(text: str) -> dict[str, str]:
    """Return the options set in the kernel configuration ``text``, without ``CONFIG_``."""
    return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", text, re.MULTILINE))


def module_names(order: str) -> set[str]:
    """Return the names of the modules in a modules.order file, with underscores."""
    # Object files since Linux 6.3, modules before.
    return {line.rpartition("/")[2].rpartition(".")[0].replace("-", "_") for line in order.split()}


def missing(config: Mapping[str, str], modules: Collection[str], device: str = "mlx5") -> list[str]:
    """Return what keeps a kernel from being the guest, a line each.

    ``modules`` are the names of its modules, with underscores; ``device`` is ``mlx5`` or ``mtty``.
    """
    lines = []
    for need in (*NEEDS, *(_MTTY if device == "mtty" else ())):
        value = config.get(need.option, "n")
        choose = f" (switch on CONFIG_{need.choose})" if need.choose else ""
        if value == "n":
            kind = "y or m" if need.module else "y"
            lines.append(f"CONFIG_{need.option}={kind} is missing: {need.why}{choose}")
        elif value == "m" and not need.module:
            lines.append(f"CONFIG_{need.option} is a module and must be built in: {need.why}")
        elif value == "m" and need.module not in modules:
            lines.append(f"module {need.module} (CONFIG_{need.option}=m) is missing: {need.why}")
    for obstacle in _OBSTACLES:
        if config.get(obstacle.option) == "y":
            lines.append(f"CONFIG_{obstacle.option}=y must not be set: {obstacle.why}")
    return lines


def check(
    what: str,
    text: str,
    modules: Collection[str],
    progress: Progress,
    hint: str,
    device: str = "mlx5",
) -> None:
    """Check the configuration ``text`` of the kernel that ``what`` names, for ``device``.

    What only tracing needs is noted.

    Raises:
        Error: something is missing; the message has all of it.
    """
    config = parse(text)
    lines = missing(config, modules, device)
    if lines:
        raise Error("\n  ".join([f"{what} cannot be the lab's guest:", *lines]), hint)
    untraceable = [f"CONFIG_{option}" for option in _TRACING if option not in config]
    if untraceable:
        progress.note(f"{what} has no {_listed(untraceable)}: mlxtrace precopy won't work there")


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def driver(source: Path, what: str) -> build.Recipe:
    """Return the recipe of mlx5-vfio-pci in the kernel sources ``source``.

    Raises:
        Error: ``what``, as the message calls it, has no such driver.
    """
    if not (source / _DRIVER / "Makefile").is_file():
        raise Error(
            f"{what} has no mlx5-vfio-pci driver: {source} has no {_DRIVER}",
            "the driver came with Linux 5.18: take that or a newer kernel",
        )
    return build.stock_driver(source)
