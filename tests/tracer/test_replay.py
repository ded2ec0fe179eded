# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever a live run printed, its recording prints again, byte for byte; the short way as well."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxtrace import bulk, host, layout, precopy, recording, records, report
from mlxtrace.bulk import SummaryDecoder
from mlxtrace.bulk_text import TextDecoder
from mlxtrace.catalogue import PROBES
from mlxtrace.counters import Counters, ProbeCounts
from mlxtrace.decoder import Decoder
from mlxtrace.events import Event, Lost, Summary
from mlxtrace.layout import Layouts
from mlxtrace.probetable import ATTACHED, ProbeState
from mlxtrace.records import Kind
from mlxtrace.text import Rows, Text, header

from .random_records import raws, streams
from .raw_records import MIDDLE, Clock, Vf
from .test_recording import COUNTERS, END, stream
from .test_recording import header as header_of_a_recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

FIXTURES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
counts = st.builds(
    Counters,
    lost_records=st.integers(0, 2),
    untracked=st.integers(0, 2),
    unowned=st.none() | st.dictionaries(st.integers(1, 3), st.integers(0, 5)),
    probes=st.dictionaries(
        st.sampled_from([probe.name for probe in PROBES]),
        st.builds(
            ProbeCounts,
            entries=st.integers(0, 5),
            returns=st.integers(0, 5),
            open=st.integers(0, 2),
            skipped=st.none() | st.integers(0, 2),
        ),
    ),
)


@pytest.fixture(scope="module", autouse=True)
def short_parts() -> Iterator[None]:
    """Let the few records of a test go by the block too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "FEW_RECORDS", 1)
        yield


class FakeCapture:
    """Gives chunks that were made before, the last one when it is stopped."""

    chunks: list[bytes]
    counters: Counters

    def __init__(self, *_: object, content: bool) -> None:
        assert not content
        self.left = list(self.chunks)

    def start(self) -> list[ProbeState]:
        return [ProbeState(p, ATTACHED, symbol=p.symbols[0], how="kprobe") for p in PROBES]

    def poll(self, _timeout_ms: int) -> bytes:
        return self.left.pop(0) if len(self.left) > 1 else b""

    def stop(self) -> tuple[bytes, Counters]:
        return b"".join(self.left), self.counters


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a live run take its records from :class:`FakeCapture`."""
    for check in ("require_privileges", "require_module"):
        monkeypatch.setattr(host, check, lambda *_: None)
    monkeypatch.setattr(precopy, "load_bcc", lambda: None)
    monkeypatch.setattr(layout, "of_running_module", lambda: Layouts("a test", {}))
    monkeypatch.setattr(precopy, "Capture", FakeCapture)
    monkeypatch.setattr(report, "LARGE_BYTES", 0)


@pytest.mark.usefixtures("no_kernel")
@FIXTURES
@given(
    chunks=streams(),
    counters=counts,
    as_json=st.booleans(),
    verbose=st.booleans(),
    strict=st.booleans(),
)
def test_a_recording_prints_what_the_live_run_printed(
    tmp_path: Path,
    chunks: list[bytes],
    counters: Counters,
    as_json: bool,
    verbose: bool,
    strict: bool,
) -> None:
    FakeCapture.chunks, FakeCapture.counters = chunks, counters
    live, replayed = io.StringIO(), io.StringIO()
    path = tmp_path / "run.mlxrec"
    options = precopy.Options(
        as_json=as_json,
        verbose=verbose,
        strict=strict,
        recording=path,
        # The command is over when everything was polled for: a poll takes no time here.
        duration_s=0.002,
    )
    status = precopy.run(options, live)
    warnings: list[str] = []
    complete = report.report(path, replayed, as_json=as_json, verbose=verbose, warn=warnings.append)
    assert replayed.getvalue() == live.getvalue(), "by the block where numpy is there"
    assert not warnings
    assert status == (3 if strict and not complete else 0)


def closing(decoder: Decoder, chunks: Iterable[bytes], counters: Counters | None) -> list[Event]:
    """What ``report --summary-only`` prints of ``chunks``."""
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    events += decoder.finish(counters)
    return [event for event in events if isinstance(event, Lost | Summary)]


def printed(decoder: Decoder, text: Text, chunks: Iterable[bytes]) -> list[str]:
    """The rows of ``chunks``, before anything that is only known at the end."""
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    rows = [event.lines if isinstance(event, Rows) else text.lines(event) for event in events]
    return "\n".join(line for lines in rows for line in lines).splitlines()


def test_rows_of_reads_are_in_the_columns_of_all_rows() -> None:
    text = Text(0)
    flow = (1_234_567_000, 7, 8 << 20, 1_500_000)
    (row,) = text.flow_rows("0000:01:00.1", "read", [flow])
    assert row == (
        " 1.234567 0000:01:00.1 READ  7 calls                        8.0M             1.500 ok"
    )
    names = header()
    assert row.index("READ") == names.index("EVENT")
    assert row.index("7 calls") == names.index("WHAT")
    assert row.index("ok") == names.index("RESULT")
    (nameless,) = text.flow_rows(None, "write", [(0, 1, 1, 1)])
    assert nameless.index("WRITE") == names.index("EVENT")


@pytest.mark.parametrize("odd", [False, True])
@settings(deadline=None)
@given(data=st.data(), verbose=st.booleans(), start_ns=st.sampled_from([0, 1_000_000]))
def test_rows_by_the_block_are_those_by_the_record(
    odd: bool, data: st.DataObject, verbose: bool, start_ns: int
) -> None:
    chunks = data.draw(streams(odd=odd))
    text = Text(start_ns, verbose=verbose)
    plain = Decoder()
    rows, end = printed(plain, text, chunks), list(plain.finish(None))
    for pieces in (chunks, [b"".join(chunks)]):
        quick = TextDecoder(text)
        assert printed(quick, text, pieces) == rows
        assert list(quick.finish(None)) == end


@pytest.mark.parametrize("odd", [False, True])
@settings(deadline=None)
@given(data=st.data(), counters=st.none() | counts)
def test_summaries_by_the_block_are_those_by_the_record(
    odd: bool, data: st.DataObject, counters: Counters | None
) -> None:
    chunks = data.draw(streams(odd=odd))
    assert closing(SummaryDecoder(), chunks, counters) == closing(Decoder(), chunks, counters)
    whole = [b"".join(chunks)]
    assert closing(SummaryDecoder(), whole, counters) == closing(Decoder(), chunks, counters)


_flows = st.lists(
    st.tuples(
        st.sampled_from([Kind.READ, Kind.WRITE]),
        st.integers(0, 2),
        st.integers(0, 99),
        st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("temporary", "final", "again", "errors"), st.just(1))
        ),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(
    runs=st.lists(_flows, min_size=6, max_size=6), started=st.booleans(), skips=st.integers(0, 5)
)
def test_summaries_of_long_runs(
    runs: list[list[tuple[Kind, int, int, dict[str, int]]]], started: bool, skips: int
) -> None:
    out: list[bytes] = []
    vf = Vf(Clock(), "0000:01:00.1", 1, out)
    between: list[Callable[[], object]] = [
        lambda: vf.go("RUNNING", "PRE_COPY") if started else None,
        lambda: vf.ioctl(5, 7),
        lambda: vf.issue(MIDDLE),
        lambda: vf.done(4096),
        lambda: vf.ioctl(5, 7),
        lambda: vf.go("PRE_COPY", "STOP_COPY"),
    ]
    for act, run in zip(between, runs, strict=True):
        act()
        for kind, calls, size, ends in run:
            vf.flow(kind, calls, size, **ends)
            # Data went by unseen.
            vf.positions[kind] += skips
    chunk = b"".join(out)
    assert closing(SummaryDecoder(), [chunk], None) == closing(Decoder(), [chunk], None)


@settings(deadline=None)
@given(rows=st.lists(raws, max_size=40), kinds=st.sets(st.integers(2, 10), min_size=1, max_size=2))
def test_summaries_of_damaged_flows(rows: list[records.Raw], kinds: set[int]) -> None:
    some = sorted(kinds)
    named = [
        records.Raw(0, vdev, 1, 1, Kind.DEVICE, 0, 0, b"", records.name_values(f"{vdev}"))
        for vdev in range(4)
    ]
    made_up = [raw._replace(kind=some[raw.kind % len(some)]) for raw in rows]
    chunk = b"".join(map(records.pack, [*named, *made_up]))
    assert closing(SummaryDecoder(), [chunk], None) == closing(Decoder(), [chunk], None)


@pytest.mark.parametrize(
    "totals",
    [
        [(3, 30), (5, 50), (4, 40), (9, 90)],
        [(0, 7), (0, 7), (2, 20)],
        [(1, 10), (1, 15), (2, 20)],
        [(2**64 - 1, 2**64 - 1), (0, 0), (2**64 - 1, 2**64 - 1)],
    ],
    ids=["shrank", "bytes first", "bytes without a call", "more than 64 bits"],
)
def test_totals_that_no_program_makes(totals: list[tuple[int, int]]) -> None:
    name = records.name_values("0000:01:00.1")
    rows = [records.Raw(0, 1, 1, 1, Kind.DEVICE, 0, 0, b"", name)]
    rows += [records.Raw(n, 1, 1, 1, Kind.READ, 0, 0, b"", t) for n, t in enumerate(totals)]
    chunk = b"".join(map(records.pack, rows))
    assert closing(SummaryDecoder(), [chunk], None) == closing(Decoder(), [chunk], None)


def test_more_devices_than_any_host_has() -> None:
    chunk = b"".join(
        records.pack(records.Raw(n, n // 2, 1, 1, Kind.READ, 0, 0, b"", (n, n, n)))
        for n in range(1000)
    )
    whole = chunk + records.pack(records.Raw(1001, 0, 1, 1, Kind.SAVE_ISSUE, 0, 0, b"", (1,)))
    found = closing(SummaryDecoder(), [whole], Counters())
    assert found == closing(Decoder(), [whole], Counters())
    assert isinstance(found[0], Summary)
    assert found[0].read_calls


@pytest.mark.parametrize("large", [0, 1 << 40])
def test_small_and_large_recordings_are_told_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    writer = recording.Writer(tmp_path / "run.mlxrec", header_of_a_recording())
    for chunk in stream():
        writer.write(chunk)
    writer.close({"clock": END, "counters": COUNTERS.to_json()})
    monkeypatch.setattr(report, "LARGE_BYTES", large)
    loaded: list[bool] = []
    monkeypatch.setattr(bulk, "numpy", lambda: loaded.append(True))
    for summary_only in (False, True):
        out = io.StringIO()
        assert report.report(tmp_path / "run.mlxrec", out, summary_only=summary_only)
        assert out.getvalue().splitlines()[-1].startswith("lost 0 (ring)")
    assert bool(loaded) is (large == 0)


def test_without_numpy_the_summaries_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with_numpy = closing(SummaryDecoder(), stream(), Counters())
    monkeypatch.setattr(bulk, "numpy", lambda: None)
    assert closing(SummaryDecoder(), stream(), Counters()) == with_numpy
    assert with_numpy == closing(Decoder(), stream(), Counters())
