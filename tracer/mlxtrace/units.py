# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes, rates, times and foreign text for people; ``-`` for what is not known."""

from __future__ import annotations

import textwrap

COLUMNS = 99
"""Columns that a line for people may have."""


def size(count: int | None) -> str:
    """Return bytes in at most six characters, by powers of 1024: ``61.2M``; ``-`` for None."""
    if count is None:
        return "-"
    if count < 1024:
        return f"{count}"
    value = float(count)
    for unit in "KMGT":
        value /= 1024
        if value < 1023.95 or unit == "T":
            break
    return f"{value:.1f}{unit}"


def rate(bytes_per_s: int | None) -> str:
    """Return a rate: ``61.2M/s``; ``-`` for None."""
    return "-" if bytes_per_s is None else f"{size(bytes_per_s)}/s"


def milliseconds(duration_ns: int | None) -> str:
    """Return a duration in ms with three decimals; ``-`` for None."""
    return "-" if duration_ns is None else f"{duration_ns / 1e6:.3f}"


def number(value: int | None) -> str:
    """Return a number in digits; ``-`` for None."""
    return "-" if value is None else f"{value}"


def count(value: int | None, noun: str) -> str:
    """Return ``1 image`` or ``3 images``; ``- images`` for None."""
    return f"{number(value)} {noun}{'' if value == 1 else 's'}"


def fold(line: str, indent: int = 12) -> list[str]:
    """Return ``line`` as lines of at most ``COLUMNS``; those after the first are indented."""
    if len(line) <= COLUMNS:
        return [line]
    return textwrap.wrap(
        line,
        COLUMNS,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def one_line(text: str) -> str:
    """Return what another host or a file says, as one line that does a terminal no harm."""
    return "".join(each if each.isprintable() else "?" for each in text[:1000])
