# SPDX-License-Identifier: GPL-2.0-or-later
"""Find kernel splats in a guest's log. What a splat is, is data: splats.toml."""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# "[    1.234567] ", with CPU or caller as CONFIG_PRINTK_CALLER adds; "<4>" is the raw level.
_STAMP = re.compile(r"^(?:<\d+>)?(\[ *\d+\.\d+\])?(?:\[ *[CT]\d+\])? ?")
_TIME = re.compile(r"^(?:<\d+>)?\[ *(\d+\.\d+)\]")
_END = re.compile(r"^(?:---\[ end trace|---\[ end Kernel panic|={20,}$)")
_CUT = "------------[ cut here ]"
# A trace ends at the first line that cannot be part of it; how far to look.
_MAX_LINES = 60
_PART = re.compile(
    r"^(?: |\t|Modules linked in|CPU: |Hardware name|Workqueue|RIP: |Code: |R[A-D0-9][A-Z0-9]: |"
    r"RSP: |RSI: |RBP: |FS: |CS: |CR2: |DR0: |DR3: |PKRU|Call Trace|</?(?:TASK|IRQ|NMI)|"
    r"Tainted: |irq event|hardirqs|softirqs|Oops: |PGD |Read of size|Write of size|"
    r"[a-z_0-9]+\+0x|\(t=|rcu: |Sending NMI|NMI backtrace|---\[|Kernel Offset|"
    r"The buggy|Memory state|page:|comm |backtrace|task:|"
    r"\"echo 0|addr |caller )"
)


@dataclass(frozen=True)
class Splat:
    """One splat: ``lines`` is its text with time stamps."""

    kind: str
    headline: str
    lines: tuple[str, ...]


@functools.cache
def _rules() -> tuple[list[tuple[str, re.Pattern[str]]], list[re.Pattern[str]]]:
    table = tomllib.loads((Path(__file__).parent / "splats.toml").read_text())
    patterns = [
        (rule["kind"], re.compile(pattern))
        for rule in table["splat"]
        for pattern in rule["patterns"]
    ]
    return patterns, [re.compile(rule["pattern"]) for rule in table["allowed"]]


def kind_of(line: str) -> str | None:
    """Return which kind of splat ``line`` (without its time stamp) begins, or None."""
    patterns, allowed = _rules()
    if any(pattern.search(line) for pattern in allowed):
        return None
    return next((kind for kind, pattern in patterns if pattern.search(line)), None)


def find(log: Iterable[str]) -> list[Splat]:
    """Return the splats in the lines of a kernel log, in order."""
    lines = [line.rstrip("\r\n") for line in log]
    texts = [_STAMP.sub("", line, count=1) for line in lines]
    found = []
    index = 0
    while index < len(lines):
        kind = kind_of(texts[index])
        if kind is None:
            index += 1
            continue
        end = _end_of(texts, index)
        found.append(Splat(kind, texts[index], tuple(lines[_begin_of(texts, index) : end])))
        index = end
    return found


def _begin_of(texts: list[str], headline: int) -> int:
    # WARN() prints its own message between the cut and the line that says WARNING.
    for index in range(headline - 1, max(headline - 5, -1), -1):
        if _CUT in texts[index]:
            return index + 1
    return headline


def _end_of(texts: list[str], start: int) -> int:
    # A frame of "=====" (KASAN, lockdep, UBSAN) is closed by another; others are followed by
    # lines that only a trace has.
    framed = start > 0 and re.fullmatch(r"={20,}", texts[start - 1]) is not None
    index = start + 1
    while index < min(len(texts), start + _MAX_LINES):
        text = texts[index]
        if _END.match(text):
            return index + 1
        if not framed and (_CUT in text or not (_PART.match(text) or not text)):
            return index
        index += 1
    return index


def merge(kernel_log: str, console: str) -> list[Splat]:
    """Return the splats of both logs, each once.

    The kernel log is complete, but written when the guest ends; the console has only warnings and
    what is worse, but it has the last words of a kernel that died.
    """
    found = find(kernel_log.splitlines())
    seen = {(_time(splat), splat.headline) for splat in found}
    for splat in find(console.splitlines()):
        if (_time(splat), splat.headline) not in seen:
            seen.add((_time(splat), splat.headline))
            found.append(splat)
    return found


def _time(splat: Splat) -> str:
    match = _TIME.match(splat.lines[0])
    return match[1] if match else ""
