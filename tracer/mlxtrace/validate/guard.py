# SPDX-License-Identifier: GPL-2.0-or-later
"""What may be touched: devices are refused, or borrowed and handed back as they were found."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from genbindings.errors import Error, UsageError
from mlxtrace import binding, devices, vfio_open
from mlxtrace.checks.child import Child
from mlxtrace.devices import MLX5_DRIVER, DeviceInfo
from mlxtrace.vfio import Device, MigrationFlags, VfioError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_OPEN_S = 60.0
"""How long it may take to open a device: a real one is reset."""


class RefusedError(Error):
    """A device is not to be touched, or cannot be: nothing was checked."""

    status = 3


@dataclass(frozen=True)
class Offer:
    """What the devices are found to be.

    Attributes:
        driver: the driver of both.
        flags: what the source's driver offers.
        state_bytes: its estimate of the source's state, RUNNING and just reset; 0: it has none.
    """

    driver: str
    flags: MigrationFlags
    state_bytes: int = 0


def look_up(names: Sequence[str], *, destructive: bool = False) -> list[DeviceInfo]:
    """Return what sysfs says of the devices ``names``, which nobody may be using.

    Raises:
        RefusedError: one is not there, is no VF, or is in use; or, if ``destructive``, its PF has
            VFs that are not among ``names``.
    """
    with _refusing():
        found = [devices.lookup(name) for name in names]
        for device in found:
            if not device.is_vf:
                raise Error(f"{device.name}: not a virtual function", devices.bind_hint(device))
            _require_idle(device)
            if destructive and (others := _siblings(device) - set(names)):
                raise Error(
                    f"--destructive: the PF of {device.name} has VFs that were not named: "
                    f"{' '.join(sorted(others))}",
                    "have it make two VFs only (sriov_numvfs), or leave --destructive out",
                )
        return found


@contextlib.contextmanager
def borrowed(found: Sequence[DeviceInfo], *, bind: bool) -> Iterator[Loan]:
    """Have each device bound to a VFIO driver; give it back to its own driver at the end.

    Raises:
        RefusedError: one has another driver, and ``bind`` does not allow to take it, or a network
            interface of it is up.
    """
    loan = Loan()
    try:
        with _refusing():
            for device in found:
                loan.take(device, bind)
        yield loan
    except Error as error:
        loan.give_back()
        if loan.troubles:
            raise RefusedError("; ".join([str(error), *loan.troubles]), error.hint) from None
        raise
    except BaseException:
        loan.give_back()
        raise
    loan.give_back()


class Loan:
    """Devices as they were found.

    Attributes:
        troubles: what could not be given back, for the user.
        hold: the devices are stuck in the kernel, and not to be touched any more.
    """

    def __init__(self) -> None:
        self._found: list[tuple[DeviceInfo, str]] = []
        # What a check that was ended half way leaves at 0, in the order of putting it back.
        self._settings: dict[Path, str] = {}
        self.troubles: list[str] = []
        self.hold = False

    def take(self, device: DeviceInfo, bind: bool) -> None:
        """Note what ``device`` is, and have it bound to a VFIO driver."""
        self._found.append((device, binding.override(device.name)))
        for name in ("sriov_numvfs", "sriov_drivers_autoprobe"):
            path = device.path.resolve() / "physfn" / name
            if path.is_file():
                self._settings[path.resolve()] = path.read_text(encoding="ascii").strip()
        if bind and not device.is_mediated and _has_no_migration(device.driver):
            _require_no_interface(device)
            _bind(device)
            device = devices.lookup(device.name)
        try:
            devices.require_vfio_driver(device)
        except Error as error:
            hint = f"--bind does it for the time of the run; or {error.hint}"
            raise Error(str(error), hint) from None

    def give_back(self) -> None:
        """Leave every device as it was found; what fails is noted in ``troubles``.

        That takes more than undoing a ``bind`` where a check was ended half way.
        """
        if self.hold:
            names = " ".join(device.name for device, _ in self._found)
            self.troubles.append(f"{names}: left as they are, since the kernel hangs")
            return
        for path, setting in self._settings.items():
            try:
                # Anything else is somebody else's.
                if path.read_text(encoding="ascii").strip() == "0" != setting:
                    binding.write(path, setting)
            except (Error, OSError) as error:
                self.troubles.append(f"{path.name} of {path.parent.name} is not as it was: {error}")
        for device, override in self._found:
            try:
                _restore(device, override)
            except Error as error:
                self.troubles.append(f"{device.name} is not as it was found: {error}")


def _has_no_migration(driver: str | None) -> bool:
    """Whether a driver is none of VFIO, or the one of VFIO that is for any device."""
    return driver is None or driver == "vfio-pci" or "vfio" not in driver


def _bind(device: DeviceInfo) -> None:
    """Have ``device`` bound to mlx5_vfio_pci."""
    if not (devices.SYSFS / "bus/pci/drivers" / MLX5_DRIVER).is_dir():
        raise Error(f"--bind: the module {MLX5_DRIVER} is not loaded", f"modprobe {MLX5_DRIVER}")
    if device.driver is not None:
        binding.unbind(device.name)
    binding.bind(device.name, MLX5_DRIVER)


def _restore(device: DeviceInfo, override: str) -> None:
    """Give ``device`` the driver that it had, and its override."""
    now = devices.lookup(device.name)
    if device.is_mediated:
        if now.driver != device.driver:
            raise Error(f"it has the driver {now.driver}, and had {device.driver}")
        return
    binding.set_override(device.name, override)
    if now.driver == device.driver:
        return
    if now.driver is not None:
        binding.unbind(device.name)
    if device.driver is not None:
        binding.bind(device.name, device.driver)


def probe(names: Sequence[str]) -> Offer:
    """Open each device once, in a process of its own, and return what the first one offers.

    Raises:
        RefusedError: one cannot be opened, offers no migration, or they have different drivers.
    """
    with _refusing():
        drivers = sorted({devices.lookup(name).driver or "" for name in names})
        if len(drivers) > 1:
            raise Error(
                f"the devices have different drivers: {', '.join(drivers)}",
                "a stream is loaded by the driver that made it",
            )
        opening = f"opening {' and '.join(names)}"
        try:
            answer = _asked(lambda: _open_each(names), opening)
        except ChildProcessError as error:
            raise Error(f"{opening}: {error}", "dmesg may say more") from None
        if "error" in answer:
            raise Error(answer["error"], answer["hint"])
        return Offer(drivers[0], MigrationFlags(answer["flags"]), _state_bytes(names[0]))


def _state_bytes(name: str) -> int:
    """Return how large a state is by the driver's estimate, 0 where it gives none.

    Raises:
        Error: it does not answer, and holds the device.
    """

    def ask() -> int:
        # A refusal is an answer: the call is counted, which that of a process that dies is not.
        with Device.open(name) as device, contextlib.suppress(VfioError):
            return device.stop_copy_bytes()
        return 0

    # Whether the driver has to answer, and without harm, is for the checks to say.
    with contextlib.suppress(ChildProcessError):
        return _asked(ask, f"asking {name} for its data size")
    return 0


_T = TypeVar("_T")


def _asked(function: Callable[[], _T], what: str) -> _T:
    """Return what ``function`` does, in a process of its own: the kernel may never answer.

    Raises:
        Error: it does not.
        ChildProcessError: the process died, of an exception say.
    """
    child = Child(function)
    try:
        answer: _T = child.result(_OPEN_S)
    except TimeoutError as error:
        child.kill()
        raise Error(f"{what}: {error}", "dmesg may say more") from None
    return answer


def _open_each(names: Sequence[str]) -> dict[str, Any]:
    flags = []
    try:
        for name in names:
            with Device.open(name) as device:
                flags.append(int(device.require_migration()))
    except Error as error:
        return {"error": str(error), "hint": error.hint}
    return {"flags": flags[0]}


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Turn errors into refusals."""
    try:
        yield
    except UsageError:
        raise
    except Error as error:
        raise RefusedError(str(error), error.hint) from None


def _require_idle(device: DeviceInfo) -> None:
    """Raise Error if a process has ``device``, or its IOMMU group, open."""
    paths = [vfio_open.DEV / "vfio" / str(device.iommu_group)]
    if device.vfio_device:
        paths.append(vfio_open.DEV / "vfio/devices" / device.vfio_device)
    held = [holder for path in paths if path.exists() for holder in devices.holders(path)]
    if held:
        raise Error(
            f"{device.name}: in use by {', '.join(held)}",
            "checking resets it: stop the VM or the tool that uses it, or name another VF",
        )


def _siblings(device: DeviceInfo) -> set[str]:
    """Return the VFs of the PF of ``device``."""
    return {link.readlink().name for link in (device.path / "physfn").glob("virtfn*")}


def _require_no_interface(device: DeviceInfo) -> None:
    """Raise Error if a network interface of ``device`` is up."""
    for flags in sorted(device.path.glob("net/*/flags")):
        # IFF_UP of include/uapi/linux/if.h.
        if int(flags.read_text(encoding="ascii"), 16) & 1:
            name = flags.parent.name
            raise Error(
                f"{device.name}: its network interface {name} is up",
                f"if nobody needs it: ip link set {name} down",
            )
