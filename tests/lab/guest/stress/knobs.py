# SPDX-License-Identifier: GPL-2.0-or-later
"""Every fault of the firmware at every command of a pre-copy migration, and what comes after it.

A migration is a list of steps. It runs once without faults, which tells how often each command
comes; then once for each command and each fault that there is for it. After a fault the source
must run on without a reset, and the next migration must go well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.lab.guest.stress.rig import (
    PF,
    SOURCE,
    TARGET,
    answer_of,
    counter,
    drain,
    faults,
    faulty,
    patiently,
    rebind,
    status,
)

from mlxtrace.migrate_sink import state_hash
from mlxtrace.vfio import Device, ResumingStream, SavingStream, State, VfioError, errno_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.guest.stress.rig import Tally

_SYNC = (
    "status=9 syndrome=0xabc001",
    "status=4 syndrome=0xabc002",
    "errno=5",
    "delay_us=0",
    "delay_us=30000",
    "delay_us=never",
    "disable_vf",
)
_SAVE = (
    *_SYNC,
    "status=5 syndrome=0xabc003",
    "status=9 syndrome=0xabc004 delay_us=0",
    "status=5 syndrome=0xabc005 delay_us=0",
    "submit_errno=11",
    "damage",
    "disable_vf delay_us=30000",
)
_LOAD = (*_SYNC, "damage")
_OBJECT = ("errno=12", "errno=5")
KINDS = {
    "query": _SYNC,
    "suspend_initiator": _SYNC,
    "suspend_responder": _SYNC,
    "resume_responder": _SYNC,
    "resume_initiator": _SYNC,
    "save_initial": _SAVE,
    "save_middle": _SAVE,
    "save_final": _SAVE,
    "save_cleanup": tuple(kind for kind in _SAVE if kind != "damage"),
    "load": _LOAD,
    "alloc_pd": _OBJECT,
    "create_mkey": _OBJECT,
}
_OBJECTS = ("alloc_pd", "create_mkey")


class Run:
    """One migration, step by step."""

    def __init__(self, source: Device, target: Device) -> None:
        self.source, self.target = source, target
        self.stream: SavingStream
        self.sink: ResumingStream
        self.hashes: tuple[str | None, str | None] = (None, None)

    def enter(self) -> None:
        self.sink = self.target.resume()
        self.stream = self.source.save(State.PRE_COPY)

    def forward(self) -> None:
        drain(self.stream, self.sink.write_all)

    def middle(self) -> None:
        self.stream.precopy_info()
        self.forward()

    def size(self) -> None:
        self.source.stop_copy_bytes()

    def quiesce(self) -> None:
        self.source.set_state(State.PRE_COPY_P2P)

    def go_on(self) -> None:
        self.source.set_state(State.PRE_COPY)

    def stop(self) -> None:
        self.source.set_state(State.STOP_COPY)

    def load(self) -> None:
        self.target.set_state(State.STOP)
        self.hashes = state_hash(SOURCE), state_hash(TARGET)

    def start(self) -> None:
        self.target.set_state(State.RUNNING_P2P)
        self.target.set_state(State.RUNNING)

    def cancel(self) -> None:
        self.source.set_state(State.RUNNING)


Step = tuple[str, "Callable[[Run], None]"]
MIGRATION: list[Step] = [
    ("enter", Run.enter),
    ("initial", Run.forward),
    ("middle", Run.middle),
    ("size", Run.size),
    ("quiesce", Run.quiesce),
    ("go on", Run.go_on),
    ("another middle", Run.middle),
    ("quiesce again", Run.quiesce),
    ("stop", Run.stop),
    ("final", Run.forward),
    ("size at the end", Run.size),
    ("load", Run.load),
    ("start", Run.start),
]
CANCELLED: list[Step] = [*MIGRATION[:3], ("cancel", Run.cancel)]


@dataclass(frozen=True)
class Case:
    """A rule of ``device`` that strikes once in ``steps``."""

    device: str
    rule: str
    steps: list[Step]

    @property
    def name(self) -> str:
        """How it is called where something is wrong."""
        what = "cancelled" if self.steps is CANCELLED else "migration"
        role = {SOURCE: "source", TARGET: "target", PF: "PF"}[self.device]
        return f"{what}, {role} {self.rule}"


def play(steps: list[Step], source: Device, target: Device) -> tuple[str, Run]:
    """Run ``steps`` and return where they ended: ``done``, or the step and the errno."""
    run = Run(source, target)
    for name, step in steps:
        try:
            step(run)
        except VfioError as error:
            return f"{name}: {errno_name(error.errno)}", run
    return "done", run


def cases() -> list[Case]:
    """Return a case for each command of each list of steps and each fault that it can have."""
    found = []
    for steps in (MIGRATION, CANCELLED):
        for device in (SOURCE, TARGET, PF):
            places = [where for where in KINDS if (where in _OBJECTS) == (device == PF)]
            # A rule that strikes never, but counts.
            with faulty(device, *(f"{where} nth=1000000 errno=5" for where in places)):
                with Device.open(SOURCE) as source, Device.open(TARGET) as target:
                    ended, _ = play(steps, source, target)
                    if ended != "done":
                        raise RuntimeError(f"without a fault: {ended}")
                for where, (seen, _) in zip(places, faults(device), strict=True):
                    found += [
                        Case(device, f"{where} nth={nth} {kind}", steps)
                        for nth in range(1, seen + 1)
                        for kind in KINDS[where]
                    ]
    return found


def run(tally: Tally, share: slice) -> None:
    """Run a share of the cases."""
    chosen = cases()[share]
    for number, case in enumerate(chosen):
        _strike(tally, case)
        tally.counts["faults"] += 1
        if number % 50 == 49:
            print(f"stress: {number + 1} of {len(chosen)} faults", flush=True)
        tally.migration(case.name)
        tally.nothing_left(case.name)


def _strike(tally: Tally, case: Case) -> None:
    disabled = "disable_vf" in case.rule
    with Device.open(SOURCE) as source, Device.open(TARGET) as target:
        resets = counter(SOURCE, "reset")
        with faulty(case.device, case.rule):
            ended, run = play(case.steps, source, target)
            struck = faults(case.device)[0][1]
        tally.check(struck == 1, f"{case.name}: struck {struck} times, {ended}")
        tally.counts[f"ended at {ended}"] += 1
        _judge(tally, case, ended, run)
        if disabled:
            # The PF does it on its own; not to be met by the driver's next instance.
            vf = source if case.device == SOURCE else target
            gone = patiently(lambda: answer_of(vf.stop_copy_bytes) == "ENOTCONN")
            tally.check(gone, f"{case.name}: the VF is still there")
        else:
            _recover(tally, case, source, ended, resets)
            target.reset()
            tally.at_rest(target, f"{case.name}: the target after a reset")
    if disabled:
        rebind(case.device)


def _judge(tally: Tally, case: Case, ended: str, run: Run) -> None:
    """Check that what was done is what was asked for, and that the harmless does no harm."""
    if ended == "done":
        whole = case.steps is CANCELLED or run.hashes[0] == run.hashes[1]
        tally.check(whole, f"{case.name}: done, with another state")
        tally.check(
            "damage" not in case.rule or case.steps is CANCELLED,
            f"{case.name}: an image was damaged, and nobody minds",
        )
        return
    words = case.rule.split()
    slow = words[2] in ("delay_us=0", "delay_us=30000")
    # The firmware's answer to a state that grew: the whole of it comes with the final image.
    grew = words[0] in ("save_initial", "save_middle") and words[2] == "status=9"
    # What only ends the tracking is not worth a failure of the way back to RUNNING.
    cleanup = words[0] == "save_cleanup" and words[2] != "disable_vf"
    for harmless in (slow, grew, cleanup):
        tally.check(not harmless, f"{case.name}: it ended at {ended}")


def _recover(tally: Tally, case: Case, source: Device, ended: str, resets: int) -> None:
    """Check that the source goes back to RUNNING by a mere state change."""
    when = f"{case.name}, ended at {ended}"
    try:
        source.set_state(State.RUNNING)
    except VfioError as error:
        tally.check(False, f"{when}: no way back: {error}, {status(SOURCE)}")
        source.reset()
    if case.steps is CANCELLED and ended == "done" and status(SOURCE)["tracked"]:
        # The fault hit what should tell the firmware; it is told when it matters.
        tally.counts["tracked until the next pre-copy"] += 1
        source.set_state(State.PRE_COPY)
        source.set_state(State.RUNNING)
    tally.at_rest(source, f"{when}, back to RUNNING")
    tally.check(counter(SOURCE, "reset") == resets, f"{when}: it was reset")
