# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's simulated firmware, where there is one: what its debugfs files do for the checks.

The files are those of the module mlx5_lab: see docs/lab.md.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxtrace import devices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DEBUGFS = Path("/sys/kernel/debug/mlx5_lab")
BUSY_BYTES_PER_S = 8 << 20
_RATE = "dirty_bytes_per_s"
_FAULTS = "faults"


class SimulatedFirmware:
    """The firmware behind some VFs; :class:`mlxtrace.checks.Firmware` says what it is for."""

    def __init__(self, names: Iterable[str]) -> None:
        """Note what is set for the VFs ``names``."""
        self._found = {name: _read(name, _RATE) for name in names}
        self._faulty = {name for name in self._found if _read(name, _FAULTS)}
        self._pfs = sorted({pf for name in self._found if (pf := _pf(name))})

    def set_busy(self, device: str, busy: bool) -> None:
        """Have the running device change its state all the time, or not at all."""
        _write(device, _RATE, str(BUSY_BYTES_PER_S if busy else 0))

    def tracks(self, device: str) -> bool:
        """Tell whether the firmware notes what changes in the device's state."""
        return "tracked 1" in _read(device, "status").splitlines()

    def write(self, device: str, address: int) -> None:
        """Have the device write to memory, at an address as it sees it."""
        _write(device, "dma", str(address))

    def objects(self) -> dict[str, int]:
        """Return how many objects the driver holds of each kind."""
        held: dict[str, int] = {}
        for pf in self._pfs:
            words = _read(pf, "objects").split()
            for kind, count in zip(words[::2], words[1::2], strict=True):
                held[kind] = held.get(kind, 0) + int(count)
        return held

    @contextlib.contextmanager
    def slow_saves(self, device: str, delay_s: float) -> Iterator[None]:
        """Have each SAVE take so much longer for a while.

        Where faults are set already nothing is done: they are there for a reason.
        """
        if _read(device, _FAULTS):
            yield
            return
        _write(device, _FAULTS, f"save delay_us={delay_s * 1e6:.0f}")
        try:
            yield
        finally:
            _write(device, _FAULTS, "clear")

    def restore(self) -> None:
        """Set the VFs as they were found."""
        for name, rate in self._found.items():
            if (DEBUGFS / name).is_dir():
                _write(name, _RATE, rate)
                # A check that was killed could not do it.
                if name not in self._faulty and _read(name, _FAULTS):
                    _write(name, _FAULTS, "clear")


@dataclass
class Loan:
    """The firmware while it is in use.

    Attributes:
        firmware: None if the devices' is real.
        hold: the devices are stuck in the kernel, and not to be touched any more.
        trouble: why it could not be left as it was found; empty if it was.
    """

    firmware: SimulatedFirmware | None
    hold: bool = False
    trouble: str = ""


@contextlib.contextmanager
def borrowed(names: Iterable[str]) -> Iterator[Loan]:
    """Find the simulated firmware of the VFs ``names``, if there is one, and leave it as it was."""
    names = list(names)
    is_there = all((DEBUGFS / name / _RATE).is_file() for name in names)
    loan = Loan(SimulatedFirmware(names) if is_there else None)
    try:
        yield loan
    finally:
        if loan.firmware and not loan.hold:
            try:
                loan.firmware.restore()
            except Error as error:
                loan.trouble = str(error)


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
