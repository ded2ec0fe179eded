# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the driver's fields are: taken from the running module's BTF, else from its DWARF.

The driver's structs are private and change with every patch revision, so no offset is written
down anywhere. What is written down here is which fields are wanted, under the names that the
kernels have used.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from genbindings.errors import Error
from mlxtrace import modulefiles
from mlxtrace.catalogue import DRIVER, VFIO
from mlxuapi import vfio as uapi

if TYPE_CHECKING:
    from pathlib import Path


class Types(Protocol):
    """Anything that knows offsets: see :class:`mlxtrace.btf.Btf`."""

    def offset(self, struct: str, *path: str) -> int | None:
        """Offset of a member in bytes, or None."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One offset of the BPF program.

    Attributes:
        macro: its name in the program.
        parts: (struct, field, …) whose offsets are added up; a field may be a tuple of names, of
            which the first one that exists counts.
        needed: whether the program cannot be made without it.
    """

    macro: str
    parts: tuple[tuple[str, str | tuple[str, ...]], ...]
    needed: bool = True


_DRIVER = "mlx5vf_pci_core_device"
_FILE = "mlx5_vf_migration_file"
_BUFFER = "mlx5_vhca_data_buffer"

WANTED: tuple[Wanted, ...] = (
    Wanted("OFF_VDEV", ((_DRIVER, "core_device"), ("vfio_pci_core_device", "vdev"))),
    Wanted("OFF_VDEV_DEV", (("vfio_device", "dev"),)),
    Wanted("OFF_DEVICE_NAME", (("device", "kobj"), ("kobject", "name"))),
    Wanted("OFF_MVDEV_MDEV", ((_DRIVER, "mdev"),)),
    Wanted("OFF_MVDEV_VHCA", ((_DRIVER, "vhca_id"),)),
    Wanted("OFF_MVDEV_STATE", ((_DRIVER, "mig_state"),)),
    Wanted("OFF_FILE_PRIVATE", (("file", "private_data"),)),
    Wanted("OFF_FILE_POS", (("file", "f_pos"),)),
    Wanted("OFF_MIGF_MVDEV", ((_FILE, "mvdev"),)),
    # 6.2 replaced the single image's total_length by a queue of buffers and its end, max_pos.
    Wanted("OFF_MIGF_POSITION", ((_FILE, ("max_pos", "total_length")),)),
    Wanted("OFF_MIGF_WORK", ((_FILE, "async_data"), ("mlx5vf_async_data", "cb_work"))),
    Wanted("OFF_WORK_OUT", (("mlx5_async_work", "out"),)),
    Wanted("OFF_BUFFER_START", ((_BUFFER, "start_pos"),), needed=False),
    Wanted("OFF_BUFFER_LENGTH", ((_BUFFER, "length"),), needed=False),
    Wanted("OFF_BUFFER_ALLOCATED", ((_BUFFER, "allocated_length"),), needed=False),
    # 6.16 counts pages.
    Wanted("OFF_BUFFER_PAGES", ((_BUFFER, "npages"),), needed=False),
    Wanted("OFF_BUFFER_MIGF", ((_BUFFER, "migf"),), needed=False),
    Wanted("OFF_INFO_INITIAL", (("vfio_precopy_info", "initial_bytes"),), needed=False),
    Wanted("OFF_INFO_DIRTY", (("vfio_precopy_info", "dirty_bytes"),), needed=False),
    Wanted("OFF_MVDEV_SAVING", ((_DRIVER, "saving_migf"),), needed=False),
    Wanted("OFF_MVDEV_RESUMING", ((_DRIVER, "resuming_migf"),), needed=False),
    # A PCI driver's data is its vfio_pci_core_device.
    Wanted("OFF_CORE_VDEV", (("vfio_pci_core_device", "vdev"),)),
    Wanted("OFF_PCI_DRVDATA", (("pci_dev", "dev"), ("device", "driver_data")), needed=False),
)


# The same for any driver, from VFIO's core alone.
WANTED_GENERIC: tuple[Wanted, ...] = (
    *(
        wanted
        for wanted in WANTED
        if wanted.macro in ("OFF_VDEV_DEV", "OFF_DEVICE_NAME", "OFF_FILE_PRIVATE", "OFF_FILE_POS")
    ),
    # Newer kernels have a struct for the file of a device, in 6.1 it is the device.
    Wanted("OFF_DEVICE_OF_FILE", (("vfio_device_file", "device"),), needed=False),
)


@dataclass(frozen=True, slots=True)
class Layouts:
    """The offsets of the program.

    Attributes:
        source: where they are from: ``BTF of mlx5_vfio_pci``, ``DWARF of /lib/…``.
        offsets: bytes, by macro. Optional ones that do not exist are absent.
        generic: whether they are those of VFIO's core only.
    """

    source: str
    offsets: dict[str, int]
    generic: bool = False

    @property
    def has_buffers(self) -> bool:
        """Whether the driver queues buffers (Linux 6.2), so that a SAVE's size can be read."""
        return "OFF_BUFFER_START" in self.offsets and "OFF_BUFFER_LENGTH" in self.offsets

    @property
    def has_precopy_info(self) -> bool:
        """Whether the driver knows vfio_precopy_info (Linux 6.2)."""
        return "OFF_INFO_INITIAL" in self.offsets and "OFF_INFO_DIRTY" in self.offsets

    @property
    def has_owners(self) -> bool:
        """Whether a buffer says whose it is."""
        return "OFF_BUFFER_MIGF" in self.offsets

    @property
    def has_files(self) -> bool:
        """Whether a device says which data files it has open."""
        return "OFF_MVDEV_SAVING" in self.offsets and "OFF_MVDEV_RESUMING" in self.offsets

    def why_not(self, probe: str) -> str:
        """Say what ``probe`` needs and the driver lacks; "" if it can be attached."""
        if self.generic:
            return ""
        if probe == "precopy-ioctl" and not self.has_precopy_info:
            return "this driver has no PRE_COPY"
        if probe.startswith("buffer-") and not self.has_buffers:
            return "this driver has no buffers"
        if probe in ("buffer-free", "mkey") and self.has_buffers and not self.has_owners:
            return "this driver's buffers do not say whose they are"
        if probe in ("session-end", "reset") and not self.has_files:
            return "this driver's devices do not say which data files are open"
        if probe == "reset" and "OFF_PCI_DRVDATA" not in self.offsets:
            return "the driver's data of a PCI device is not found"
        return ""


def resolve(types: Types, source: str, *, generic: bool = False) -> Layouts:
    """Look up all of :data:`WANTED` in ``types``, which ``source`` names.

    ``generic``: :data:`WANTED_GENERIC` instead.

    Raises:
        Error: a needed field is not there; the message names all of them.
    """
    offsets: dict[str, int] = {}
    missing: list[str] = []
    for wanted in WANTED_GENERIC if generic else WANTED:
        total = 0
        for struct, field in wanted.parts:
            names = (field,) if isinstance(field, str) else field
            at = next((o for n in names if (o := types.offset(struct, n)) is not None), None)
            if at is None:
                if wanted.needed:
                    missing.append(f"{struct}.{'/'.join(names)}")
                break
            total += at
        else:
            offsets[wanted.macro] = total
    if missing:
        raise Error(
            f"{source} has no {', '.join(missing)}",
            "this driver is laid out in a way that mlxtrace has not seen yet: please report it "
            "with the module's version",
        )
    if generic:
        # Part of the ABI.
        for macro, field in (("INITIAL", "initial_bytes"), ("DIRTY", "dirty_bytes")):
            offsets[f"OFF_INFO_{macro}"] = getattr(uapi.vfio_precopy_info, field).offset
    return Layouts(source, offsets, generic)


class DwarfTypes:
    """Offsets from the DWARF of a module or of its debug file."""

    def __init__(self, path: Path) -> None:
        from genbindings import dwarf

        wanted = (*WANTED, *WANTED_GENERIC)
        names = {struct for each in wanted for struct, _ in each.parts}
        self._layouts = dwarf.struct_layouts(path, names)

    def offset(self, struct: str, *path: str) -> int | None:
        """Offset of ``struct.path[0]``; deeper paths are not followed."""
        layout = self._layouts.get(struct)
        if layout is None or len(path) != 1 or path[0] not in layout.fields:
            return None
        return layout.fields[path[0]].offset

    @property
    def found(self) -> bool:
        """Whether the file has any of the structs."""
        return bool(self._layouts)


def of_file(path: Path, kernel: Path | None = None) -> Layouts:
    """Return the layouts of a module's file, from its BTF (with the kernel's BTF) or its DWARF.

    Raises:
        Error: it has neither, or a needed field is not there.
    """
    from mlxtrace.btf import Btf

    base = Btf.of_file(kernel) if kernel is not None else None
    types = Btf.of_file(path, base)
    if types is not None and types.has_struct(_FILE):
        return resolve(types, f"BTF of {path}")
    try:
        dwarf = DwarfTypes(path)
    except Error as error:
        raise Error(f"{path} has neither BTF nor DWARF with the driver's structs") from error
    if not dwarf.found:
        raise Error(f"{path} has neither BTF nor DWARF with the driver's structs")
    return resolve(dwarf, f"DWARF of {path}")


def of_running_module() -> Layouts:
    """Return the layouts of the loaded mlx5-vfio-pci.

    Raises:
        Error: neither BTF nor DWARF of it is to be found, or a needed field is not there.
    """
    from mlxtrace.btf import Btf

    types = Btf.of_module(DRIVER)
    if types is not None and types.has_struct(_FILE):
        return resolve(types, f"BTF of {DRIVER}")
    found, tried = _from_dwarf(DRIVER)
    if found is not None:
        return found
    raise Error(
        f"the layout of {DRIVER}'s structs is unknown: no BTF (/sys/kernel/btf/{DRIVER}), and no "
        f"DWARF in {tried}",
        "build the module with CONFIG_DEBUG_INFO_BTF, or with -g, or install its debug package "
        f"(on Debian linux-image-{platform.release()}-dbg; on Fedora and RHEL kernel-debuginfo)",
    )


def of_running_core() -> Layouts:
    """Return the layouts of VFIO's core, which is enough for :data:`catalogue.GENERIC`.

    Raises:
        Error: neither BTF nor DWARF of it is to be found, or a needed field is not there.
    """
    from mlxtrace.btf import Btf

    # The core may be part of the kernel.
    for types, source in ((Btf.of_module(VFIO), f"BTF of {VFIO}"), (Btf.of_kernel(), "BTF")):
        if types is not None and types.has_struct("vfio_device"):
            return resolve(types, source, generic=True)
    found, tried = _from_dwarf(VFIO, generic=True)
    if found is not None:
        return found
    raise Error(
        f"the layout of VFIO's structs is unknown: no BTF (/sys/kernel/btf/{VFIO}), and no DWARF "
        f"in {tried}",
        "load the module vfio, or build it with CONFIG_DEBUG_INFO_BTF",
    )


def _from_dwarf(module: str, *, generic: bool = False) -> tuple[Layouts | None, str]:
    """Return the layouts from the first file of ``module`` that has them, and what was tried."""
    tried = []
    for path in modulefiles.candidates(module):
        tried.append(str(path))
        try:
            with modulefiles.plain(path) as file:
                dwarf = DwarfTypes(file)
        except modulefiles.PackedError as error:
            tried[-1] += f" ({error})"
            continue
        except Error:
            continue
        if dwarf.found:
            return resolve(dwarf, f"DWARF of {path}", generic=generic), ""
    return None, " or ".join(tried) or f"any file of it in {modulefiles.MODULES}"
