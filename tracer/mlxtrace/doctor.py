# SPDX-License-Identifier: GPL-2.0-or-later
"""Examines everything that tracing needs, and says what to do about what is wrong."""

from __future__ import annotations

import enum
import json
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from genbindings.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WIDTH = 99
_INDENT = " " * 10


class Verdict(enum.StrEnum):
    """What a finding means for tracing."""

    OK = "ok"
    DEGRADED = "degraded"
    """A trace works, and shows less or costs more."""
    MISSING = "missing"
    """No trace is possible before it is mended."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was examined.

    Attributes:
        topic: what: ``bcc``, ``probe save-read``, ``vf 0000:01:00.1``.
        verdict: its state.
        said: what was found, one sentence.
        remedy: what to do, "" where nothing is to be done.
    """

    topic: str
    verdict: Verdict
    said: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """Return plain data."""
        return {
            "type": "finding",
            "topic": self.topic,
            "verdict": str(self.verdict),
            "said": self.said,
            "remedy": self.remedy,
        }

    def lines(self) -> Iterator[str]:
        """Yield the finding for people, and its remedy below it, under 100 columns."""
        yield from _wrapped(f"{self.verdict:<9} {self.topic}: {self.said}", _INDENT)
        if self.remedy:
            yield from _wrapped(f"{_INDENT}-> {self.remedy}", f"{_INDENT}   ")


def _wrapped(text: str, indent: str) -> list[str]:
    # Commands and paths stay whole, so that they can be copied.
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


def guarded(
    topic: str, check: Callable[[], Iterator[Finding]], *, required: bool = False
) -> Iterator[Finding]:
    """Yield what ``check`` finds; what it cannot examine is a finding too.

    An :class:`Error` is what a trace would have ended with: its topic is missing. So is it after
    any other exception if it is ``required``, since a trace looks at the same.
    """
    try:
        yield from check()
    except Error as error:
        yield Finding(topic, Verdict.MISSING, str(error), error.hint)
    except Exception as error:  # noqa: BLE001 - the doctor reports on a host, whatever its state
        yield Finding(
            topic,
            Verdict.MISSING if required else Verdict.DEGRADED,
            f"could not be examined: {type(error).__name__}: {error}",
            "please report this with the output of mlxtrace doctor --json",
        )


def examine(*, open_vfs: bool = True, generic: bool = False) -> Iterator[Finding]:
    """Yield all findings, the most basic ones first.

    Args:
        open_vfs: ask VFs that nobody uses what they offer, for which they must be opened.
        generic: for a trace of any driver of VFIO migration, not of mlx5's.
    """
    from mlxtrace import doctor_driver, doctor_host, doctor_vfs

    driver = doctor_driver.Driver(generic=generic)
    for topic, check, required in (
        ("privileges", doctor_host.privileges, True),
        ("lockdown", doctor_host.lockdown, True),
        ("sysctls", doctor_host.sysctls, False),
        ("headers", doctor_host.headers, False),
        ("libbpf", doctor_host.libbpf, True),
        ("bcc", doctor_host.bcc, True),
        ("module", driver.module, True),
        ("layouts", driver.layouts, True),
        ("program", driver.program, True),
        ("probes", driver.probes, True),
        ("vfs", lambda: doctor_vfs.vfs(open_them=open_vfs, generic=generic), False),
    ):
        yield from guarded(topic, check, required=required)


def run(
    stream: TextIO, *, as_json: bool = False, open_vfs: bool = True, generic: bool = False
) -> bool:
    """Print the findings as they come, then the verdict; return whether a trace would work.

    ``open_vfs`` and ``generic`` are as in :func:`examine`.
    """
    seen: list[Finding] = []
    for finding in examine(open_vfs=open_vfs, generic=generic):
        seen.append(finding)
        lines = [json.dumps(finding.to_json())] if as_json else finding.lines()
        print(*lines, sep="\n", file=stream, flush=True)
    command = "mlxtrace precopy --driver any" if generic else "mlxtrace precopy"
    missing = [finding.topic for finding in seen if finding.verdict is Verdict.MISSING]
    degraded = sum(finding.verdict is Verdict.DEGRADED for finding in seen)
    if as_json:
        verdict = {"type": "verdict", "traceable": not missing, "missing": missing}
        print(json.dumps({**verdict, "degraded": degraded}), file=stream)
    elif missing:
        said = f"{command} would not work here: {', '.join(dict.fromkeys(missing))}"
        print("", *_wrapped(said, "  "), sep="\n", file=stream)
    else:
        less = f", with less than all it can show ({degraded} degraded)" if degraded else ""
        print(f"\n{command} would work here{less}", file=stream)
    return not missing
