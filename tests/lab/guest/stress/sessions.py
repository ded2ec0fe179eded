# SPDX-License-Identifier: GPL-2.0-or-later
"""What ends a session from outside, in every state: reset, close, unbind, SR-IOV switched off.

The data file is kept and used after that, when its device is closed, or gone.
"""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.guest.stress.rig import (
    PATIENCE_S,
    SOURCE,
    answer_of,
    bind,
    faulty,
    patiently,
    poll_now,
    precopy_info,
    settle,
)

from mlxtrace.vfio import Device, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.guest.stress.rig import Tally

_P, _PP, _S, _SC = State.PRE_COPY, State.PRE_COPY_P2P, State.STOP, State.STOP_COPY
# How each state is reached from RUNNING.
STATES: dict[str, tuple[State, ...]] = {
    "RUNNING": (),
    "RUNNING_P2P": (State.RUNNING_P2P,),
    "STOP": (_S,),
    "STOP_COPY": (_SC,),
    "STOP_COPY from PRE_COPY": (_P, _SC),
    "RESUMING": (State.RESUMING,),
    "PRE_COPY": (_P,),
    "PRE_COPY_P2P": (_PP,),
    "PRE_COPY_P2P from PRE_COPY": (_P, _PP),
    "RUNNING from PRE_COPY": (_P, State.RUNNING),
}
_SAVING = (_SC, _P, _PP)
# Nothing, a SAVE under way, one that will fail, one that has failed, and none answered.
TROUBLES = {
    "": (),
    "a SAVE under way": ("save delay_us=60000",),
    "a SAVE about to fail": ("save delay_us=60000 status=5",),
    "a SAVE without an answer": ("save delay_us=never",),
}


class Session:
    """An open device in some state, and the data file that this gave."""

    def __init__(self, ways: tuple[State, ...]) -> None:
        self.vf = Device.open(SOURCE)
        self.fd = -1
        self.saving = False
        for state in ways:
            fd = self.vf.change_state(state)
            if fd >= 0:
                self.fd, self.saving = fd, state in _SAVING

    def forget(self) -> None:
        """Close the data file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def stale(self, tally: Tally, when: str) -> None:
        """Use the data file, whose session has ended: every answer is an error, at once."""
        if self.fd < 0:
            return
        tally.counts["uses of a stale file"] += 1
        if self.saving:
            said = answer_of(lambda: os.read(self.fd, 4096))
            tally.check(said == "ENODEV", f"{when}: read: {said}")
            said = answer_of(lambda: precopy_info(self.fd))
            tally.check(said in ("ENODEV", "EINVAL"), f"{when}: PRECOPY_INFO: {said}")
            seen = poll_now(self.fd)
            good = select.POLLIN | select.POLLRDHUP
            tally.check(seen & good == good, f"{when}: poll: 0x{seen:x}")
        else:
            said = answer_of(lambda: os.write(self.fd, bytes(64)))
            tally.check(said == "ENODEV", f"{when}: write: {said}")
            said = answer_of(lambda: precopy_info(self.fd))
            tally.check(said == "ENOTTY", f"{when}: PRECOPY_INFO: {said}")

    def use(self) -> None:
        """Use the data file and the device, whatever they answer; nothing may block or break."""
        if self.fd >= 0:
            os.set_blocking(self.fd, False)
            answer_of(lambda: os.read(self.fd, 1000))
            answer_of(lambda: os.write(self.fd, bytes(8)))
            answer_of(lambda: precopy_info(self.fd))
        answer_of(self.vf.stop_copy_bytes)
        answer_of(self.vf.state)


def run(tally: Tally, share: slice) -> None:
    """Do each thing in each state, with each trouble; of all that, a share."""
    deeds: tuple[Callable[[Tally, str, Session], None], ...] = (_reset, _close, _unbind)
    places = [
        (deed, state, trouble)
        for deed in deeds
        for state in STATES
        for trouble in (TROUBLES if any(s in _SAVING for s in STATES[state]) else [""])
    ]
    for deed, state, trouble in places[share]:
        name = f"{deed.__name__[1:]} in {state}{' with ' * bool(trouble)}{trouble}"
        with faulty(SOURCE, *TROUBLES[trouble]):
            session = Session(STATES[state]) if _reachable(state, trouble) else None
            if session is None:
                continue
            deed(tally, name, session)
        session.forget()
        tally.counts[deed.__name__[1:]] += 1
        tally.nothing_left(name)
    tally.migration("after resets, closes and unbinds")


def _reachable(state: str, trouble: str) -> bool:
    """Tell whether the way there does not wait for a SAVE that fails."""
    return not trouble or len(STATES[state]) == 1 or trouble == "a SAVE under way"


def _reset(tally: Tally, name: str, session: Session) -> None:
    session.use()
    session.vf.reset()
    tally.at_rest(session.vf, name)
    session.stale(tally, name)
    session.vf.close()
    session.stale(tally, f"{name}, and close")


def _close(tally: Tally, name: str, session: Session) -> None:
    session.use()
    session.vf.close()
    session.stale(tally, name)
    # The file of an instance of the device that another one uses.
    with Device.open(SOURCE) as vf:
        session.stale(tally, f"{name}, and open")
        tally.at_rest(vf, f"{name}, and open")
        vf.set_state(_P)
        session.stale(tally, f"{name}, and another session")


def _unbind(tally: Tally, name: str, session: Session) -> None:
    unbind = Path("/sys/bus/pci/drivers/mlx5_vfio_pci/unbind")
    # It waits until the device is closed.
    thread = threading.Thread(target=unbind.write_text, args=(SOURCE,), daemon=True)
    thread.start()
    time.sleep(0.03)
    session.use()
    session.vf.close()
    thread.join(PATIENCE_S)
    tally.check(not thread.is_alive(), f"{name}: it does not end")
    session.stale(tally, name)
    bind(SOURCE)
    session.stale(tally, f"{name}, and bind")
    with Device.open(SOURCE) as vf:
        tally.at_rest(vf, f"{name}, bound and open")


def sriov(tally: Tally, share: slice) -> None:
    """Take the VFs, their driver and the firmware away in a share of the states, and load them."""
    for state in list(STATES)[share]:
        _without_vfs(tally, f"no SR-IOV in {state}", Session(STATES[state]))
        tally.counts["SR-IOV off"] += 1
        tally.migration(f"after {state} without SR-IOV")


def _vfs(word: str) -> subprocess.Popen[str]:
    script = ["sh", f"{os.environ['MLXLAB_GUEST']}/vfs", word]
    return subprocess.Popen(script, stderr=subprocess.PIPE, text=True)


def _without_vfs(tally: Tally, name: str, session: Session) -> None:
    down = _vfs("down")
    # The PF takes the VF away at once, but PCI waits until it is closed.
    gone = patiently(lambda: answer_of(session.vf.stop_copy_bytes) == "ENOTCONN")
    tally.check(gone, f"{name}: the PF does not take the VF away")
    session.use()
    session.stale(tally, f"{name}, device open")
    session.vf.close()
    _, said = down.communicate(timeout=PATIENCE_S)
    if session.fd >= 0:
        # The PF's driver has gone; VFIO's has not, since there is a file of its.
        tally.check(down.returncode != 0, f"{name}: the module went though a file is open")
        session.stale(tally, f"{name}, VFs gone")
        session.forget()
        again = _vfs("down")
        _, said = again.communicate(timeout=PATIENCE_S)
        tally.check(again.returncode == 0, f"{name}: {said}")
    else:
        tally.check(down.returncode == 0, f"{name}: {said}")
    up = _vfs("up")
    _, said = up.communicate(timeout=3 * PATIENCE_S)
    if up.returncode:
        raise RuntimeError(f"{name}: the VFs do not come back: {said}")
    settle()
