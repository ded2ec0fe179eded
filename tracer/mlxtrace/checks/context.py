# SPDX-License-Identifier: GPL-2.0-or-later
"""What a check works with: two devices, and a record of each step."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from genbindings.errors import Error
from mlxtrace.checks import raw
from mlxtrace.checks.child import Child
from mlxtrace.checks.core import DeviationError, NoAnswerError, NotOfferedError, Step
from mlxtrace.checks.limits import limits
from mlxtrace.checks.subject import Subject
from mlxtrace.devices import MLX5_DRIVER
from mlxtrace.vfio import Device, MigrationFlags, State, VfioError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


class Firmware(Protocol):
    """What only a simulated firmware can do and tell. Checks work without it, and find less."""

    def set_busy(self, device: str, busy: bool) -> None:
        """Have the running device change its state all the time, or not at all."""

    def tracks(self, device: str) -> bool:
        """Tell whether the firmware notes what changes in the device's state."""

    def objects(self) -> dict[str, int]:
        """Return how many objects the driver holds of each kind (protection domains, ...)."""

    def slow_saves(self, device: str, delay_s: float) -> AbstractContextManager[None]:
        """Have each SAVE take so much longer for a while."""


class Context:
    """Two devices and what has been done with them.

    Attributes:
        steps: what the running check did and saw.
        firmware: the simulated firmware behind the devices, if there is one that is known.
        may_rebind: whether a check may take a VF from its driver for a moment.
        may_destroy: whether a check may remove the VFs of a PF, if it has no others than these two,
            and make them again.
        dma: has a device write to memory: its name and the address as the device sees it.
        cycles: how often the checks that look for something that grows repeat themselves.
    """

    def __init__(
        self,
        source: str,
        target: str,
        *,
        firmware: Firmware | None = None,
        may_rebind: bool = False,
        may_destroy: bool = False,
        dma: Callable[[str, int], None] | None = None,
        cycles: int = 1000,
    ) -> None:
        """``source`` and ``target`` are two device names; what the source saves fits the target."""
        self._names = {"source": source, "target": target}
        self._subjects: dict[str, Subject] = {}
        self._flags: MigrationFlags | None = None
        self._driver = ""
        self._mediated: set[str] = set()
        self.steps: list[Step] = []
        self.firmware = firmware
        self.may_rebind = may_rebind
        self.may_destroy = may_destroy
        self.dma = dma
        self.cycles = cycles

    @property
    def names(self) -> frozenset[str]:
        """The names of both devices."""
        return frozenset(self._names.values())

    @property
    def source(self) -> Subject:
        """The device that is saved. It is opened when first used in a check, and RUNNING."""
        return self._open("source")

    @property
    def target(self) -> Subject:
        """The device that streams are loaded on; as :attr:`source`."""
        return self._open("target")

    @property
    def flags(self) -> MigrationFlags:
        """What the source's driver offers.

        Raises:
            Error: it offers no migration.
        """
        if self._flags is None:
            with Device.open(self._names["source"]) as device:
                self._flags, self._driver = device.require_migration(), device.driver
        return self._flags

    @property
    def is_mlx5(self) -> bool:
        """Whether the driver is mlx5-vfio-pci, which is asked for more than the uAPI demands."""
        return bool(self.flags) and self._driver == MLX5_DRIVER

    def _open(self, role: str) -> Subject:
        if role not in self._subjects:
            try:
                device = Device.open(self._names[role])
            except VfioError as error:
                # Not a deviation: the kernel was not asked anything yet.
                raise Error(str(error), error.hint) from None
            subject = self._subjects[role] = Subject(self, device)
            if device.info.is_mediated:
                self._mediated.add(device.name)
            found = subject.found = device.make_running()
            if found is not State.RUNNING:
                self.note(f"opened and reset {device.name}, which was in", found.name)
        return self._subjects[role]

    def close(self) -> None:
        """Close the devices, which resets them."""
        subjects, self._subjects = list(self._subjects.values()), {}
        for subject in subjects:
            subject.close()
        if self.firmware:
            self.firmware.set_busy(self._names["source"], busy=True)

    def hand_back(self) -> None:
        """Close the devices and leave them RUNNING: closing resets PCI devices only."""
        self.close()
        names, self._mediated = sorted(self._mediated), set()
        for name in names:
            with contextlib.suppress(Error), Device.open(name) as device:
                device.make_running()

    def note(self, did: str, saw: str = "") -> None:
        """Note a step."""
        self.steps.append(Step(did, saw))

    def goes_on(self) -> None:
        """Say that a check that repeats itself a number of times has come a step further.

        What watches it gives it as much time again as a check has. Only in loops that end.
        """

    def expect(self, holds: bool, did: str, saw: str, wanted: str) -> None:
        """Note a step and what was observed.

        Raises:
            DeviationError: it does not hold; ``wanted`` is what was expected.
        """
        self.note(did, saw)
        if not holds:
            raise DeviationError(f"{did}: {saw}; the rule wants {wanted}")

    def expect_errno(self, number: int, wanted: tuple[int, ...], did: str) -> None:
        """Note a step that a call answered with ``number``, which must be one of ``wanted``."""
        names = " or ".join(raw.answer(each) for each in wanted)
        self.expect(number in wanted, did, raw.answer(number), names)

    def deny(self, wrong: list[str], did: str, count: int, wanted: str) -> None:
        """Note that ``count`` cases were tried, and raise DeviationError if some were wrong."""
        saw = f"{count - len(wrong)} of {count} as they should be"
        self.expect(not wrong, did, "; ".join([saw, *wrong]), wanted)

    def idle(self) -> None:
        """Have the source not change. Without a known firmware, nobody uses it: it is idle."""
        if self.firmware:
            self.firmware.set_busy(self._names["source"], busy=False)

    def busy(self) -> None:
        """Have the source change all the time.

        Raises:
            NotOfferedError: nothing here can do that.
        """
        if not self.firmware:
            raise NotOfferedError("nothing here makes the device change its state")
        self.firmware.set_busy(self._names["source"], busy=True)

    def slow_saves(self, delay_s: float) -> AbstractContextManager[None]:
        """Have the source's SAVEs take so much longer for a while, so that calls wait for them.

        Real firmware takes the time that it takes: a check says how many calls were seen to wait.
        """
        if not self.firmware:
            return contextlib.nullcontext()
        return self.firmware.slow_saves(self._names["source"], delay_s)

    def promptly(self, subject: Subject, aim: State) -> raw.StateAnswer:
        """Ask for a state in a process of its own, since the kernel may never answer.

        Raises:
            NoAnswerError: it did not, although it was given the time that firmware may take.
        """
        did = f"{subject.state().name} to {aim.name}"
        fd = subject.fileno()

        def ask() -> list[int]:
            answer = raw.set_state(fd, aim)
            return [answer.errno, answer.data_fd]

        child = Child(ask, keep=[fd])
        try:
            number, data_fd = child.result(limits.answer_s)
        except TimeoutError as error:
            child.kill()
            self.note(did, str(error))
            raise NoAnswerError(f"{did}: {error}; the kernel hangs in it") from None
        answer = raw.StateAnswer(number, data_fd)
        self.note(did, str(answer))
        return answer
