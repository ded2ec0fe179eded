# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's simulated firmware, where there is one: what its debugfs files do for the checks.

The files are those of the module mlx5_lab: see docs/lab.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxtrace import devices

if TYPE_CHECKING:
    from collections.abc import Iterable

DEBUGFS = Path("/sys/kernel/debug/mlx5_lab")
BUSY_BYTES_PER_S = 8 << 20
_RATE = "dirty_bytes_per_s"


class SimulatedFirmware:
    """The firmware behind some VFs; :class:`mlxtrace.checks.Firmware` says what it is for."""

    def __init__(self, names: Iterable[str]) -> None:
        """Note what is set for the VFs ``names``."""
        self._found = {name: _read(name, _RATE) for name in names}
        self._pfs = sorted({pf for name in self._found if (pf := _pf(name))})

    def set_busy(self, device: str, busy: bool) -> None:
        """Have the running device change its state all the time, or not at all."""
        _write(device, _RATE, str(BUSY_BYTES_PER_S if busy else 0))

    def tracks(self, device: str) -> bool:
        """Tell whether the firmware notes what changes in the device's state."""
        return "tracked 1" in _read(device, "status").splitlines()

    def objects(self) -> dict[str, int]:
        """Return how many objects the driver holds of each kind."""
        held: dict[str, int] = {}
        for pf in self._pfs:
            words = _read(pf, "objects").split()
            for kind, count in zip(words[::2], words[1::2], strict=True):
                held[kind] = held.get(kind, 0) + int(count)
        return held

    def restore(self) -> None:
        """Set the VFs as they were found."""
        for name, rate in self._found.items():
            if (DEBUGFS / name).is_dir():
                _write(name, _RATE, rate)


def find(names: Iterable[str]) -> SimulatedFirmware | None:
    """Return the simulated firmware of the VFs ``names``, None if theirs is real."""
    names = list(names)
    if all((DEBUGFS / name / _RATE).is_file() for name in names):
        return SimulatedFirmware(names)
    return None


def _pf(name: str) -> str | None:
    try:
        return (devices.SYSFS / "bus/pci/devices" / name / "physfn").readlink().name
    except OSError:
        return None


def _read(device: str, name: str) -> str:
    path = DEBUGFS / device / name
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise Error(f"cannot read {path}: {error.strerror}") from None


def _write(device: str, name: str, value: str) -> None:
    path = DEBUGFS / device / name
    try:
        path.write_text(f"{value}\n", encoding="ascii")
    except OSError as error:
        raise Error(f"cannot write {path}: {error.strerror}") from None
