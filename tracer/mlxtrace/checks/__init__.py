# SPDX-License-Identifier: GPL-2.0-or-later
"""Conformance: one function per statement of the migration uAPI (C1, C2, ...).

    context = Context("0000:01:00.1", "0000:01:00.2")
    for each in all_checks():
        outcome = run(each, context)
        print(each.id, outcome.status, outcome.reason)

The checks open both devices for themselves, and leave them closed; nothing else may use them
meanwhile. Those that may hang the kernel of a driver that breaks the rule come late, and
last of all those that remove the VFs.
"""

from mlxtrace.checks import (
    abrupt,
    accounting,
    datafile,
    dirty,
    features,
    ioctl,
    lifetime,
    readers,
    removal,
    resume,
    session,
    states,
    streams,
    table,
)
from mlxtrace.checks.context import Context, Firmware
from mlxtrace.checks.core import Check, Level, Outcome, Status, Step, registered, run

__all__ = [
    "Check",
    "Context",
    "Firmware",
    "Level",
    "Outcome",
    "Status",
    "Step",
    "all_checks",
    "run",
]

# Their modules register them.
_MODULES = (
    abrupt,
    accounting,
    datafile,
    dirty,
    features,
    ioctl,
    lifetime,
    readers,
    removal,
    resume,
    session,
    states,
    streams,
    table,
)


def all_checks() -> list[Check]:
    """Return every check, in the order in which they should run."""
    return registered()
