# SPDX-License-Identifier: GPL-2.0-or-later
"""One run of ``mlxtrace validate``: devices borrowed, checks run, devices given back."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlxtrace import vfio_calls
from mlxtrace.checks import all_checks
from mlxtrace.checks.amounts import amounts
from mlxtrace.validate import guard, simulated
from mlxtrace.validate.engine import Engine, Run
from mlxtrace.validate.plan import plan, takes_away
from mlxtrace.validate.profiles import Profile, choose, load
from mlxtrace.validate.progress import interruptible, shown
from mlxtrace.validate.results import Result, Summary, as_dict, summarize
from mlxtrace.validate.worker import TellingContext
from mlxtrace.vfio import MigrationFlags

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlxtrace.checks import Check


@dataclass(frozen=True)
class Options:
    """What the command line asks for, but the selection of checks: see its help."""

    source: str
    target: str
    profile: str | None = None
    repeat: int = 1
    cycles: int = 1000
    limit_s: float = 300
    destructive: bool = False
    bind: bool = False
    quiet: bool = False

    def again(self, check: Check) -> str:
        """Return the command that runs ``check`` again as it was run."""
        words = ["mlxtrace", "validate", "--source", self.source, "--target", self.target]
        words += ["--only", check.id]
        words += ["--profile", self.profile] if self.profile else []
        words += ["--cycles", str(self.cycles)] if self.cycles != Options.cycles else []
        words += ["--destructive"] if takes_away(check) else []
        words += ["--bind"] if self.bind else []
        return shlex.join(words)


@dataclass(frozen=True)
class Heading:
    """What was checked, and in whose light: what every report begins with."""

    source: str
    target: str
    driver: str
    kernel: str
    flags: str
    profile: str
    profile_reason: str


class Session:
    """Runs checks as ``options`` say.

    Attributes:
        heading: what was checked.
        results: what came of each check.
        summary: the sums.
        hint: what to do about a run that did not come to its end.
    """

    heading: Heading
    summary: Summary

    def __init__(
        self,
        options: Options,
        checks: Sequence[Check],
        *,
        tell: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        """``tell`` gets the lines of JSON but the last."""
        self._options = options
        self._checks = checks
        self._tell = tell
        self.results: list[Result] = []
        self.hint = ""

    def run(self) -> None:
        """Run.

        Raises:
            RefusedError: the devices cannot be checked, or are not to be touched.
            UsageError: there is no such profile, or its file is wrong.
        """
        options = self._options
        names = [options.source, options.target]
        if options.profile:
            # Its mistakes are told before anything is touched.
            self._profile()
        found = guard.look_up(names, destructive=options.destructive)
        vfio_calls.take()
        with interruptible() as interrupted:
            with guard.borrowed(found, bind=options.bind) as loan:
                run = self._run_on(names, interrupted)
                loan.hold = run.stuck
            stopped = run.stopped or "; ".join(loan.troubles)
        self.results, self.hint = run.results, run.hint
        self.summary = summarize(run.results, stopped, vfio_calls.take())

    def _profile(self, offer: guard.Offer | None = None) -> tuple[Profile, str]:
        every = [check.id for check in all_checks()]
        if self._options.profile:
            profile = load(self._options.profile, every)
            if offer:
                _require_fit(profile, offer)
            return profile, "named by --profile"
        assert offer
        return choose(offer.driver, offer.flags, os.uname().release, every)

    def _run_on(self, names: list[str], interrupted: Callable[[], str]) -> Run:
        options = self._options
        offer = guard.probe(names)
        profile, why = self._profile(offer)
        # Here, so that the process that runs the checks has it.
        amounts.state_bytes = offer.state_bytes
        flags = [flag.name or "" for flag in MigrationFlags if flag in offer.flags]
        self.heading = Heading(
            options.source,
            options.target,
            offer.driver,
            os.uname().release,
            ", ".join(flags),
            profile.name,
            why,
        )
        self._tell({"event": "meta", **vars(self.heading)})
        planned = plan(
            self._checks, profile, repeat=options.repeat, destructive=options.destructive
        )
        total = sum(not each.left_out for each in planned)
        with (
            simulated.borrowed(names) as loan,
            shown(total, options.quiet) as progress,
        ):
            context = TellingContext(
                *names,
                firmware=loan.firmware,
                dma=loan.firmware.write if loan.firmware else None,
                may_rebind=options.destructive,
                may_destroy=options.destructive,
                cycles=options.cycles,
            )

            def came(result: Result) -> None:
                self._tell(as_dict(result))
                progress.came(result)

            engine = Engine(
                context,
                profile,
                limit_s=options.limit_s,
                interrupted=interrupted,
                waiting=progress.waiting,
                began=progress.began,
                came=came,
            )
            run = engine.run(planned)
            loan.hold = run.stuck
        run.stopped = run.stopped or loan.trouble
        return run


def _require_fit(profile: Profile, offer: guard.Offer) -> None:
    """Raise RefusedError if a driver lacks what the one of ``profile`` offers.

    All that needs it would be "not offered", and the run as good as one of the other driver.
    """
    if profile.when.get("pre_copy") and MigrationFlags.PRE_COPY not in offer.flags:
        raise guard.RefusedError(
            f"the profile {profile.name} is that of a driver that offers PRE_COPY; {offer.driver} "
            "does not offer it here",
            "mlxtrace doctor and dmesg may say why; to judge it without, leave --profile out, or "
            "name another one",
        )
