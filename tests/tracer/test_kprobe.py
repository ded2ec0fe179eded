# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel says that it skipped is counted once."""

from __future__ import annotations

import pytest

from mlxtrace import kprobe
from mlxtrace.kprobe import Attacher, Attachment

PROGRAM_MISSES, LINK_MISSES = 100, 200


@pytest.fixture
def attacher(monkeypatch: pytest.MonkeyPatch) -> Attacher:
    """On a kernel that counts the misses of programs 1 to 9, and of links from 10 on."""
    made = Attacher.__new__(Attacher)
    made._lib = None  # type: ignore[assignment]
    made._program_misses, made._link_misses = PROGRAM_MISSES, LINK_MISSES

    def count(_: object, descriptor: int, offset: int) -> int | None:
        assert offset == (PROGRAM_MISSES if descriptor < 10 else LINK_MISSES)
        return None if descriptor == 99 else 1000 * (descriptor < 10) + descriptor

    monkeypatch.setattr(kprobe, "info_count", count)
    return made


def test_a_program_on_several_drivers_counts_once_and_each_link_for_itself(
    attacher: Attacher,
) -> None:
    enter, leave = 1, 2
    places = [
        Attachment(enter, 50, 10),
        Attachment(leave, 51, 11),
        Attachment(enter, 52, 12),
        Attachment(leave, 53, 13),
    ]
    assert attacher.skipped(places[:2]) == 1001 + 1002 + 10 + 11
    assert attacher.skipped(places) == 1001 + 1002 + 10 + 11 + 12 + 13


def test_fentry_has_no_link_that_counts(attacher: Attacher) -> None:
    assert attacher.skipped([Attachment(1, -1, 10), Attachment(2, -1, 11)]) == 1001 + 1002


def test_what_the_kernel_does_not_count_is_unknown(attacher: Attacher) -> None:
    assert attacher.skipped([]) is None
    # Attached by an ioctl, for want of links; a link that does not tell.
    for unknown in (Attachment(1, 50, -1), Attachment(1, 50, 99)):
        assert attacher.skipped([unknown]) is None
        assert attacher.skipped([unknown, Attachment(1, 51, 10)]) == 1001 + 10
    attacher._program_misses = None
    assert attacher.skipped([Attachment(1, 50, 10)]) is None
