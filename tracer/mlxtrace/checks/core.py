# SPDX-License-Identifier: GPL-2.0-or-later
"""What a check is, what came of it, and the one function that runs it.

    @check("C8", Level.MUST, "Asking for the state that the device is in does nothing.")
    def same_state(context: Context) -> None:
        ...

A check talks to the devices through its :class:`~mlxtrace.checks.context.Context`, which notes
each step. It returns when the rule holds, and raises :class:`DeviationError` when it does not.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxtrace.vfio import MigrationFlags, VfioError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlxtrace.checks.context import Context


class Level(enum.StrEnum):
    """How binding a rule is."""

    MUST = "must"
    """The uAPI promises it to every user."""
    SHOULD = "should"
    """What users rely on, or what the uAPI recommends."""
    DRIVER = "driver"
    """What mlx5-vfio-pci does beyond what the uAPI demands."""


class Status(enum.StrEnum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_OFFERED = "not offered"
    """The device, or this host, lacks what the rule is about."""


class DeviationError(Exception):
    """The rule does not hold; the text says at which step, and what the kernel answered."""


class NoAnswerError(DeviationError):
    """A call did not come back: nothing more can be asked of this device."""


class NotOfferedError(Exception):
    """What the rule is about is not there; the text says what."""


@dataclass(frozen=True)
class Check:
    """A conformance statement and the function that tests it.

    Attributes:
        id: its number, ``C31``, with a word after a dot where a statement has several checks.
        level: how binding the rule is.
        rule: the rule in one or two sentences.
        function: tests it; see the module's text.
        needs: what a driver has to offer for the rule to apply.
        may_hang: a driver that breaks the rule may hang the kernel, so that this runs last.
        rebinds: the VF is taken from its driver and given back, which has to be allowed.
        destructive: VFs are removed and made again, which has to be allowed; this runs last.
    """

    id: str
    level: Level
    rule: str
    function: Callable[[Context], None]
    needs: MigrationFlags = MigrationFlags.STOP_COPY
    may_hang: bool = False
    rebinds: bool = False
    destructive: bool = False

    @property
    def statement(self) -> str:
        """Number of the statement that this is a check of: ``C31`` of ``C31.truncated``."""
        return self.id.partition(".")[0]


@dataclass(frozen=True)
class Step:
    """One thing that a check did, and what it saw."""

    did: str
    saw: str

    def __str__(self) -> str:
        return f"{self.did}: {self.saw}" if self.saw else self.did


@dataclass(frozen=True)
class Outcome:
    """What came of a check.

    Attributes:
        check: which one it was.
        status: passed, failed, or not offered.
        reason: of what did not pass: the step, what was wanted and what the kernel answered.
        steps: all that was done and observed, in order.
        hung: a call did not come back. The device is not to be touched any more.
    """

    check: Check
    status: Status
    reason: str
    steps: tuple[Step, ...]
    hung: bool = False


_registry: dict[str, Check] = {}


def check(
    identifier: str,
    level: Level,
    rule: str,
    *,
    needs: MigrationFlags = MigrationFlags.STOP_COPY,
    may_hang: bool = False,
    rebinds: bool = False,
    destructive: bool = False,
) -> Callable[[Callable[[Context], None]], Callable[[Context], None]]:
    """Register the decorated function as the check ``identifier``: see :class:`Check`."""

    def register(function: Callable[[Context], None]) -> Callable[[Context], None]:
        assert identifier not in _registry, identifier
        _registry[identifier] = Check(
            identifier, level, rule, function, needs, may_hang, rebinds, destructive
        )
        return function

    return register


def registered() -> list[Check]:
    """Return the checks whose modules were imported.

    They are in the order of their numbers; those that may hang follow, then the destructive ones.
    """
    return sorted(
        _registry.values(),
        key=lambda each: (each.destructive, each.may_hang, *_number(each.id)),
    )


def _number(identifier: str) -> tuple[int, str]:
    statement, _, part = identifier.partition(".")
    return int(statement.lstrip("C")), part


def run(this: Check, context: Context) -> Outcome:
    """Run one check and leave the devices closed, and therefore RUNNING.

    Raises:
        Error: a device cannot be opened, since it is not there or another process has it, or it
            offers no migration at all.
    """
    context.steps.clear()
    status, reason, hung = Status.PASSED, "", False
    try:
        _require(this, context)
        this.function(context)
    except NotOfferedError as missing:
        status, reason = Status.NOT_OFFERED, str(missing)
    except NoAnswerError as deviation:
        status, reason, hung = Status.FAILED, str(deviation), True
    except DeviationError as deviation:
        status, reason = Status.FAILED, str(deviation)
    except VfioError as error:
        status, reason = Status.FAILED, f"not expected: {error}"
    except OSError as error:
        # It has no device in its text, and may be a call of the check's own: the step tells.
        last = f"after {context.steps[-1]}" if context.steps else "at its first step"
        status, reason = Status.FAILED, f"{last}: not expected: {error}"
    finally:
        if not hung:
            context.hand_back()
    return Outcome(this, status, reason, tuple(context.steps), hung)


def _require(this: Check, context: Context) -> None:
    """Raise NotOfferedError if ``this`` does not apply."""
    if this.rebinds and not context.may_rebind:
        raise NotOfferedError("it takes the VF from its driver, which was not allowed")
    if this.destructive and not context.may_destroy:
        raise NotOfferedError("it removes VFs and makes them again, which was not allowed")
    if this.level is Level.DRIVER and not context.is_mlx5:
        raise NotOfferedError("it is a rule for mlx5-vfio-pci, which this driver is not")
    missing = this.needs & ~context.flags
    if missing:
        names = ", ".join(flag.name or "" for flag in MigrationFlags if flag in missing)
        raise NotOfferedError(f"the driver does not offer {names}")
