# SPDX-License-Identifier: GPL-2.0-or-later
"""The warnings in make's output: gcc's, sparse's, kernel-doc's, objtool's and modpost's.

A patch moves lines, so a warning is known by its file and text, and by how often it is there:
sparse says the same of every place where a driver mixes two types.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# A sparse that finds an error goes on, and make with it.
_FINDING = re.compile(
    r"(?P<file>[^\s:]+)(?::(?P<line>\d+))?(?::\d+)?: (?:warning|error): (?P<text>.+)"
)
# sparse says on lines of their own which types do not agree.
_DETAIL = re.compile(r"(?P<place>[^\s:]+:\d+:\d+):    (?P<text>(?:expected|got) .+)")
_MODPOST = re.compile(r"WARNING: (?:modpost: )?(?P<text>.+)")
# Where in a function objtool stumbled is another place after every change.
_INSTRUCTION = re.compile(r"\+0x[0-9a-f]+")


def found(output: Iterable[str]) -> dict[str, list[str]]:
    """Return the lines on which each warning in make's ``output`` is; one key for each text.

    A warning without a line has an empty one. What is said of a header counts once for each line,
    however many sources include it.
    """
    lines = list(output)
    details: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        match = _DETAIL.match(line)
        if match and match["text"] not in details[match["place"]]:
            details[match["place"]].append(match["text"])
    warnings: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        match = _FINDING.match(line)
        if match is None:
            modpost = _MODPOST.match(line)
            if modpost:
                warnings[f"modpost: {_INSTRUCTION.sub('', modpost['text'])}"] = [""]
            continue
        place = line.partition(": ")[0]
        text = "; ".join([_INSTRUCTION.sub("", match["text"]), *details.get(place, ())])
        at = warnings[f"{match['file']}: {text}"]
        number = match["line"] or ""
        if not (match["file"].endswith(".h") and number in at):
            at.append(number)
    return dict(warnings)


class Known:
    """The warnings that are nobody's fault any more: the base's, and those told once."""

    def __init__(self, base: dict[str, list[str]]) -> None:
        self._counts = {warning: len(lines) for warning, lines in base.items()}

    def fresh(self, now: dict[str, list[str]]) -> Iterator[str]:
        """Yield what is new in ``now``, with its lines, and know it from then on."""
        for warning, lines in now.items():
            before = self._counts.get(warning, 0)
            if len(lines) <= before:
                continue
            self._counts[warning] = len(lines)
            file, _, text = warning.partition(": ")
            where = f":{','.join(lines)}" if all(lines) else ""
            more = f" ({len(lines)} times, {before} of them not new)" if before else ""
            yield f"{file}{where}: {text}{more}"
