# SPDX-License-Identifier: GPL-2.0-or-later
"""The headers of a written stream, and the driver's estimates of a stop-copy."""

from __future__ import annotations

import errno

import pytest

from mlxtrace.events import Estimate, Header, Summary
from mlxtrace.records import FLAG_UNREAD, Kind
from mlxtrace.text import Text

from .raw_records import Clock, Vf, events, target_loads

BDF = "0000:01:00.2"


@pytest.fixture
def vf() -> Vf:
    return Vf(Clock(), BDF, 0x1000, [])


def test_each_record_has_a_row(vf: Vf) -> None:
    target_loads(vf, (8192, 523))
    found = events(vf, Header)
    assert {(header.bdf, header.session, header.format) for header in found} == {(BDF, 1, "tagged")}
    assert [(h.offset_bytes, h.tag, h.record_bytes, h.stopcopy_size_bytes) for h in found] == [
        (0, "STOP_COPY_SIZE", 8, 9011),
        (24, "FW_DATA", 8192, None),
        (24 + 8208, "FW_DATA", 523, None),
    ]
    assert events(vf, Summary)[0].stream_format == "tagged"
    lines = [line for header in found for line in Text(0, verbose=True).lines(header)]
    assert "HEAD  tagged STOP_COPY_SIZE at 0" in lines[0]


@pytest.mark.parametrize(
    ("size", "tag", "flags", "expected"),
    [
        (8192, 0, 0, "plain"),
        (8, 1, 1, "tagged"),
        # One that is not known yet, and may be skipped.
        (64, 77, 1, "tagged"),
        (0, 0, 0, "raw"),
        (1 << 32, 0, 0, "raw"),
        (8192, 0, 1, "raw"),
        (8192, 1, 0, "raw"),
        (8192, 0x4D414745, 0x1AB, "raw"),
    ],
)
def test_the_first_header_tells_the_format(
    vf: Vf, size: int, tag: int, flags: int, expected: str
) -> None:
    vf.header(0, size, tag, flags)
    (header,) = events(vf, Header)
    assert header.format == expected
    assert (header.record_bytes is None) == (expected == "raw")


def test_a_raw_stream_has_one_row(vf: Vf) -> None:
    vf.header(0, 0)
    vf.header(523, 100)
    assert [header.format for header in events(vf, Header)] == ["raw"]


def test_a_header_that_cannot_be_read_ends_what_is_known(vf: Vf) -> None:
    vf.header(0, 8, tag=1, flags=1)
    vf.put(Kind.HEADER, 24, flags=FLAG_UNREAD)
    first, second = events(vf, Header)
    assert (second.format, second.tag, second.record_bytes) == ("unread", "", None)
    assert first.format == "tagged"


def test_a_stream_whose_begin_was_not_seen(vf: Vf) -> None:
    vf.header(100, 523)
    (header,) = events(vf, Header)
    assert (header.format, header.tag, header.record_bytes) == ("unknown", "FW_DATA", 523)


def test_estimates(vf: Vf) -> None:
    vf.estimate(9011)
    vf.estimate(0, result=-errno.ENODEV)
    good, bad = events(vf, Estimate)
    assert (good.stopcopy_size_bytes, good.error) == (9011, "")
    assert (bad.stopcopy_size_bytes, bad.error) == (None, "ENODEV")
    assert good.latency_ns == 1000
    (summary,) = events(vf, Summary)
    assert (summary.estimates, summary.failed_estimates) == (2, 1)
    assert list(Text(0).lines(good)) == []
    assert "stopcopy_size=8.8K" in "".join(Text(0, verbose=True).lines(good))
    assert "".join(Text(0).lines(bad)).endswith("ENODEV")
