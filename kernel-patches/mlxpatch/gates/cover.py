# SPDX-License-Identifier: GPL-2.0-or-later
"""Gate ``cover``: what the cover letter and the subjects say about the series is true."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxpatch.gates.core import Result, Skipped

if TYPE_CHECKING:
    from mlxpatch.gates.core import Context
    from mlxpatch.series import Series

_BLURB = "*** BLURB HERE ***\n\n"


def check(context: Context) -> Result:
    """Compare counts, subjects and diffstat with those of git format-patch --cover-letter.

    Raises:
        Skipped: there is no cover letter.
    """
    series = context.series
    problems = _counts(series)
    if series.cover is None:
        if problems or (len(series.patches) > 1 and series.patches[0].mail.count):
            return Result("no cover letter; numbers only", problems)
        raise Skipped("there is no cover letter")
    made, _ = context.exported
    text = (made or b"").decode("utf-8", "replace").partition(_BLURB)[2].rstrip("\n")
    have = [line.rstrip() for line in series.cover.raw.decode("utf-8", "replace").splitlines()]
    for title, block in zip(("list of patches", "diffstat"), _blocks(text), strict=True):
        wanted = [line.rstrip() for line in block]
        if not _contains(have, wanted):
            missing = next((line for line in wanted if line not in have), wanted[0])
            problems.append(f"the cover letter's {title} is not current: no line {missing!r}")
    for mark in ("*** SUBJECT HERE ***", "*** BLURB HERE ***"):
        if any(mark in line for line in have):
            problems.append(f"the cover letter still says {mark}")
    hint = f"its lines should be:\n{text}" if problems else ""
    return Result(f"{len(series.patches)} subjects and the diffstat", problems, hint=hint)


def _counts(series: Series) -> list[str]:
    total = len(series.patches)
    problems = []
    for position, patch in enumerate(series.patches, start=1):
        mail = patch.mail
        if mail.count and mail.count != total:
            problems.append(f"{patch.name} says {mail.number}/{mail.count}, of {total} patches")
        if not mail.count and total > 1 and mail.subject and mail.tags:
            problems.append(f"{patch.name} has no {position}/{total}")
    versions = sorted({patch.mail.version for patch in series.patches})
    if len(versions) > 1:
        problems.append(f"versions differ: v{', v'.join(map(str, versions))}")
    cover = series.cover
    if cover is not None and (cover.number, cover.count) != (0, total):
        problems.append(f"the cover letter says {cover.number}/{cover.count}, not 0/{total}")
    if cover is not None and cover.version != versions[0]:
        problems.append(f"the cover letter says v{cover.version}, the patches v{versions[0]}")
    return problems


def _blocks(text: str) -> tuple[list[str], list[str]]:
    """Return the list of patches and the diffstat: the stat begins with its first `` | ``."""
    paragraphs = text.split("\n\n")
    stat = paragraphs[-1].split("\n") if paragraphs else []
    names = [
        line for paragraph in paragraphs[:-1] for line in paragraph.split("\n") if line.strip()
    ]
    return names, stat


def _contains(have: list[str], wanted: list[str]) -> bool:
    lines = [line for line in have if line]
    wanted = [line for line in wanted if line]
    return any(lines[at : at + len(wanted)] == wanted for at in range(len(lines) + 1))
