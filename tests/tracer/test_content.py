# SPDX-License-Identifier: GPL-2.0-or-later
"""The sums of a stream's content: whatever calls move it, and what would not be the same stream."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtrace.content import MODULUS, SAMPLES_A_CALL, STEP_BYTES, content_sum
from mlxtrace.events import Content, Summary
from mlxtrace.flows import Flows
from mlxtrace.records import Kind, unpack
from mlxtrace.text import Text

from .raw_records import Clock, Vf, events
from .test_flows import STOPPED, VDEV, device, flow, tables

STREAM = bytes(number * number % 251 for number in range(20_000))


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_parts_add_up_to_the_whole(cuts: list[int]) -> None:
    ends = sorted({0, *cuts, len(STREAM)})
    parts = [content_sum(STREAM[a:b], a) for a, b in itertools.pairwise(ends)]
    whole = (sum(part[0] for part in parts) % MODULUS, sum(part[1] for part in parts))
    assert whole == content_sum(STREAM)
    assert whole[1] == -(-len(STREAM) // STEP_BYTES)


@pytest.mark.parametrize(
    "other",
    [
        STREAM[4096:8192] + STREAM[:4096] + STREAM[8192:],
        STREAM[:4096] + STREAM[:4096] + STREAM[8192:],
        STREAM[:5000] + STREAM[5001:] + b"\0",
        STREAM[: 7 * STEP_BYTES] + b"\xff" + STREAM[7 * STEP_BYTES + 1 :],
    ],
    ids=["swapped", "twice", "shifted", "changed"],
)
def test_another_stream_has_another_sum(other: bytes) -> None:
    assert len(other) == len(STREAM)
    assert content_sum(other) != content_sum(STREAM)


def test_a_call_of_qemu_is_looked_at_as_a_whole() -> None:
    assert SAMPLES_A_CALL * STEP_BYTES >= 1 << 20


def test_the_table_is_told_when_it_has_changed() -> None:
    content = [
        SimpleNamespace(sum=5, samples=2, missed=0),
        SimpleNamespace(sum=0, samples=0, missed=0),
    ]
    made = device(flow(), flow(), announced=1)
    made.content = content
    flows = Flows(*tables(made))
    told = [unpack(data) for data in flows.after(STOPPED)]
    assert [(raw.kind, raw.vdev, raw.value[:4]) for raw in told] == [
        (Kind.CONTENT, VDEV, (0, 5, 2, 0))
    ]
    assert list(flows.after(STOPPED)) == []
    content[0].sum = 9
    assert [unpack(data).value[1] for data in flows.rest()] == [9]


def test_each_session_has_a_sum_of_its_own() -> None:
    out: list[bytes] = []
    vf = Vf(Clock(), "0000:01:00.1", VDEV, out)
    top = (1 << 64) - 3
    vf.go("RUNNING", "PRE_COPY")
    vf.content(0, top, 40, 1)
    vf.go("PRE_COPY", "RUNNING")
    vf.go("RUNNING", "PRE_COPY")
    # The kernel's total has overflowed.
    vf.content(0, 4, 55, 1)
    vf.go("PRE_COPY", "RUNNING")
    first, second = events(vf, Content)
    assert (first.session, first.content_sum, first.samples, first.missed_samples) == (
        *(1, top % MODULUS, 39, 1),
    )
    assert (second.session, second.content_sum, second.samples, second.missed_samples) == (
        *(2, 7, 15, 0),
    )
    assert second.direction == "read"
    (summary,) = events(vf, Summary)
    assert summary.read_content_sum == (top + 7) % MODULUS
    assert (summary.read_content_samples, summary.content_missed_samples) == (54, 1)
    assert summary.written_content_sum is None
    lines = list(Text(0).lines(summary))
    assert "1 could not be read" in next(line for line in lines if "content" in line)
    assert list(Text(0).lines(first)) == []
    assert " DATA " in next(Text(0, verbose=True).lines(first))
