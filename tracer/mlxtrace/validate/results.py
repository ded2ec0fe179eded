# SPDX-License-Identifier: GPL-2.0-or-later
"""What came of each check in the light of a profile, the sums, and the exit status."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlxtrace.checks import Level, Status
from mlxtrace.validate.profiles import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlxtrace.checks import Check, Step
    from mlxtrace.validate.profiles import Known, Profile

HOLDS, FAILED, NOT_TO_THE_END = 0, 1, 3
"""Exit statuses; 2 is for usage."""
_MAY_FAIL = (Kind.FAILS, Kind.FAILS_IF_OFFERED, Kind.MAY_FAIL)


class Verdict(enum.StrEnum):
    """What came of a check; where repetitions differ, the first one of these counts."""

    FAILED = "failed"
    KNOWN_DEVIATION = "known deviation"
    PASSED = "passed"
    NOT_OFFERED = "not offered"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Result:
    """What came of a check, once.

    Attributes:
        check: which one it was.
        repeat: in which repetition, from 1.
        verdict: what came of it.
        reason: of what did not pass: the step, what was wanted and what the kernel answered; or
            why it was not run.
        known: what the profile says of it.
        steps: what was done and observed, in order.
        duration_ms: how long it took.
    """

    check: Check
    repeat: int
    verdict: Verdict
    reason: str = ""
    known: Known | None = None
    steps: tuple[Step, ...] = ()
    duration_ms: float = 0

    @property
    def remark(self) -> str:
        """What is odd about it in the light of the profile; mostly empty."""
        if self.verdict is Verdict.PASSED and self.known:
            return {
                Kind.FAILS: "known to fail, but holds",
                Kind.FAILS_IF_OFFERED: "known to fail, but holds",
                Kind.LACKS: "known to be absent, but is there and holds",
                Kind.MAY_FAIL: "known to fail at times",
            }.get(self.known.kind, "")
        if self.verdict is Verdict.NOT_OFFERED and (
            not self.known or self.known.kind not in (Kind.LACKS, Kind.FAILS_IF_OFFERED)
        ):
            return "the profile does not say so"
        return ""


def judge(
    check: Check,
    repeat: int,
    status: Status,
    reason: str,
    profile: Profile,
    steps: Sequence[Step] = (),
    duration_ms: float = 0,
    *,
    excusable: bool = True,
) -> Result:
    """Return what ``status`` means for a driver of which ``profile`` is known.

    A failure that is not ``excusable`` is no known deviation, whatever the profile says: no reason
    in it stands for harm to the kernel.
    """
    known = profile.of(check)
    verdict = Verdict(status)
    if status is Status.FAILED and excusable and known and known.kind in _MAY_FAIL:
        verdict = Verdict.KNOWN_DEVIATION
    return Result(check, repeat, verdict, reason, known, tuple(steps), duration_ms)


def by_check(results: Iterable[Result]) -> list[tuple[Check, list[Result]]]:
    """Return the results of each check, in the order of their first repetitions."""
    found: dict[str, tuple[Check, list[Result]]] = {}
    for result in results:
        found.setdefault(result.check.id, (result.check, []))[1].append(result)
    return list(found.values())


def worst(results: Iterable[Result]) -> Result:
    """Return the result that counts of a check's repetitions: the first of the worst."""
    order = list(Verdict)
    return min(results, key=lambda each: order.index(each.verdict))


@dataclass(frozen=True)
class Summary:
    """How many checks came to what; of repetitions the worst counts.

    Attributes:
        failed: by level.
        stopped: why it did not run to the end; empty if it did.
        unwritten: why a report of it could not be written; empty if all were.
        calls: how often the files of VFIO were called, by kind: see :mod:`mlxtrace.vfio_calls`.
    """

    passed: int
    failed: Mapping[Level, int]
    known_deviations: int
    not_offered: int
    not_run: int
    stopped: str = ""
    unwritten: str = ""
    calls: Mapping[str, int] = field(default_factory=dict)

    @property
    def exit_status(self) -> int:
        """The command's exit status."""
        if self.stopped:
            return NOT_TO_THE_END
        if self.failed[Level.MUST]:
            return FAILED
        return NOT_TO_THE_END if self.unwritten else HOLDS

    def as_dict(self) -> dict[str, Any]:
        """Return it as the last line of JSON."""
        return {
            "event": "summary",
            "passed": self.passed,
            "failed_must": self.failed[Level.MUST],
            "failed_should": self.failed[Level.SHOULD],
            "failed_driver": self.failed[Level.DRIVER],
            "known_deviations": self.known_deviations,
            "not_offered": self.not_offered,
            "not_run": self.not_run,
            "stopped": self.stopped,
            "exit_status": self.exit_status,
            "calls": dict(self.calls),
        }

    def __str__(self) -> str:
        parts = [f"{self.passed} passed"]
        parts += [f"{count} failed ({level})" for level, count in self.failed.items() if count]
        if not any(self.failed.values()):
            parts.append("0 failed")
        plural = "" if self.known_deviations == 1 else "s"
        parts.append(f"{self.known_deviations} known deviation{plural}")
        parts.append(f"{self.not_offered} not offered")
        parts.append(f"{self.not_run} not run")
        return ", ".join(parts)


def summarize(
    results: Iterable[Result], stopped: str = "", calls: Mapping[str, int] | None = None
) -> Summary:
    """Return the sums of ``results``; ``stopped`` says why the run ended early."""
    counted = [worst(each) for _, each in by_check(results)]

    def count(verdict: Verdict) -> int:
        return sum(each.verdict is verdict for each in counted)

    failed = [each.check.level for each in counted if each.verdict is Verdict.FAILED]
    return Summary(
        passed=count(Verdict.PASSED),
        failed={level: failed.count(level) for level in Level},
        known_deviations=count(Verdict.KNOWN_DEVIATION),
        not_offered=count(Verdict.NOT_OFFERED),
        not_run=count(Verdict.NOT_RUN),
        stopped=stopped,
        calls=calls or {},
    )


def as_dict(result: Result) -> dict[str, Any]:
    """Return ``result`` as a line of JSON."""
    return {
        "event": "check",
        "id": result.check.id,
        "level": result.check.level,
        "rule": result.check.rule,
        "status": result.verdict,
        "known": result.known.reason if result.known else "",
        "remark": result.remark,
        "reason": result.reason,
        "steps": [str(step) for step in result.steps],
        "duration_ms": round(result.duration_ms, 1),
        "repeat": result.repeat,
    }
