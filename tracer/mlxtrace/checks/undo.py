# SPDX-License-Identifier: GPL-2.0-or-later
"""Putting back what a check has taken away: a driver, or VFs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxtrace import binding, devices
from mlxtrace.checks.core import DeviationError, NoAnswerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def undone(undo: Callable[[], None]) -> Iterator[None]:
    """Have ``undo`` called when it is left, but where the kernel hangs: it would hang as well.

    Raises:
        DeviationError: it failed. The rules want a device that works again.
    """
    try:
        yield
    except NoAnswerError:
        raise
    except BaseException:
        # What came first counts; the devices' owner is told of the rest when they are given back.
        with contextlib.suppress(DeviationError):
            _call(undo)
        raise
    _call(undo)


def bound_again(name: str, driver: str) -> contextlib.AbstractContextManager[None]:
    """Have the device ``name`` be ``driver``'s again when it is left; see :func:`undone`."""

    def bind() -> None:
        if devices.lookup(name).driver != driver:
            binding.bind(name, driver)

    return undone(bind)


def unbind(name: str) -> None:
    """Take the device ``name`` from its driver.

    Raises:
        DeviationError: the kernel refuses it.
    """
    _call(lambda: binding.unbind(name))


def _call(function: Callable[[], None]) -> None:
    try:
        function()
    except Error as error:
        raise DeviationError(f"{error}; the rule wants a device that works again") from None
