# SPDX-License-Identifier: GPL-2.0-or-later
"""Gate ``export``: git format-patch makes the same files again."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from mlxpatch.gates.core import Result, Skipped

if TYPE_CHECKING:
    from mlxpatch.gates.core import Context

_HINT = (
    "git am the series and make it anew: git format-patch --full-index --zero-commit --no-signature"
)
_RULE = b"\n---\n"


def check(context: Context) -> Result:
    """Compare each patch with what git makes of it; ``base-commit:`` and notes may be added.

    Raises:
        Error: git cannot take a patch.
        Skipped: the series came by mail, or does not apply.
    """
    if context.series.foreign:
        raise Skipped("the series is no folder with a 'series' file: mails have other headers")
    _, files = context.exported
    problems = []
    for patch, made in zip(context.series.patches, files, strict=True):
        have, want = _same_notes(patch.data, made), made
        if not context.base.exact:
            have, want = _unplaced(have), _unplaced(want)
        if have != want:
            problems.append(f"{patch.name}: {_difference(have, want)}")
    return Result(f"{len(files)} files made anew", problems, hint=_HINT if problems else "")


def _same_notes(data: bytes, made: bytes) -> bytes:
    """Return ``data`` without what a person wrote between ``---`` and the diffstat."""
    head, rule, rest = data.partition(_RULE)
    wanted = made.partition(_RULE)[2]
    body = rest
    base = re.search(rb"\n+base-commit: [0-9a-f]+\n(?:prerequisite-patch-id: .*\n)*\Z", body)
    if base:
        body = body[: base.start()] + b"\n"
        body = body if wanted.endswith(b"\n\n") else body.rstrip(b"\n") + b"\n"
    notes = body[: -len(wanted)] if body.endswith(wanted) else b""
    return head + rule + (wanted if notes.endswith(b"\n") else body)


def _unplaced(data: bytes) -> bytes:
    data = re.sub(rb"^index [0-9a-f]+\.\.[0-9a-f]+", b"index", data, flags=re.MULTILINE)
    return re.sub(rb"^@@ -\d+(,\d+)? \+\d+(,\d+)? @@", rb"@@\1\2 @@", data, flags=re.MULTILINE)


def _difference(have: bytes, want: bytes) -> str:
    pairs = itertools.zip_longest(have.split(b"\n"), want.split(b"\n"))
    for number, (ours, theirs) in enumerate(pairs, start=1):
        if ours != theirs:
            return f"line {number} is {_shown(ours)}, git writes {_shown(theirs)}"
    return "it differs"


def _shown(line: bytes | None) -> str:
    return "nothing" if line is None else repr(line.decode("utf-8", "replace"))
