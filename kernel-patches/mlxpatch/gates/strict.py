# SPDX-License-Identifier: GPL-2.0-or-later
"""Gate ``apply``: every patch fits its base, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxpatch.apply import applied
from mlxpatch.gates.core import Result

if TYPE_CHECKING:
    from mlxpatch.gates.core import Context


def check(context: Context) -> Result:
    """Apply the series to the base in memory.

    Raises:
        Error: a patch does not apply.
    """
    base = context.base
    applied(context.series, base.tree, exact=base.exact)
    summary = f"{len(context.series.patches)} patches on {base.name}"
    return Result(summary, notes=[base.note] if base.note else [])
