# SPDX-License-Identifier: GPL-2.0-or-later
"""A device under test, which notes what is asked of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mlxtrace.checks import raw
from mlxtrace.migrate_model import framing_of
from mlxtrace.vfio import Device, MigrationFlags, State, VfioError

if TYPE_CHECKING:
    from mlxtrace.checks.context import Context
    from mlxtrace.stream import Framing
    from mlxtrace.vfio import ResumingStream, SavingStream


class Subject:
    """An open device under test. What is asked of it is noted; see also :class:`Device`.

    Attributes:
        found: the state that it was in when it was opened. It is RUNNING when a check gets it.
    """

    def __init__(self, context: Context, device: Device) -> None:
        self._context = context
        self.device = device
        self.name = device.name
        self.found = State.RUNNING
        self._files: list[int] = []

    def fileno(self) -> int:
        """Return the device's file descriptor."""
        return self.device.fileno()

    @property
    def flags(self) -> MigrationFlags:
        """What the driver offers."""
        return self._context.flags

    @property
    def framing(self) -> Framing:
        """How the driver's stream is divided."""
        return framing_of(self.device, self.flags)

    def state(self) -> State:
        """Return its state."""
        return self.device.state()

    def ask(self, aim: int, note: str = "") -> raw.StateAnswer:
        """Ask for a state, any number, and return what the kernel said.

        Its data file is kept open, in non-blocking mode: a driver that breaks the rules would let
        the check sleep.
        """
        before = self.state()
        answer = raw.set_state(self.fileno(), aim)
        if answer.errno == 0 and answer.data_fd >= 0:
            os.set_blocking(answer.data_fd, False)
            self._files.append(answer.data_fd)
        name = aim.name if isinstance(aim, State) else hex(aim)
        self._context.note(f"{before.name} to {name}{note}", f"{answer}, then {self.state().name}")
        return answer

    def go(self, aim: State) -> int:
        """Ask for a state that must be granted; return the data file's descriptor, -1 for none."""
        answer = self.ask(aim)
        if answer.errno:
            raise VfioError(self.name, f"setting state {aim.name}", answer.errno)
        return answer.data_fd

    def save(self, state: State) -> SavingStream:
        """Begin a saving session."""
        stream = self.device.save(state)
        self._context.note(f"to {state.name}", "a data file")
        return stream

    def resume(self) -> ResumingStream:
        """Begin a resuming session."""
        stream = self.device.resume()
        self._context.note("to RESUMING", "a data file")
        return stream

    def enter(self, state: State) -> int:
        """From RUNNING to ``state``, RESUMING without data; the data file's descriptor, or -1."""
        return -1 if state is State.RUNNING else self.go(state)

    def reset(self) -> None:
        """Reset the device (VFIO_DEVICE_RESET); it must be RUNNING then."""
        before = self.state()
        self.device.reset()
        after = self.state()
        self._context.expect(
            after is State.RUNNING, f"reset in {before.name}", after.name, "RUNNING"
        )

    def back(self) -> None:
        """Bring it to RUNNING, by a reset if need be, and close the data files of :meth:`ask`.

        Where the rule is that no reset is needed it is :meth:`run_again` that is asked for.
        """
        self.close_files()
        before = self.state()
        if before is State.RUNNING:
            return
        if before is State.RESUMING:
            # A driver that breaks the rules would start what was not loaded.
            self.device.reset()
            return
        try:
            self.device.set_state(State.RUNNING)
        except VfioError as error:
            self._context.note(f"{before.name} to RUNNING, by a reset, since", str(error))
            self.device.reset()

    def run_again(self, when: str) -> None:
        """Bring it to RUNNING without a reset, which would hide what is wrong with it.

        Raises:
            DeviationError: it does not get there.
        """
        self.close_files()
        before = self.state()
        if before is not State.RUNNING:
            answer = self.ask(State.RUNNING)
            did = f"{before.name} to RUNNING {when}"
            self._context.expect_errno(answer.errno, (0,), did)
        after = self.state()
        self._context.expect(after is State.RUNNING, f"the state {when}", after.name, "RUNNING")

    def close_files(self) -> None:
        """Close the data files that :meth:`ask` got."""
        for fd in self._files:
            os.close(fd)
        self._files.clear()

    def forget_files(self) -> list[int]:
        """Return those files; they are the caller's to close from now on."""
        files, self._files = self._files, []
        return files

    def close(self) -> None:
        """Close its files, then the device."""
        self.close_files()
        self.device.close()
