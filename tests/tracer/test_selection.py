# SPDX-License-Identifier: GPL-2.0-or-later
"""-p, -i, -x and min_ms choose what is shown, live and in a report, and nothing else."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from genbindings.errors import UsageError
from mlxtrace import bulk, devices, output, recording, records, report
from mlxtrace.cli import group
from mlxtrace.counters import Counters
from mlxtrace.decoder import Decoder
from mlxtrace.events import Content, Histogram
from mlxtrace.intervals import Intervals
from mlxtrace.selection import Selection

from .raw_records import INITIAL, MIDDLE, Clock, Vf, source_migrates, target_loads

if TYPE_CHECKING:
    from pathlib import Path

    from mlxtrace.events import Event

ONE, TWO = "0000:01:00.1", "0000:01:00.2"
CLOCK = {"boot_ns": 1_000_000, "monotonic_ns": 1, "realtime_ns": 2}
END_NS = 1_200_000
CLOSING = {"clock": {**CLOCK, "boot_ns": END_NS}, "counters": Counters().to_json()}


class Other(Vf):
    """A VF of another process."""

    def put(
        self, kind: records.Kind, *value: int, result: int = 0, flags: int = 0, tid: int = 8124
    ) -> int:
        at = super().put(kind, *value, result=result, flags=flags, tid=tid)
        raw = records.unpack(self.out.pop())._replace(pid=99, tid=99, comm=b"other")
        self.out.append(records.pack(raw))
        return at


@pytest.fixture
def chunks() -> list[bytes]:
    """A migration from VF 1 of process 8123 to VF 2 of process 99, with a failure on each side."""
    out: list[bytes] = []
    clock = Clock()
    one, two = Vf(clock, ONE, 0x10, out), Other(clock, TWO, 0x20, out)
    source_migrates(one)
    target_loads(two)
    two.set_state("STOP_COPY", result=-5)
    one.flowing(records.Kind.READ, 2, 77)
    one.issue(INITIAL)
    one.read(1, 5)
    one.done(0, status=9, syndrome=0x123)
    return out


def header() -> dict[str, Any]:
    return output.new_header(
        clock=CLOCK, layout="", offsets={}, names=[], vfs=[ONE, TWO], probes=[], command=[]
    )


def shown(chunks: list[bytes], selection: Selection, *, live: bool = False) -> str:
    """Return the JSON lines; ``live``: with the clock going on between records."""
    out = io.StringIO()
    printer = output.Output(out, output.meta_of(header()), as_json=True, selection=selection)
    decoder = Decoder()
    for chunk in chunks:
        printer.write(decoder.feed(chunk))
        if live:
            printer.tick(records.unpack(chunk).boot_ns - 5000)
    printer.write(decoder.finish(Counters(), END_NS))
    assert printer.complete
    return out.getvalue()


def lines(chunks: list[bytes], selection: Selection) -> list[dict[str, Any]]:
    return [json.loads(line) for line in shown(chunks, selection).splitlines()]


def test_p_shows_one_process_with_the_reads_and_saves_of_its_vf(chunks: list[bytes]) -> None:
    everything = lines(chunks, Selection())
    theirs = lines(chunks, Selection(pid=8123))
    assert {line["bdf"] for line in theirs} == {None, ONE}
    assert [line for line in theirs if line["bdf"]] == [
        line for line in everything if line["bdf"] == ONE
    ]
    assert {"read", "end", "save", "summary"} <= {line["type"] for line in theirs}
    assert theirs[-1]["type"] == "lost"
    assert [line["type"] for line in lines(chunks, Selection(pid=4))] == ["meta", "lost"]


def test_p_shows_the_reads_of_a_session_that_was_under_way() -> None:
    out: list[bytes] = []
    vf = Vf(Clock(), ONE, 0x10, out)
    vf.ioctl(1, 2)
    vf.read(1, 523)
    assert "read" in [line["type"] for line in lines(out, Selection(pid=8123))]


def test_d_shows_one_vf(chunks: list[bytes]) -> None:
    assert {line["bdf"] for line in lines(chunks, Selection(devices=[TWO]))} == {None, TWO}


def test_x_shows_failures_and_nothing_else_but_summaries(chunks: list[bytes]) -> None:
    found = lines(chunks, Selection(failures_only=True))
    rows = [line for line in found if line["type"] not in ("meta", "summary", "lost")]
    assert [(line["type"], line["errno"], line.get("status")) for line in rows] == [
        ("state", 5, None),
        ("save", 0, 9),
    ]
    assert sum(line["type"] == "summary" for line in found) == 2
    assert found[-1]["at_end"]


def test_x_shows_migrations_that_were_given_up() -> None:
    for leave in ("cancel in pre-copy", "cancel in stop-copy", "complete"):
        out: list[bytes] = []
        vf = Vf(Clock(), ONE, 0x10, out)
        vf.go("RUNNING", "PRE_COPY")
        vf.read(1, 10)
        if leave == "cancel in pre-copy":
            vf.go("PRE_COPY", "RUNNING")
        else:
            vf.go("PRE_COPY", "STOP_COPY")
            vf.read(1, 10, final=int(leave == "complete"))
            vf.go("STOP_COPY", "STOP")
        found = lines(out, Selection(failures_only=True))
        states = [line["new_state"] for line in found if line["type"] == "state"]
        assert states == {"cancel in pre-copy": ["RUNNING"], "cancel in stop-copy": ["STOP"]}.get(
            leave, []
        )


def test_min_ms_hides_what_was_quick_but_no_state_and_no_failure() -> None:
    out: list[bytes] = []
    vf = Vf(Clock(), ONE, 0x10, out)
    vf.go("RUNNING", "PRE_COPY")
    vf.issue(INITIAL)
    vf.clock.now += 30_000_000
    vf.done(8192)
    vf.save(MIDDLE, 523)
    vf.issue(MIDDLE)
    vf.done(0, status=9)
    vf.ioctl(1, 2)
    vf.read(1, 523, temporary=1)
    found = lines(out, Selection(min_ns=20_000_000))
    rows = [line for line in found if line["type"] not in ("meta", "summary", "lost")]
    assert [line["type"] for line in rows] == ["state", "save", "save"]
    assert rows[1]["fw_ns"] >= 30_000_000
    assert rows[2]["status"] == 9
    summary = next(line for line in found if line["type"] == "summary")
    assert summary["saves"] == 3, "the summary counts what was hidden"


def test_a_wait_counts_as_time() -> None:
    out: list[bytes] = []
    vf = Vf(Clock(), ONE, 0x10, out)
    vf.issue(INITIAL)
    raw = records.unpack(out.pop())
    waited = (*raw.value[:4], raw.boot_ns - 500_000, *raw.value[5:])
    out.append(records.pack(raw._replace(value=waited)))
    vf.done(1)
    kinds = [line["type"] for line in lines(out, Selection(min_ns=500_000))]
    assert "save" in kinds


@pytest.mark.parametrize(("queued_ns", "shown"), [(500_000, True), (100, False)])
def test_what_an_image_waits_for_its_reader_counts_as_time_of_its_drain(
    queued_ns: int, shown: bool
) -> None:
    """What the driver waited before the SAVE is in the SAVE's row."""
    out: list[bytes] = []
    vf = Vf(Clock(), ONE, 0x10, out)
    vf.save(INITIAL, 1000)
    save = records.unpack(out[-2])
    waited = (*save.value[:4], save.boot_ns - 500_000, *save.value[5:])
    out[-2] = records.pack(save._replace(value=waited))
    vf.drained(0, 1016)
    drain = records.unpack(out[-1])
    ready = (drain.value[0], drain.value[2] - queued_ns, *drain.value[2:])
    out[-1] = records.pack(drain._replace(value=ready))
    kinds = [line["type"] for line in lines(out, Selection(min_ns=500_000))]
    assert "save" in kinds
    assert ("drain" in kinds) is shown


def test_i_sums_up_to_what_all_rows_say(chunks: list[bytes]) -> None:
    everything = lines(chunks, Selection())
    found = lines(chunks, Selection(interval_ns=20_000))
    sums = [line for line in found if line["type"] == "interval"]
    for bdf in (ONE, TWO):
        mine = [line for line in sums if line["bdf"] == bdf]
        total = next(e for e in everything if e["type"] == "summary" and e["bdf"] == bdf)
        assert sum(line["saves"] for line in mine) == total["saves"]
        assert sum(line["read_bytes"] for line in mine) == total["read_bytes"]
        assert sum(line["written_bytes"] for line in mine) == total["written_bytes"]
        assert sum(line["loads"] for line in mine) == total["loads"]
        assert sum(line["ioctls"] for line in mine) == total["ioctls"]
        assert sum(line["failures"] for line in mine) == 1
    starts = sorted({line["start_boot_ns"] for line in sums})
    assert starts == list(range(1_000_000, END_NS, 20_000)), "also where nothing happened"
    assert [line["type"] for line in found if line["type"] in ("state", "save")] == [
        "state",
        "save",
    ], "failures have rows of their own"


def test_the_last_interval_is_as_short_as_it_is(chunks: list[bytes]) -> None:
    sums = [x for x in lines(chunks, Selection(interval_ns=70_000)) if x["type"] == "interval"]
    assert sums[-1]["start_boot_ns"] == 1_140_000
    assert sums[-1]["boot_ns"] == END_NS


@pytest.mark.parametrize(
    "fetched",
    [
        Histogram(
            bdf=ONE, boot_ns=35, session=1, direction="read", measure="size_bytes", counts=[1]
        ),
        Content(
            bdf=ONE,
            boot_ns=35,
            session=1,
            direction="read",
            content_sum=1,
            samples=1,
            missed_samples=0,
        ),
    ],
    ids=["histogram", "content"],
)
def test_what_was_fetched_late_does_not_end_an_interval(fetched: Event) -> None:
    sums = Intervals(0, 10)
    assert sums.add(fetched) == []
    assert [interval.boot_ns for interval in sums.until(20)] == [10, 20]


def test_before_any_vf_there_is_a_line_that_says_so() -> None:
    (line,) = Intervals(0, 10).until(19)
    assert line.bdf is None
    assert line.saves == 0
    assert len(Intervals(0, 1).until(1 << 62)) <= 1, "a wild clock is no endless loop"


def recorded(folder: Path, chunks: list[bytes]) -> Path:
    """A whole recording of ``chunks``."""
    path = folder / "run.mlxrec"
    writer = recording.Writer(path, header())
    for chunk in chunks:
        writer.write(chunk)
    writer.close(CLOSING)
    return path


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(pid=8123),
        Selection(failures_only=True),
        Selection(min_ns=200),
        Selection(interval_ns=20_000),
        Selection(interval_ns=20_000, pid=99),
        Selection(devices=[ONE]),
    ],
)
def test_a_report_shows_what_the_live_trace_showed(
    chunks: list[bytes], selection: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recorded(tmp_path, chunks)
    out = io.StringIO()
    report.report(path, out, as_json=True, selection=selection)
    assert out.getvalue() == shown(chunks, selection, live=True)
    small, large = io.StringIO(), io.StringIO()
    report.report(path, small, selection=selection)
    monkeypatch.setattr(report, "LARGE_BYTES", 0)
    monkeypatch.setattr(bulk, "FEW_RECORDS", 1)
    report.report(path, large, selection=selection)
    assert large.getvalue() == small.getvalue(), "rows by the block do not escape the selection"


@pytest.mark.parametrize("large", [0, 1 << 40])
def test_summaries_only_of_one_vf(
    chunks: list[bytes], large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recorded(tmp_path, chunks)
    monkeypatch.setattr(report, "LARGE_BYTES", large)
    out = io.StringIO()
    report.report(path, out, as_json=True, summary_only=True, selection=Selection(devices=(TWO,)))
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(event["type"], event["bdf"]) for event in events] == [
        ("meta", None),
        ("summary", TWO),
        ("lost", None),
    ]


def test_text_of_intervals_is_short(chunks: list[bytes]) -> None:
    out = io.StringIO()
    printer = output.Output(out, output.meta_of(header()), selection=Selection(interval_ns=20_000))
    decoder = Decoder()

    def events() -> list[Event]:
        return [event for chunk in chunks for event in decoder.feed(chunk)]

    printer.write(events())
    printer.write(decoder.finish(Counters(), END_NS))
    text = out.getvalue().splitlines()
    assert max(map(len, text)) < 100
    assert any(" SUM " in line and "SAVE" in line and "INFO" in line for line in text)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["precopy", "-x", "5"], "-x and min_ms exclude"),
        (["precopy", "-i", "1", "-x"], "-i and -x exclude"),
        (["precopy", "-i", "1", "5"], "-i and min_ms exclude"),
        (["precopy", "--ebpf", "--dry-run"], "exclude each other"),
        (["precopy", "--ebpf", "-w", "x.mlxrec"], "nothing to record"),
        (["precopy", "--dry-run", "-w", "x.mlxrec"], "nothing to record"),
        (["report", "x", "-x", "--min-ms", "5"], "-x and min_ms exclude"),
        (["report", "x", "-i", "1", "-x"], "-i and -x exclude"),
        (["report", "x", "-d", "zz"], "not a device address"),
        (["report", "x", "-s", "-p", "5"], "-s prints no rows"),
        (["report", "x", "-s", "--min-ms", "5"], "-s prints no rows"),
        (["report", "x", "y", "-v"], "with TARGET there are no rows"),
        (["report", "x", "y", "-d", ONE], "with TARGET there are no rows"),
    ],
)
def test_combinations_that_make_no_sense(arguments: list[str], match: str) -> None:
    error = CliRunner().invoke(group, arguments).exception
    assert isinstance(error, UsageError)
    assert match in str(error)
    assert error.status == 2


@pytest.mark.parametrize(
    "arguments",
    [["-p", "0"], ["-p", "qemu"], ["-i", "0"], ["-i", "-1"], ["0"], ["-5"], ["slow"], ["5", "6"]],
)
def test_values_that_make_no_sense(arguments: list[str]) -> None:
    assert CliRunner().invoke(group, ["precopy", *arguments]).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["precopy", "-i", "1e300"],
        ["precopy", "1e303"],
        ["precopy", "--duration", "1e300"],
        ["precopy", "--duration", "31622401"],
        ["report", "x", "-i", "1e300"],
        ["report", "x", "--min-ms", "1e305"],
        ["report", "x", "--min-ms", "31622400001"],
        ["validate", "x", "--check-timeout", "1e300"],
        ["migrate", "--peer-timeout", "1e300"],
        ["migrate", "--data-timeout", "1e300"],
    ],
)
def test_no_time_is_longer_than_a_year(arguments: list[str]) -> None:
    done = CliRunner().invoke(group, arguments)
    assert done.exit_code == 2
    assert f"{arguments[-1]} is more than a year." in done.output


def test_a_year_is_a_time(tmp_path: Path) -> None:
    words = ["report", str(tmp_path / "none"), "--min-ms", "31622400000"]
    assert "cannot read" in str(CliRunner().invoke(group, words).exception)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-d", "0000:01:00.7"], f"no VF 0000:01:00.7; it has {ONE}, {TWO}"),
        (["-d", "0000:01:00.7", "-d", TWO], f"no VF 0000:01:00.7; it has {ONE}, {TWO}"),
        (["-d", "0000:01:00.7", "-s"], f"no VF 0000:01:00.7; it has {ONE}, {TWO}"),
        (["-d", ONE, "-s"], ""),
        (["-d", ONE], ""),
        (["-p", "4"], "no PID 4; it has 8123, 99"),
        (["-p", "99"], ""),
    ],
)
def test_a_report_of_what_is_not_there_says_what_is(
    chunks: list[bytes], arguments: list[str], said: str, tmp_path: Path
) -> None:
    path = recorded(tmp_path, chunks)
    done = CliRunner().invoke(group, ["report", str(path), *arguments])
    assert done.exception is None
    assert done.stderr == (f"mlxtrace: warning: {path} has {said}\n" if said else "")


def test_there_may_be_nobody_at_all(tmp_path: Path) -> None:
    path = tmp_path / "run.mlxrec"
    recording.Writer(path, header()).close(CLOSING)
    done = CliRunner().invoke(group, ["report", str(path), "-d", ONE, "-p", "4"])
    assert done.stderr.count("it has none") == 2


def test_a_process_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "PROC", tmp_path)
    error = CliRunner().invoke(group, ["precopy", "-p", "8123"]).exception
    assert "there is no process 8123" in str(error)


def test_the_help_says_that_a_recording_has_all_of_it() -> None:
    text = " ".join(CliRunner().invoke(group, ["precopy", "--help"]).output.split())
    assert "choose what is shown. A recording (-w) and the closing summary have all of it" in text
