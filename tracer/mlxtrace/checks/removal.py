# SPDX-License-Identifier: GPL-2.0-or-later
"""C35: a driver or SR-IOV, and with it the VF, that is taken away while a session is open.

A VF cannot be removed by itself: it has no ``remove`` in sysfs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxtrace import devices
from mlxtrace.checks import fsm, raw
from mlxtrace.checks.child import Child
from mlxtrace.checks.core import DeviationError, Level, NoAnswerError, NotOfferedError, check
from mlxtrace.checks.lifetime import expect_stale
from mlxtrace.vfio import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlxtrace.checks.context import Context

BEGUN_S = 5.0
GONE_S = 20.0
"""How long the kernel may take to let go of a device that nobody has open any more."""


@check(
    "C35.held",
    Level.MUST,
    "Taking an open device from its driver waits until it is closed; the session ends, and the "
    "device works when it is bound again.",
    may_hang=True,
    rebinds=True,
)
def unbound_while_open(context: Context) -> None:
    info = context.source.device.info
    if ":" not in info.name or not info.driver:
        raise NotOfferedError("it is no PCI device")
    driver = devices.SYSFS / "bus/pci/drivers" / info.driver

    @contextlib.contextmanager
    def bound_again() -> Iterator[None]:
        try:
            yield
        finally:
            if not (driver / info.name).exists():
                _write(driver / "bind", info.name)

    for state in fsm.states(context.flags):
        with bound_again():
            _take_away(context, state, lambda: _write(driver / "unbind", info.name), "unbound")
    context.note("the device works again", context.source.state().name)


@check(
    "C35.sriov",
    Level.MUST,
    "Disabling SR-IOV, which removes the VF, under an open session waits until its device is "
    "closed; the session ends, and the VF works when it is made again.",
    may_hang=True,
    destructive=True,
)
def sriov_disabled(context: Context) -> None:
    physical = Physical.of(context)
    for state in _some_states(context):
        with physical.vfs_again():
            number = physical.path / "sriov_numvfs"
            _take_away(context, state, lambda number=number: _write(number, "0"), "disabled")  # type: ignore[misc]
    context.note("the device works again", context.source.state().name)


def _some_states(context: Context) -> list[State]:
    """Return RUNNING and the states with a session: making VFs again takes its time."""
    return [
        state
        for state in fsm.states(context.flags)
        if fsm.has_session(state) or state is State.RUNNING
    ]


def _take_away(context: Context, state: State, action: Callable[[], None], what: str) -> None:
    """Do ``action``, which takes the source away, in a process while it is open in ``state``."""
    subject = context.source
    fd = subject.enter(state)
    subject.forget_files()
    child = Child(action)
    waits = child.sleeps(BEGUN_S)
    # What it says is not the uAPI's to promise, but it has to say something.
    number, now, _ = raw.get_state(subject.fileno())
    when = f"{what} in {state.name}"
    context.note(
        f"{when}: the state, while {'it waits' if waits else 'it is gone'}",
        raw.answer(number) if number else str(now),
    )
    if fd >= 0 and state is not State.RESUMING:
        got = raw.read_errno(fd, 16)
        said = raw.answer(got) if isinstance(got, int) else f"{len(got)} bytes"
        context.note("read its data file", said)
    context.close()
    try:
        child.result(GONE_S)
    except TimeoutError as error:
        child.kill()
        raise NoAnswerError(f"{when}, and closed: {error}") from None
    except ChildProcessError as error:
        raise DeviationError(f"{when}: {error}") from None
    context.note("closed it, and it went")
    if fd >= 0:
        expect_stale(context, fd, state, f"after the device was {when}", False)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="ascii")


@dataclass(frozen=True)
class Physical:
    """A physical function, all of whose VFs are the devices under test.

    Attributes:
        path: its directory in sysfs.
        source: name of the device that is taken away.
        drivers: the driver of each of its VFs.
        overrides: what their driver_override said; empty for nothing.
    """

    path: Path
    source: str
    drivers: dict[str, str]
    overrides: dict[str, str]

    @classmethod
    def of(cls, context: Context) -> Physical:
        """Return the source's.

        Raises:
            NotOfferedError: it has none, or that has VFs that are none of the devices under test.
        """
        info = context.source.device.info
        link = info.path / "physfn"
        if not link.exists():
            raise NotOfferedError("it is no VF")
        path = link.resolve()
        vfs = sorted(each.resolve().name for each in path.glob("virtfn*"))
        others = [name for name in vfs if name not in context.names]
        if others:
            raise NotOfferedError(
                f"{path.name} has VFs that were not named, and would be removed too: "
                f"{' '.join(others)}"
            )
        drivers, overrides = {}, {}
        for name in vfs:
            device = devices.lookup(name)
            drivers[name] = device.driver or ""
            said = (device.path / "driver_override").read_text(encoding="ascii").strip()
            overrides[name] = "" if said == "(null)" else said
        return cls(path, info.name, drivers, overrides)

    @contextlib.contextmanager
    def vfs_again(self) -> Iterator[None]:
        """Have as many VFs as now when it is left, with the drivers that they have now."""
        number, probe = self.path / "sriov_numvfs", self.path / "sriov_drivers_autoprobe"
        count, probing = (each.read_text(encoding="ascii").strip() for each in (number, probe))
        try:
            yield
        finally:
            _write(number, "0")
            _write(probe, "0")
            try:
                _write(number, count)
            finally:
                _write(probe, probing)
            for name, driver in self.drivers.items():
                self._bind(name, driver)

    def _bind(self, name: str, driver: str) -> None:
        """Give a VF that was just made its driver, and its driver_override."""
        bus = devices.SYSFS / "bus/pci"
        override = bus / "devices" / name / "driver_override"
        if driver:
            _write(override, driver)
            _write(bus / "drivers_probe", name)
        if self.overrides[name] != driver:
            _write(override, self.overrides[name] or "\n")
