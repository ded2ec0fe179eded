# SPDX-License-Identifier: GPL-2.0-or-later
"""The options that choose what is shown, of ``precopy`` and ``report``."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import click

from genbindings.console import FiniteRange
from genbindings.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mlxtrace.selection import Selection

Function = TypeVar("Function", bound="Callable[..., int]")

MILLISECONDS = FiniteRange(0, min_open=True, second=1000)


def options(function: Function) -> Function:
    """Add ``-p``, ``-i`` and ``-x`` to a command."""
    for option in (
        click.option(
            "-x", "failures_only", is_flag=True, help="Show failures only: errno, status, aborts."
        ),
        click.option(
            "-i",
            "interval_s",
            type=FiniteRange(0.1),
            metavar="SECONDS",
            help="Show sums of each SECONDS, and rows only of failures.",
        ),
        click.option(
            "-p",
            "pid",
            type=click.IntRange(1),
            metavar="PID",
            help="Show only what this process does with its VFs.",
        ),
    ):
        function = option(function)
    return function


def selection(
    *,
    devices: Collection[str] = (),
    pid: int | None,
    interval_s: float | None,
    failures_only: bool,
    min_ms: float | None,
) -> Selection:
    """Return the selection that the options make.

    Raises:
        UsageError: two of them contradict each other.
    """
    from mlxtrace.selection import Selection

    if failures_only and min_ms is not None:
        raise UsageError(
            "-x and min_ms exclude each other", "min_ms never hides a failure, however short"
        )
    if interval_s is not None and (failures_only or min_ms is not None):
        raise UsageError(
            f"-i and {'-x' if failures_only else 'min_ms'} exclude each other",
            "with -i only failures get rows of their own",
        )
    return Selection(
        devices=tuple(devices),
        pid=pid,
        failures_only=failures_only,
        min_ns=round((min_ms or 0) * 1e6),
        interval_ns=round((interval_s or 0) * 1e9),
    )
