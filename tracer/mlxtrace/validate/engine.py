# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a plan: one process for the checks, a watchdog over each, a result for all of them."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlxtrace import vfio_calls
from mlxtrace.checks import Status, Step
from mlxtrace.checks.limits import limits
from mlxtrace.validate.results import Result, Verdict, judge
from mlxtrace.validate.worker import TellingContext, Worker, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlxtrace.checks import Check
    from mlxtrace.validate.plan import Planned
    from mlxtrace.validate.profiles import Profile
    from mlxtrace.validate.worker import Tell

_LOOK_S = 0.2
"""How often it is seen whether the user has had enough."""


@dataclass
class Run:
    """What came of a plan.

    Attributes:
        results: one for each check and repetition, in the order in which they came.
        stopped: why it did not run to the end; empty if it did.
        hint: what to do about that.
        stuck: the process that ran the checks, or one that it has made, cannot be ended: the
            devices are still open.
    """

    results: list[Result] = field(default_factory=list)
    stopped: str = ""
    hint: str = ""
    stuck: bool = False


class Engine:
    """Runs checks for a profile.

    Args:
        context: the devices, for the checks.
        profile: what is known of their driver.
        limit_s: how long a check may take; what it waits for, a share of that.
        interrupted: returns why to stop, or nothing.
        waiting: is told if processes that were killed take long to go.
        began: is told of each check that begins.
        came: is told of each result.
    """

    def __init__(
        self,
        context: TellingContext,
        profile: Profile,
        *,
        limit_s: float,
        interrupted: Callable[[], str] = lambda: "",
        waiting: Callable[[str], None] = lambda _: None,
        began: Callable[[Planned], None] = lambda _: None,
        came: Callable[[Result], None] = lambda _: None,
    ) -> None:
        self._context = context
        self._profile = profile
        self._limit_s = limit_s
        self._interrupted = interrupted
        self._waiting = waiting
        self._began = began
        self._came = came

    def run(self, plan: Sequence[Planned]) -> Run:
        """Run ``plan`` and return what came of each check in it, whatever happens."""
        run = Run()
        waiting = [each for each in plan if not each.left_out]
        if waiting:
            self._run(run, waiting)
        else:
            run.stopped = "no check ran: all that were chosen are left out"
            run.hint = "the report says why of each"
        for each in plan:
            if each.left_out:
                self._add(run, _not_run(each, each.left_out, self._profile))
        run.stopped = run.stopped or _broken(run)
        return run

    def _run(self, run: Run, waiting: list[Planned]) -> None:
        """Run what is ``waiting``, in a process of its own."""
        function = functools.partial(self._serve, [each.check for each in waiting])
        with Worker(function) as worker:
            watch = _Watch(worker, self._limit_s, self._interrupted, self._waiting)
            while waiting and not run.stopped:
                began = time.monotonic()
                self._began(waiting[0])
                end = watch.until_end()
                run.stopped, run.hint = end.get("stopped", ""), end.get("hint", "")
                took_s = time.monotonic() - began
                self._add(run, self._result(waiting[0], end, watch.steps, took_s))
                del waiting[0]
            run.stuck = not worker.end(self._waiting)
        for each in waiting:
            self._add(run, _not_run(each, f"the run had ended: {run.stopped}", self._profile))

    def _serve(self, checks: Sequence[Check], tell: Tell) -> None:
        """Run in the process of the checks: what they wait for is theirs to give up in time."""
        limits.check_s = self._limit_s
        serve(checks, self._context, tell)

    def _result(
        self, each: Planned, end: dict[str, Any], steps: list[Step], took_s: float
    ) -> Result:
        if "status" not in end:
            return _not_run(each, end["reason"], self._profile, steps, took_s * 1000)
        return judge(
            each.check,
            each.repeat,
            Status(end["status"]),
            end["reason"],
            self._profile,
            steps,
            took_s * 1000,
            excusable=not end.get("harmed"),
        )

    def _add(self, run: Run, result: Result) -> None:
        run.results.append(result)
        self._came(result)


class _Watch:
    """Waits for the ends of checks, not for ever; ``steps`` are those of the current one."""

    def __init__(
        self,
        worker: Worker,
        limit_s: float,
        interrupted: Callable[[], str],
        waiting: Callable[[str], None],
    ) -> None:
        self._worker = worker
        self._limit_s = limit_s
        self._interrupted = interrupted
        self._waiting = waiting
        self._why = ""
        self.steps: list[Step] = []

    def until_end(self) -> dict[str, Any]:
        """Return how the next check ends.

        ``status`` and ``reason``, or ``reason`` alone if nothing came of it; ``harmed`` if the
        kernel was; ``stopped`` (and ``hint``) if no other can run.
        """
        self.steps = []
        began = heard = time.monotonic()
        while True:
            if not self._why and (why := self._interrupted()):
                self._why = why
                # What it told before that still counts.
                self._worker.kill()
            try:
                message = self._worker.receive(_LOOK_S)
            except EOFError:
                return self._stopped() if self._why else self._died()
            now = time.monotonic()
            if message is not None:
                heard = now
                vfio_calls.add(message.get("calls", {}))
                if end := self._end(message):
                    return end
                if "goes_on" in message:
                    began = now
            elif self._why:
                return self._stopped()
            # Also of one that tells step after step: it may do so for ever.
            if now - began > self._limit_s:
                return self._hung(silent=now - heard > self._limit_s / 2)

    def _end(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Return what ``message`` says of a check's end; None if it does not end one."""
        if "did" in message:
            self.steps.append(Step(message["did"], message["saw"]))
        if "calls" not in message:
            return None
        if "lost" in message:
            text = message["lost"]
            end = {"reason": text, "stopped": text, "hint": message["hint"]}
        elif "broken" in message:
            end = {"reason": f"{_MISTAKE}: {message['broken']}"}
        else:
            end = {"status": message["status"], "reason": message["reason"]}
            if message["hung"]:
                end |= {"stopped": "a call did not come back", "hint": _HUNG_HINT, "harmed": True}
        if message["warned"]:
            besides = f"; besides: {end['reason']}" if end["reason"] else "; the rule wants no harm"
            end |= {"status": Status.FAILED, "reason": f"{_WARNED}{besides}", "harmed": True}
        return end

    def _stopped(self) -> dict[str, Any]:
        return {"reason": self._why, "stopped": self._why}

    def _hung(self, *, silent: bool) -> dict[str, Any]:
        last = f"after {self.steps[-1]}" if self.steps else "at its first step"
        limit = f"{self._limit_s:g} s"
        reason = (
            f"{last}: no answer within {limit}; the rule wants an answer"
            if silent
            else f"{last}: it goes on after {limit}; the rule wants an end"
        )
        return {
            "status": Status.FAILED,
            "reason": reason,
            "harmed": True,
            "stopped": f"a check took longer than {limit}",
            "hint": _HUNG_HINT,
        }

    def _died(self) -> dict[str, Any]:
        last = f"after {self.steps[-1]}" if self.steps else "at its first step"
        self._worker.end(self._waiting)
        fate = self._worker.fate
        return {
            "status": Status.FAILED,
            "reason": f"{last}: the process that ran it {fate}",
            "harmed": True,
            "stopped": f"the process that ran the checks {fate}",
            "hint": "dmesg says more if the kernel ended it; the devices may need a reboot",
        }


_WARNED = "the kernel warned or oopsed meanwhile, dmesg says where"
_MISTAKE = "a mistake in the check itself"
_HUNG_HINT = (
    "dmesg says more; if the kernel hangs, the devices need a reboot. A slow machine needs a "
    "longer --check-timeout"
)


def _not_run(
    each: Planned,
    reason: str,
    profile: Profile,
    steps: Sequence[Step] = (),
    duration_ms: float = 0,
) -> Result:
    known = profile.of(each.check)
    return Result(
        each.check, each.repeat, Verdict.NOT_RUN, reason, known, tuple(steps), duration_ms
    )


def _broken(run: Run) -> str:
    """Return that checks could not run through a mistake of their own; mostly empty."""
    for result in run.results:
        if _MISTAKE in result.reason:
            return f"{result.check.id}: {result.reason}"
    return ""
