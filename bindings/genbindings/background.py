# SPDX-License-Identifier: GPL-2.0-or-later
"""Work beside the main thread: the compiler runs while Python does something else."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")


class Background(Generic[_Result]):
    """A call in a thread of its own; :meth:`result` waits for it."""

    def __init__(self, call: Callable[[], _Result]) -> None:
        """Start ``call``."""
        self._call = call
        self._result: _Result | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001  # whoever waits gets it
            self._error = error

    def result(self) -> _Result:
        """Return what the call returned, or raise what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return cast("_Result", self._result)
