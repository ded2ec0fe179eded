# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose stream a device may be given: that of the same driver and the same kind of device.

The uAPI leaves what is in a stream to the driver, and asks nothing of one that gets another's: it
may refuse it, or load whatever it makes of it. Kernels, revisions and subsystems may differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from genbindings.errors import Error
from mlxtrace.units import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping


class Identified(Protocol):
    """A device of which it is known what it is; it may be closed."""

    @property
    def name(self) -> str: ...
    @property
    def driver(self) -> str | None: ...
    @property
    def ids(self) -> dict[str, str]: ...


def kind_of(device: Identified) -> dict[str, Any]:
    """Return what a stream file says of the device that it was saved from."""
    return {"driver": device.driver or "", "ids": device.ids}


def require_kin(origin: str, saved_from: Mapping[str, Any], target: Identified) -> None:
    """Check that ``target`` is what a stream was saved from, as far as both are known.

    A mediated device has no vendor and device id: its driver tells.

    Args:
        origin: where the stream comes from, for people.
        saved_from: ``driver`` and ``ids``, as :func:`kind_of` returns them; of another host or a
            file, so that it may be anything.

    Raises:
        Error: the driver is another one, or the vendor and device ids.
    """
    theirs, ours = _kind(saved_from), _kind(kind_of(target))
    if all(not their or not our or their == our for their, our in zip(theirs, ours, strict=True)):
        return
    raise Error(
        f"{origin} is the stream of {_words(theirs)}, and {target.name} is {_words(ours)}",
        "load it into a device of that kind with that driver; --force on the target's side loads "
        "it all the same",
    )


def _kind(description: Mapping[str, Any]) -> tuple[str, str]:
    """Return the driver and ``15b3:101e``; each is empty where it is not known."""
    driver, ids = description.get("driver"), description.get("ids")
    known = ids if isinstance(ids, dict) else {}
    numbers = [str(known.get(key, "")).removeprefix("0x") for key in ("vendor", "device")]
    return driver if isinstance(driver, str) else "", ":".join(numbers) if all(numbers) else ""


def _words(kind: tuple[str, str]) -> str:
    driver, numbers = map(one_line, kind)
    device = f"a device {numbers}" if numbers else "a device"
    return f"{device} with the driver {driver}" if driver else device
