# SPDX-License-Identifier: GPL-2.0-or-later
"""A model of the sysfs of two VFs of one PF, whose drivers take devices as the kernel has it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxtrace import binding, devices

from .fake_driver import open_mark
from .fake_kernel import BDF, OTHER_BDF, FakeKernel

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

NAMES = (BDF, OTHER_BDF)
DRIVERS = "bus/pci/drivers"


class Sysfs:
    """What becomes of what is written to the files of two VFs.

    Attributes:
        written: the files' names and what was written to them, in order.
        refusing: drivers that take no device, since their probe fails.
        unwritable: names of files that cannot be written.
    """

    sysfs: Path

    def set_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make the PF and its VFs, the VFs without a driver where there is none yet."""
        self.written: list[str] = []
        self.refusing: set[str] = set()
        self.unwritable: set[str] = set()
        self.pf = self.sysfs / "bus/pci/devices/0000:01:00.0"
        self.pf.mkdir(parents=True)
        (self.sysfs / DRIVERS).mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(NAMES):
            self.path(name).mkdir(exist_ok=True)
            self.adopt(name, number)
            self.set_override(name, "")
        monkeypatch.setattr(binding, "write", self.write)

    def path(self, name: str) -> Path:
        return self.sysfs / "bus/pci/devices" / name

    def adopt(self, name: str, number: int) -> None:
        """Make ``name`` a VF of the PF."""
        (self.path(name) / "physfn").unlink(missing_ok=True)
        (self.path(name) / "physfn").symlink_to(self.pf)
        (self.pf / f"virtfn{number}").symlink_to(self.path(name))

    def sriov(self, numvfs: int, autoprobe: int) -> None:
        """Let the PF say how many VFs it has, and whether they get drivers when they are made."""
        (self.pf / "sriov_numvfs").write_text(f"{numvfs}\n")
        (self.pf / "sriov_drivers_autoprobe").write_text(f"{autoprobe}\n")

    def driver(self, name: str) -> str | None:
        return devices.lookup(name).driver

    def override(self, name: str) -> str:
        return (self.path(name) / "driver_override").read_text().strip()

    def set_override(self, name: str, driver: str) -> None:
        (self.path(name) / "driver_override").write_text(f"{driver or '(null)'}\n")

    def bind(self, name: str, driver: str | None) -> None:
        """Have ``name`` be found with ``driver``, however it came to it."""
        link = self.path(name) / "driver"
        link.unlink(missing_ok=True)
        for vfio in self.path(name).glob("vfio-dev/*"):
            vfio.rmdir()
        if driver:
            (self.sysfs / DRIVERS / driver).mkdir(parents=True, exist_ok=True)
            link.symlink_to(self.sysfs / DRIVERS / driver)

    def write(self, path: Path, text: str) -> None:
        """Do what the kernel does when a file of sysfs is written."""
        self.written.append(f"{path.name} {text}".strip())
        refusal = f"cannot write {text!r} to {path}"
        if path.name in self.unwritable:
            raise Error(f"{refusal}: Device or resource busy")
        there = sorted(entry.name for entry in (self.sysfs / DRIVERS).iterdir())
        if path.name == "driver_override":
            self.set_override(path.parent.name, text)
        elif path.name == "unbind":
            if not path.parent.exists():
                raise Error(f"{refusal}: No such file or directory")
            (self.path(text) / "driver").unlink()
        elif path.name == "bind":
            self._take(text, [path.parent.name], refusal)
        elif path.name == "drivers_probe":
            self._take(text, there)
        else:
            path.write_text(f"{text}\n")
        if path.name == "sriov_numvfs":
            for name in NAMES:
                # They are others, though their names are the same.
                (self.path(name) / "driver").unlink(missing_ok=True)
                self.set_override(name, "")
                probes = (self.pf / "sriov_drivers_autoprobe").read_text() == "1\n"
                self._take(name, there if probes and text != "0" else [])

    def _take(self, name: str, drivers: list[str], refusal: str = "") -> None:
        """Give a device to the first of ``drivers`` that takes it."""
        override = self.override(name)
        # What is VFIO's takes only what it is named for (PCI_ID_F_VFIO_DRIVER_OVERRIDE).
        takes = [
            driver
            for driver in drivers
            if driver == override or (override == "(null)" and "vfio" not in driver)
            if driver not in self.refusing
        ]
        link = self.path(name) / "driver"
        if takes and not link.exists():
            link.symlink_to(self.sysfs / DRIVERS / takes[0])
        elif refusal:
            raise Error(f"{refusal}: No such device")


class Host(Sysfs, FakeKernel):
    """VFIO with two VFs of one PF, whose sysfs binds and unbinds."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        FakeKernel.__init__(self, root, monkeypatch)
        self.set_up(monkeypatch)
        monkeypatch.setattr(devices, "PROC", root / "proc")


class DriverSysfs(Sysfs):
    """The sysfs of the VFs of a :class:`~.fake_driver.FakeDriver`."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sysfs = root
        self.set_up(monkeypatch)
        self.sriov(2, 1)
        for name in NAMES:
            self.bind(name, devices.MLX5_DRIVER)

    def write(self, path: Path, text: str) -> None:
        """Do it, but do not take away what is open: VFIO waits until it is closed."""
        taken = {"unbind": (text,), "sriov_numvfs": NAMES}.get(path.name, ())
        while path.parent.exists() and any(map(self._is_open, taken)):
            time.sleep(0.001)
        super().write(path, text)

    def _is_open(self, name: str) -> bool:
        return open_mark(self.sysfs, name).exists()
