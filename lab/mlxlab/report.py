# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest says on its control port, and what it adds up to.

The lines are those of ``guest/session``. A VM that ends without having said ``end`` was lost,
whatever it had said before.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mlxlab import errors

# /proc/sys/kernel/tainted (Documentation/admin-guide/tainted-kernels.rst): bits that a splat sets.
_TAINTS = {7: "the kernel died (D)", 9: "a kernel warning (W)", 14: "a soft lockup (L)"}
_BAD_PAGE = {5: "a bad page (B)", 4: "a machine check (M)"}


@dataclass
class Report:
    """What the guest has said so far.

    Attributes:
        stages: uptime in seconds at which each stage was reached.
        status: the command's exit status, once it has ended.
        failure: why the lab could not start.
        assertions: firmware assertions that fired, with their counts.
        taint: the kernel's taint flags at the end.
        ended: the guest has said everything of this command.
    """

    stages: dict[str, float] = field(default_factory=dict)
    status: int | None = None
    failure: str | None = None
    assertions: dict[str, int] = field(default_factory=dict)
    taint: int = 0
    ended: bool = False

    def feed(self, line: str) -> str:
        """Take one line; return its first word.

        A line that is not of the protocol is ignored: the guest's kernel may have died writing it.
        """
        word, _, rest = line.strip().partition(" ")
        try:
            if word == "stage":
                name, uptime = rest.split()
                self.stages[name] = float(uptime)
            elif word == "exit":
                self.status = int(rest)
            elif word == "failed":
                self.failure = self.failure or rest
            elif word == "assertion":
                name, count = rest.split()
                self.assertions[name] = int(count)
            elif word == "taint":
                self.taint = int(rest)
            elif word in ("end", "idle"):
                self.ended = True
        except ValueError:
            return ""
        return word

    @property
    def running(self) -> bool:
        """Whether the command runs."""
        return "command" in self.stages and self.status is None


def taint_names(flags: int) -> list[str]:
    """Return what the taint ``flags`` say that no splat-free run would have."""
    return [name for bit, name in {**_BAD_PAGE, **_TAINTS}.items() if flags & 1 << bit]


@dataclass(frozen=True)
class Expected:
    """Firmware assertions that a run is about: those that must fire, and those that may."""

    must: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()

    def surprises(self, report: Report) -> list[str]:
        """Return what is not as expected, a line each."""
        fired = report.assertions
        known = self.must | self.may
        return [
            *(
                f"firmware assertion {name} fired {count} times"
                for name, count in fired.items()
                if name not in known
            ),
            *(
                f"firmware assertion {name} was expected, and did not fire"
                for name in sorted(self.must - set(fired))
                if report.ended
            ),
        ]


def exit_status(
    report: Report,
    *,
    splats: int,
    lost: bool,
    timed_out: bool,
    interrupted: bool = False,
    expected: Expected | None = None,
) -> int:
    """Return mlxlab's exit status for a run.

    A splat comes first, since it explains the rest: a panic loses the VM.
    """
    if splats or taint_names(report.taint) or (expected or Expected()).surprises(report):
        return errors.SPLAT
    if timed_out:
        return errors.TIMEOUT
    if report.failure is not None:
        return errors.NOT_STARTED
    if interrupted and report.status is None:
        return errors.INTERRUPTED
    if lost or not report.ended or report.status is None:
        return errors.LOST
    return report.status
