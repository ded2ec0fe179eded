# SPDX-License-Identifier: GPL-2.0-or-later
"""The errors that every room raises for what a user can cause or mend."""

from __future__ import annotations


class Error(Exception):
    """Something failed that the user can act on: printed as one line, never as a traceback.

    ``str(error)`` says what failed and on which file, device or symbol; ``hint`` says what to do
    next, where there is something to do. ``status`` is the exit status of the command.
    """

    status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(Error):
    """The command line asks for something that cannot be: exit status 2."""

    status = 2
