# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``mlxtrace doctor`` looks at among the devices: mlx5 VFs, and what they offer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxtrace import devices, vfio_open
from mlxtrace.devices import MLX5_DRIVER, DeviceInfo
from mlxtrace.doctor import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MELLANOX = "0x15b3"


def vfs(*, open_them: bool, generic: bool = False) -> Iterator[Finding]:
    """Each mlx5 VF with its driver, its group and its migration flags.

    ``generic``: each device that a driver of VFIO has.
    """
    if generic:
        bound = [device for device in _candidates() if device.vfio_device]
        if not bound:
            yield Finding(
                "devices",
                Verdict.DEGRADED,
                "no driver of VFIO has a PCI device yet: a trace would wait for one",
                "bind one to its VFIO driver",
            )
        for device in bound:
            yield _device(device, open_it=open_them)
        return
    found = [device for device in _candidates() if _is_mlx5_vf(device)]
    if not found:
        yield Finding(
            "vfs",
            Verdict.DEGRADED,
            "this host has no mlx5 VF yet: a trace would wait for one",
            "echo 1 > /sys/bus/pci/devices/PF/sriov_numvfs, then bind the VF to mlx5_vfio_pci",
        )
    for device in found:
        yield _vf(device, open_it=open_them)


def _candidates() -> Iterator[DeviceInfo]:
    for path in sorted((devices.SYSFS / "bus/pci/devices").glob("*:*")):
        try:
            yield devices.lookup(path.name)
        except Error:
            continue


def _is_mlx5_vf(device: DeviceInfo) -> bool:
    # One that mlx5_vfio_pci has is one, whatever its ids: the lab's are others.
    return device.is_vf and (device.driver == MLX5_DRIVER or device.ids.get("vendor") == _MELLANOX)


def _vf(device: DeviceInfo, *, open_it: bool) -> Finding:
    if device.driver != MLX5_DRIVER:
        hint = devices.bind_hint(device)
        return Finding(f"vf {device.name}", Verdict.DEGRADED, _where(device), hint)
    return _device(device, open_it=open_it)


def _where(device: DeviceInfo) -> str:
    group = "no IOMMU group" if device.iommu_group is None else f"IOMMU group {device.iommu_group}"
    return f"driver {device.driver or 'none'}, {group}"


def _device(device: DeviceInfo, *, open_it: bool) -> Finding:
    where = _where(device)
    topic = f"{'vf' if device.is_vf else 'device'} {device.name}"
    if device.iommu_group is None:
        return Finding(
            topic,
            Verdict.DEGRADED,
            where,
            "boot with intel_iommu=on or amd_iommu=on, with the IOMMU enabled in the firmware",
        )
    held = [name for path in _files(device) for name in devices.holders(path)]
    if held:
        return Finding(topic, Verdict.OK, f"{where}; in use by {held[0]}, so it was not opened")
    if not open_it:
        return Finding(topic, Verdict.OK, f"{where}; not opened (--no-open)")
    return _offer(device, topic, where)


def _files(device: DeviceInfo) -> Iterator[Path]:
    yield vfio_open.DEV / "vfio" / str(device.iommu_group)
    if device.vfio_device:
        yield vfio_open.DEV / "vfio/devices" / device.vfio_device


def _offer(device: DeviceInfo, topic: str, where: str) -> Finding:
    """Open the device, which nobody uses, and ask what it offers."""
    from mlxtrace.vfio import Device, MigrationFlags

    try:
        with Device.open(device.name) as opened:
            flags = opened.migration_flags()
    except Error as error:
        if "another process has it" in str(error):
            return Finding(topic, Verdict.OK, f"{where}; in use, so its flags are not known")
        return Finding(topic, Verdict.DEGRADED, f"{where}; it does not open: {error}", error.hint)
    names = " ".join(flag.name or "" for flag in MigrationFlags if flag in flags)
    mlx5 = device.driver == MLX5_DRIVER
    if not flags:
        return Finding(
            topic,
            Verdict.DEGRADED,
            f"{where}; it offers no migration",
            "enable it on the PF (devlink port function set ... migratable enable; mlxconfig "
            "VF_MIGRATION_MODE=2), with a firmware that has it"
            if mlx5
            else "bind it to a driver that does, if there is one",
        )
    if MigrationFlags.PRE_COPY not in flags:
        return Finding(
            topic,
            Verdict.DEGRADED,
            f"{where}; migration {names}, without PRE_COPY",
            "driver or firmware lack it: Linux 6.2, or 6.1 with the series that mlxpatch carries"
            if mlx5
            else "the driver lacks it: its migrations are one stream, made in STOP_COPY",
        )
    return Finding(topic, Verdict.OK, f"{where}; migration {names}")
