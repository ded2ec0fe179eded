# SPDX-License-Identifier: GPL-2.0-or-later
"""Which driver a PCI device has: the files of sysfs for that, read and written.

A driver may take what it has an ID for, or only what it is named for in ``driver_override``, as
vfio-pci and its variants do: to those, DRIVER/bind gives nothing else (ENODEV). So a device is
always bound by its override, which is then what it was: a driver keeps what it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxtrace import devices

if TYPE_CHECKING:
    from pathlib import Path


def override(name: str) -> str:
    """Return the driver that alone may take the device ``name``; empty for no such one."""
    try:
        text = _override_of(name).read_text(encoding="ascii").strip()
    except OSError:
        return ""
    return "" if text == "(null)" else text


def set_override(name: str, driver: str) -> None:
    """Let ``driver`` alone take the device ``name``; empty for any that knows it.

    Raises:
        Error: it cannot be set.
    """
    if driver != override(name):
        write(_override_of(name), driver)


def unbind(name: str) -> None:
    """Take the device ``name`` from its driver.

    Raises:
        Error: it has none, for one.
    """
    write(_home(name) / "driver/unbind", name)


def bind(name: str, driver: str) -> None:
    """Give ``driver`` the device ``name``, which has none. Its override is left as it is.

    Raises:
        Error: the driver does not take it, or is not there.
    """
    found = override(name)
    set_override(name, driver)
    try:
        write(devices.SYSFS / "bus/pci/drivers_probe", name)
    finally:
        set_override(name, found)
    now = devices.lookup(name).driver
    if now != driver:
        raise Error(
            f"{name}: the driver {driver} did not take it", "is it loaded? dmesg may say more"
        )


def write(path: Path, text: str) -> None:
    """Write a file of sysfs.

    Raises:
        Error: the kernel refuses it.
    """
    try:
        path.write_text(f"{text}\n", encoding="ascii")
    except OSError as error:
        raise Error(f"cannot write {text!r} to {path}: {error.strerror}") from None


def _home(name: str) -> Path:
    return devices.SYSFS / "bus/pci/devices" / name


def _override_of(name: str) -> Path:
    return _home(name) / "driver_override"
