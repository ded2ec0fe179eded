# SPDX-License-Identifier: GPL-2.0-or-later
"""The exit statuses of ``mlxlab run`` that are not the command's own."""

from __future__ import annotations

from genbindings.errors import Error

SPLAT = 120
TIMEOUT = 124
NOT_STARTED = 125
LOST = 126
INTERRUPTED = 130


class NotStartedError(Error):
    """The lab could not start."""

    status = NOT_STARTED
