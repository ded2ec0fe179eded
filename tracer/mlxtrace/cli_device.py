# SPDX-License-Identifier: GPL-2.0-or-later
"""Options that name a device."""

from __future__ import annotations

import click

from genbindings.errors import UsageError
from mlxtrace.devices import parse_name


def device_name(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    """Return a device's name in canonical form; another is a usage error."""
    if value is None:
        return None
    try:
        return parse_name(value)
    except UsageError as error:
        raise click.BadParameter(f"{error}; {error.hint}", context, parameter) from None
