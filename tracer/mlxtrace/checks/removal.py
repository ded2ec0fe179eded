# SPDX-License-Identifier: GPL-2.0-or-later
"""C35: a driver or SR-IOV, and with it the VF, that is taken away while a session is open.

A VF cannot be removed by itself: it has no ``remove`` in sysfs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxtrace import binding, devices
from mlxtrace.checks import fsm, raw
from mlxtrace.checks.child import Child
from mlxtrace.checks.core import DeviationError, Level, NoAnswerError, NotOfferedError, check
from mlxtrace.checks.lifetime import expect_stale
from mlxtrace.checks.limits import limits
from mlxtrace.checks.undo import bound_again, undone
from mlxtrace.vfio import State

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable
    from pathlib import Path

    from mlxtrace.checks.context import Context

BEGUN_S = 5.0
"""How long it may take to get to where it waits; if it does not, that is seen all the same."""
HELD_S = 1.0
"""What does not wait for an open device to be closed gets so long to show it."""


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
    for state in fsm.states(context.flags):
        with bound_again(info.name, info.driver):
            _take_away(context, state, lambda: binding.unbind(info.name), "unbound")
        context.goes_on()
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
    for state in fsm.states(context.flags):
        with physical.vfs_again():
            _take_away(context, state, physical.remove_vfs, "disabled")
        context.goes_on()
    context.note("the device works again", context.source.state().name)


def _take_away(context: Context, state: State, action: Callable[[], None], what: str) -> None:
    """Do ``action``, which takes the source away, in a process while it is open in ``state``."""
    subject = context.source
    fd = subject.enter(state)
    subject.forget_files()

    def act() -> str:
        try:
            action()
        except Error as error:
            return str(error)
        return ""

    child = Child(act)
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
    _expect_waiting(context, child, when)
    context.close()
    try:
        refusal = child.result(limits.answer_s)
    except TimeoutError as error:
        child.kill()
        raise NoAnswerError(f"{when}, and closed: {error}") from None
    except ChildProcessError as error:
        raise DeviationError(f"{when}: {error}") from None
    if refusal:
        raise DeviationError(f"{when}: {refusal}; the rule wants that it goes")
    context.note("closed it, and it went")
    if fd >= 0:
        expect_stale(context, fd, state, f"after the device was {when}", False)


def _expect_waiting(context: Context, child: Child, when: str) -> None:
    """Check that what takes the device away has not ended, since it is open.

    Raises:
        DeviationError: it has.
    """
    try:
        refusal = child.result(HELD_S)
    except TimeoutError:
        return
    except ChildProcessError as error:
        raise DeviationError(f"{when}: {error}") from None
    if refusal:
        raise DeviationError(f"{when}: {refusal}; the rule wants that it goes")
    # What it was taken from may be given back only when nobody has it open.
    context.close()
    context.expect(
        False,
        f"{when}, while the device is open",
        "it has ended",
        "that it waits until it is closed",
    )


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
            drivers[name] = devices.lookup(name).driver or ""
            overrides[name] = binding.override(name)
        return cls(path, info.name, drivers, overrides)

    def remove_vfs(self) -> None:
        """Disable SR-IOV.

        Raises:
            Error: the kernel refuses it.
        """
        binding.write(self.path / "sriov_numvfs", "0")

    def vfs_again(self) -> contextlib.AbstractContextManager[None]:
        """Have as many VFs as now when it is left, with the drivers that they have now.

        Raises:
            DeviationError: there are not; see :func:`mlxtrace.checks.undo.undone`.
        """
        number, probe = self.path / "sriov_numvfs", self.path / "sriov_drivers_autoprobe"
        count, probing = (each.read_text(encoding="ascii").strip() for each in (number, probe))

        def make() -> None:
            if number.read_text(encoding="ascii").strip() == count:
                # They are there still.
                return
            binding.write(probe, "0")
            try:
                binding.write(number, count)
            finally:
                binding.write(probe, probing)
            for name, driver in self.drivers.items():
                if driver:
                    binding.bind(name, driver)
                binding.set_override(name, self.overrides[name])

        return undone(make)
