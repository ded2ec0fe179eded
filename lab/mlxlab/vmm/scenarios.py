# SPDX-License-Identifier: GPL-2.0-or-later
"""The migrations that ``mlxlab qemu`` runs, and how each must end.

The ends are those of the upstream driver (Linux 6.12) under QEMU 10.0; docs/lab.md says what is
wrong with some of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from genbindings.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMPLETED, FAILED, CANCELLED = "completed", "failed", "cancelled"
# What became of a VF: its state has moved away or was never started; it runs as if nothing had
# been; its VMM could only reset it, under a running guest.
STOPPED, RUNNING, RESET = "stopped", "running", "reset"
ENDED = "ended"


@dataclass(frozen=True)
class Fault:
    """A rule of the simulated firmware (docs/lab.md, "Faults").

    Attributes:
        side: ``source`` or ``target``.
        rule: the rule.
        stopping: it is armed while SUSPEND RESPONDER is under way, for what comes after that.
    """

    side: str
    rule: str
    stopping: bool = False


@dataclass(frozen=True)
class End:
    """How a scenario must end.

    Attributes:
        migration: the status that QEMU's query-migrate ends with.
        source_vf: what becomes of the source's VF.
        target_vf: what becomes of the target's VF, or ``ENDED`` when its QEMU must exit.
        tracked: whether the firmware goes on tracking changes of the source's VF, for nobody.
    """

    migration: str = COMPLETED
    source_vf: str = STOPPED
    target_vf: str = RUNNING
    tracked: bool = False


@dataclass(frozen=True)
class Scenario:
    """One migration.

    Attributes:
        name: what ``--scenario`` takes.
        summary: a line for people.
        end: how it must end.
        capabilities: QEMU's migration capabilities that are switched on, on both sides.
        faults: what the firmware is told to do wrong.
        images: middle SAVEs to wait for before the source may stop, or is cancelled; a SAVE that
            failed counts.
        cancel: cancel the migration instead of letting it stop.
        also_ends: what else QEMU may call the end of the migration, for reasons of its own.
        stopped: stop the VM before the migration, so that there is no pre-copy.
        precopy: whether it needs a driver with PRE_COPY.
    """

    name: str
    summary: str
    end: End = field(default_factory=End)
    capabilities: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    images: int = 3
    cancel: bool = False
    also_ends: str = ""
    stopped: bool = False
    precopy: bool = True


_ACK = ("return-path", "switchover-ack")
# It must fail before.
_NEVER = 1 << 30
# The VMM gives up, and what the driver has kept going can only be ended by a reset.
_RESET = End(FAILED, RESET, ENDED)
_REFUSED = End(FAILED, RUNNING, ENDED)


def _source(rule: str, *, stopping: bool = False) -> tuple[Fault, ...]:
    return (Fault("source", rule, stopping),)


def _target(rule: str) -> tuple[Fault, ...]:
    return (Fault("target", rule),)


SCENARIOS = (
    Scenario("precopy", "pre-copy, as QEMU does it by default"),
    Scenario(
        "switchover-ack",
        "the target acknowledges the initial data before the source may stop",
        capabilities=_ACK,
    ),
    Scenario(
        "multifd",
        "the final data goes through channels of its own",
        capabilities=(*_ACK, "multifd"),
    ),
    Scenario(
        "stopped",
        "the VM is stopped first: no pre-copy, one image",
        stopped=True,
        images=0,
        precopy=False,
    ),
    Scenario(
        "cancel",
        "cancelled half-way, in pre-copy",
        End(CANCELLED, RUNNING, ENDED),
        cancel=True,
    ),
    Scenario(
        "cancel-ack",
        "the same with a return path, as management software does it",
        End(CANCELLED, RUNNING, ENDED),
        capabilities=_ACK,
        cancel=True,
        # QEMU's migration_cancel() first shuts the return path down, and with it the socket that
        # the stream goes through, and sets CANCELLING then: a thread that writes in between fails.
        also_ends=FAILED,
    ),
    Scenario(
        "state-grew",
        "a middle SAVE finds more state than announced (status 9): the final image has it all",
        faults=_source("save_middle nth=2 status=9 syndrome=0xabc109"),
        # The second fails, and there is none after it.
        images=2,
    ),
    Scenario(
        "fail-setup",
        "setup: the QUERY before the initial SAVE is refused",
        _REFUSED,
        # The first QUERY is for MIG_DATA_SIZE.
        faults=_source("query nth=2 status=4 syndrome=0xabc101"),
        images=_NEVER,
    ),
    Scenario(
        "fail-initial-save",
        "setup: the initial SAVE fails",
        _RESET,
        faults=_source("save_initial status=5 syndrome=0xabc102"),
        images=_NEVER,
    ),
    Scenario(
        "fail-precopy-query",
        "pre-copy: the QUERY of a precopy ioctl is refused; QEMU goes on",
        # After setup's three, each pending_exact makes two: MIG_DATA_SIZE's and the ioctl's.
        faults=_source("query nth=5 status=4 syndrome=0xabc103"),
    ),
    Scenario(
        "fail-middle-save",
        "pre-copy: a middle SAVE fails",
        _RESET,
        faults=_source("save_middle nth=2 status=5 syndrome=0xabc104"),
        images=_NEVER,
    ),
    Scenario(
        "fail-suspend",
        "stopping: SUSPEND INITIATOR is refused",
        _RESET,
        faults=_source("suspend_initiator nth=1 status=4 syndrome=0xabc105"),
    ),
    Scenario(
        "fail-suspend-responder",
        "stopping: SUSPEND RESPONDER is refused",
        _RESET,
        faults=_source("suspend_responder nth=1 status=4 syndrome=0xabc106"),
    ),
    Scenario(
        "fail-final-query",
        "stopping: the QUERY before the final SAVE is refused",
        _RESET,
        faults=_source("query nth=1 status=4 syndrome=0xabc107", stopping=True),
    ),
    Scenario(
        "fail-final-save",
        "stopping: the final SAVE fails",
        # The driver switches tracking off only on the way out of PRE_COPY.
        End(FAILED, RUNNING, ENDED, tracked=True),
        faults=_source("save_final status=5 syndrome=0xabc108"),
    ),
    Scenario(
        "fail-load",
        "target: the LOAD of the initial image fails",
        _REFUSED,
        faults=_target("load nth=1 status=5 syndrome=0xabc10a"),
        images=_NEVER,
    ),
    Scenario(
        "fail-later-load",
        "target: the LOAD of a middle image fails",
        _REFUSED,
        faults=_target("load nth=3 status=5 syndrome=0xabc10b"),
        images=_NEVER,
    ),
    Scenario(
        "fail-resume",
        "target: RESUME RESPONDER is refused when it starts",
        End(COMPLETED, STOPPED, RESET),
        faults=_target("resume_responder nth=1 status=4 syndrome=0xabc10c"),
    ),
)


def by_name() -> dict[str, Scenario]:
    """Return the scenarios by name, in their order."""
    return {scenario.name: scenario for scenario in SCENARIOS}


def pick(names: Sequence[str], *, precopy: bool = True) -> list[Scenario]:
    """Return the scenarios ``names``, or all if there are none, in their order.

    ``precopy`` tells whether the driver has PRE_COPY; without it, only what needs none is left.

    Raises:
        UsageError: there is no such scenario.
    """
    known = by_name()
    for name in names:
        if name not in known:
            raise UsageError(f"no scenario {name!r}", f"one of {', '.join(known)}")
    wanted = names or known
    return [
        scenario
        for scenario in SCENARIOS
        if scenario.name in wanted and (precopy or not scenario.precopy)
    ]
