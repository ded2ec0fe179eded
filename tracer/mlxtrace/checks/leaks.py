# SPDX-License-Identifier: GPL-2.0-or-later
"""What a session may leave behind: files of this process, objects that the driver holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mlxtrace.checks.limits import limits
from mlxtrace.checks.transfer import open_files

if TYPE_CHECKING:
    from mlxtrace.checks.context import Context

PATIENCE_S = 2.0
"""How long it is waited for that the number of objects does not change."""
_PAUSE_S = 0.01
_STILL_S = 0.1
"""What has not changed for so long is not being freed in a work queue any more."""


class Held:
    """What is held at the time when this is made, once nothing is being freed any more."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.files = open_files()
        self.objects = self._settled()

    def _objects(self) -> dict[str, int]:
        """Return the driver's objects by kind; none are known without a simulated firmware."""
        return self._context.firmware.objects() if self._context.firmware else {}

    def _settled(self) -> dict[str, int]:
        """Return the objects that are left when their number has stopped to change."""
        objects = self._objects()
        still_from = time.monotonic()
        deadline = still_from + PATIENCE_S
        while objects and time.monotonic() < min(still_from + _STILL_S, deadline):
            time.sleep(_PAUSE_S)
            if (now := self._objects()) != objects:
                objects, still_from = now, time.monotonic()
        return objects

    def expect_no_more(self) -> None:
        """Check that nothing has become more since, or will be no more after a moment.

        Raises:
            DeviationError: something has.
        """
        # A driver may free what it has in a work queue, and firmware takes its time for that.
        deadline = time.monotonic() + limits.answer_s
        while (now := self._objects()) != self.objects and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
        files = open_files()
        self._context.expect(
            files == self.files, "files open in this process", str(files), str(self.files)
        )
        self._context.expect(
            now == self.objects, "what the driver holds", str(now), str(self.objects)
        )
