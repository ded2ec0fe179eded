# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices as sysfs shows them: names, drivers, IOMMU groups, and what to do about a wrong one.

A device is named by its PCI address (BDF) or, for a mediated device, by its UUID. Nothing here
opens a device: see :mod:`mlxtrace.vfio`.
"""

from __future__ import annotations

import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

SYSFS = Path("/sys")
PROC = Path("/proc")
MODULES = Path("/lib/modules")

# A PCI driver's sysfs name is its KBUILD_MODNAME: underscores, though the file has dashes.
MLX5_DRIVER = "mlx5_vfio_pci"

_BDF = re.compile(
    r"(?:(?P<domain>[0-9a-f]{4,8}):)?(?P<bus>[0-9a-f]{2}):(?P<slot>[01][0-9a-f])\.(?P<fn>[0-7])"
)


def parse_name(text: str) -> str:
    """Return the canonical name of a device: ``0000:01:00.1``, or a mediated device's UUID.

    The PCI domain may be left out (``01:00.1``), and capitals are taken. A path in sysfs stands for
    the device that it leads to.

    Raises:
        UsageError: ``text`` is none of these.
    """
    path = Path(text.strip())
    lowered = (path.resolve().name if path.is_relative_to(SYSFS) else text.strip()).lower()
    if match := _BDF.fullmatch(lowered):
        domain = match["domain"] or "0000"
        return f"{domain}:{match['bus']}:{match['slot']}.{match['fn']}"
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", lowered):
        return str(uuid.UUID(lowered))
    raise UsageError(
        f"{text!r} is not a device address",
        "give a PCI address such as 0000:01:00.1, a mediated device's UUID, or its path in sysfs",
    )


@dataclass(frozen=True)
class DeviceInfo:
    """What sysfs says of one device.

    Attributes:
        name: BDF or UUID, as :func:`parse_name` returns it.
        path: the device's directory in sysfs.
        driver: name of the bound driver, ``None`` when it has none.
        iommu_group: number of its IOMMU group, ``None`` when it is in none.
        is_vf: whether it is an SR-IOV virtual function (or a mediated device).
        vfio_device: ``vfioN``, its name in VFIO; ``None`` when no VFIO driver has it (or the
            kernel is older than 6.1, which had no such entry).
        ids: ``vendor``, ``device``, ``subsystem_vendor``, ``subsystem_device`` and ``revision``
            as sysfs spells them (``0x15b3``); those that the device has.
    """

    name: str
    path: Path
    driver: str | None
    iommu_group: int | None
    is_vf: bool
    vfio_device: str | None
    ids: dict[str, str]

    @property
    def is_mediated(self) -> bool:
        """Whether it is a mediated device: no PCI device, though its driver may play one."""
        return is_mediated(self.name)


def is_mediated(name: str) -> bool:
    """Tell whether ``name``, as :func:`parse_name` returns it, is a mediated device's."""
    return ":" not in name


def lookup(name: str) -> DeviceInfo:
    """Return what sysfs says of the device ``name``.

    Raises:
        UsageError: ``name`` is not a device name.
        Error: there is no such device.
    """
    name = parse_name(name)
    bus = "mdev" if is_mediated(name) else "pci"
    path = SYSFS / "bus" / bus / "devices" / name
    if not path.is_dir():
        raise Error(f"{name}: there is no such device", _absence_hint(name))
    group = _link_name(path / "iommu_group")
    return DeviceInfo(
        name=name,
        path=path,
        driver=_link_name(path / "driver"),
        iommu_group=int(group) if group is not None else None,
        is_vf=bus == "mdev" or (path / "physfn").exists(),
        vfio_device=next((p.name for p in sorted(path.glob("vfio-dev/vfio*"))), None),
        ids=dict(_identity(path)),
    )


def require_vfio_driver(device: DeviceInfo) -> None:
    """Check that a VFIO driver has the device.

    Raises:
        Error: it has no driver, or one that is not a VFIO driver; the hint has the commands.
    """
    if device.vfio_device is not None:
        return
    if device.driver is None:
        raise Error(f"{device.name}: no driver is bound to it", bind_hint(device))
    if device.is_mediated:
        # Whatever its name, a driver on that bus is one of VFIO's; before Linux 6.1 nothing else
        # tells.
        return
    if "vfio" not in device.driver:
        raise Error(
            f"{device.name}: it is bound to {device.driver}, not to a VFIO driver",
            bind_hint(device),
        )


def bind_hint(device: DeviceInfo) -> str:
    """Return the shell commands, on one line, that bind ``device`` to mlx5-vfio-pci.

    A mediated device is given back to the driver that made it.
    """
    if device.is_mediated:
        return f"echo {device.name} > {SYSFS}/bus/mdev/drivers_probe"
    if not device.is_vf:
        vfs = sorted(_link_name(link) or "" for link in device.path.glob("virtfn*"))
        listed = f"; its VFs: {' '.join(vfs)}" if vfs else ""
        return f"it is not a virtual function, and only those migrate{listed}"
    if not module_available(MLX5_DRIVER):
        return (
            f"this kernel ({os.uname().release}) has no mlx5-vfio-pci module: build one with "
            "mlxpatch build, load it, then bind the device"
        )
    steps = (
        [] if (SYSFS / "bus/pci/drivers" / MLX5_DRIVER).exists() else [f"modprobe {MLX5_DRIVER}"]
    )
    steps.append(f"echo {MLX5_DRIVER} > {device.path}/driver_override")
    if device.driver is not None:
        steps.append(f"echo {device.name} > {device.path}/driver/unbind")
    steps.append(f"echo {device.name} > {SYSFS}/bus/pci/drivers_probe")
    return "; ".join(steps)


def module_available(module: str) -> bool:
    """Tell whether ``module`` is loaded, built in, or found by modprobe for this kernel."""
    plain = module.replace("-", "_")
    if (SYSFS / "module" / plain).exists():
        return True
    wanted = re.compile(rf"(^|/){plain.replace('_', '[-_]')}\.ko(\.\w+)?(:|$)", re.MULTILINE)
    for listing in ("modules.dep", "modules.builtin"):
        path = MODULES / os.uname().release / listing
        try:
            if wanted.search(path.read_text(encoding="utf-8", errors="replace")):
                return True
        except OSError:
            continue
    return False


def vfio_modules() -> set[str]:
    """Modules whose drivers have a device in VFIO (since Linux 6.1); "" for one that has no name.

    A driver that is part of the kernel may have none.
    """
    return {
        _link_name(entry.parent / "driver" / "module") or ""
        for bus in ("pci", "mdev")
        for entry in (SYSFS / "bus" / bus / "devices").glob("*/vfio-dev")
    }


def unviable_members(group: int) -> list[str]:
    """Return the members of IOMMU group ``group`` that keep it from use, as ``BDF (driver)``.

    A group is viable when each member has a VFIO driver or none.
    """
    members = []
    for path in sorted((SYSFS / "kernel/iommu_groups" / str(group) / "devices").glob("*")):
        driver = _link_name(path / "driver")
        # A PCIe port's driver shares a group without harm: the kernel allows it.
        if driver is not None and "vfio" not in driver and driver != "pcieport":
            members.append(f"{path.name} ({driver})")
    return members


def holders(path: Path) -> list[str]:
    """Return the processes that have ``path`` open, as ``name (pid)``; those that can be seen."""
    found = []
    for process in sorted(PROC.glob("[0-9]*"), key=lambda entry: int(entry.name)):
        try:
            if any(fd.readlink() == path for fd in (process / "fd").iterdir()):
                command = (process / "comm").read_text(encoding="utf-8").strip()
                found.append(f"{command} ({process.name})")
        except OSError:
            continue
    return found


def _absence_hint(name: str) -> str:
    """Return what helps to find the right device when ``name`` does not exist."""
    if is_mediated(name):
        return (
            f"mediated devices are listed in {SYSFS}/bus/mdev/devices; one is made by writing its "
            f"UUID to {SYSFS}/class/mdev_bus/PARENT/mdev_supported_types/TYPE/create"
        )
    bound = [
        entry.name
        for entry in sorted((SYSFS / "bus/pci/drivers" / MLX5_DRIVER).glob("*:*"))
        if _BDF.fullmatch(entry.name)
    ]
    if bound:
        return f"bound to {MLX5_DRIVER}: {' '.join(bound)}"
    return "lspci -D lists PCI addresses; VFs appear when sriov_numvfs of their PF is set"


def _identity(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the identifying attributes of the device at ``path`` that exist."""
    for attribute in ("vendor", "device", "subsystem_vendor", "subsystem_device", "revision"):
        try:
            yield attribute, (path / attribute).read_text(encoding="ascii").strip()
        except OSError:
            continue


def _link_name(path: Path) -> str | None:
    """Return the last component of what the symbolic link ``path`` points to."""
    try:
        return path.readlink().name
    except OSError:
        return None
