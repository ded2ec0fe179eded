# SPDX-License-Identifier: GPL-2.0-or-later
"""What has begun and is not over: told with its age, and never taken for something that is done."""

from __future__ import annotations

import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from mlxtrace import live, output, records
from mlxtrace.calls import Calls
from mlxtrace.catalogue import NUMBERS
from mlxtrace.counters import Counters, ProbeCounts
from mlxtrace.decoder import Decoder
from mlxtrace.events import Event, Lost, Open, Save, State, Summary
from mlxtrace.flows import Flows
from mlxtrace.intervals import Intervals
from mlxtrace.live_output import LiveOutput
from mlxtrace.mailbox import STATES, Opcode
from mlxtrace.opencalls import Call, open_calls
from mlxtrace.records import Kind
from mlxtrace.selection import EVERYTHING
from mlxtrace.text import Text

from .raw_records import CLEANUP, FINAL, INITIAL, MIDDLE, Clock, SomeEvent, Vf
from .test_fentry import Table
from .test_flows import VDEV, device, flow
from .test_flows import tables as flow_tables
from .test_live import header

if TYPE_CHECKING:
    from collections.abc import Callable

BDF = "0000:01:00.1"
HUNG_NS = 20_000_000_000


class Trace:
    """The records of one VF, and what is told of them when the trace ends ``HUNG_NS`` later."""

    def __init__(self, make: Callable[[Vf], None]) -> None:
        self.out: list[bytes] = []
        self.clock = Clock()
        make(Vf(self.clock, BDF, 0x10, self.out))
        self.end_ns = self.clock.now + HUNG_NS

    def events(self, counters: Counters | None = None) -> list[Event]:
        decoder = Decoder()
        found = list(decoder.feed(b"".join(self.out)))
        return found + list(decoder.finish(counters or Counters(), self.end_ns))

    def of(self, kind: type[SomeEvent]) -> list[SomeEvent]:
        return [event for event in self.events() if isinstance(event, kind)]

    def lines(self) -> list[str]:
        text = Text(0)
        return [line for event in self.events() for line in text.lines(event)]

    def summary(self) -> Summary:
        (found,) = self.of(Summary)
        return found

    def picture(self, width: int = 80) -> str:
        """What the dashboard shows at the trace's end."""
        decoder, model = Decoder(), live.Model(0)
        model.take(decoder.feed(b"".join(self.out)))
        pending = list(decoder.pending(self.end_ns))
        out = io.StringIO()
        console = Console(file=out, width=width, color_system=None)
        console.print(live.render(model, self.end_ns, width, (), pending))
        return out.getvalue()


def hangs(vf: Vf) -> None:
    vf.go("RUNNING", "PRE_COPY")
    vf.save(INITIAL, 8192)
    vf.read(1, 8208)
    vf.issue(MIDDLE, state="PRE_COPY")
    vf.read(temporary=1)


def test_a_save_that_hangs_is_in_flight_and_no_image() -> None:
    trace = Trace(hangs)
    *_, save = trace.of(Save)
    assert (save.in_flight, save.callback_seen, save.fw_ns, save.fw_max_ns) == (
        True,
        False,
        None,
        None,
    )
    assert HUNG_NS <= (save.fw_min_ns or 0) < HUNG_NS + 10_000
    found = trace.summary()
    assert (found.saves, found.in_flight_saves, found.failed_saves) == (2, 1, 0)
    assert (found.images, found.middle_images, found.rounds) == (1, 0, 1)
    assert found.image_bytes == [8192]
    assert found.incomplete_saves == 0
    assert found.dirty_bytes_per_s is None
    (lost,) = trace.of(Lost)
    assert output.is_complete(lost), "the trace has all that there was to see"


def test_its_row_has_a_lower_bound() -> None:
    lines = Trace(hangs).lines()
    (row,) = (line for line in lines if " SAVE  2 middle" in line)
    assert row.endswith("0.001 >20000.001 in flight")
    assert "saved 1 image (1 initial, 0 middle, 0 final) by 2 SAVEs, 0 failed, 1 in flight" in (
        "\n".join(lines)
    )
    assert not any("fentry" in line for line in lines)


def test_the_dashboard_shows_its_age() -> None:
    assert "in flight SAVE 2 middle for 20.0 s" in Trace(hangs).picture()
    trace = Trace(hangs)
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None)
    printer = LiveOutput(out, output.meta_of(header()), EVERYTHING, console)
    decoder = Decoder()
    printer.write(decoder.feed(b"".join(trace.out)))
    printer.tick(trace.end_ns, decoder.pending(trace.end_ns))
    printer.close()
    assert "in flight SAVE 2 middle for 20.0 s" in out.getvalue()


def test_a_save_in_flight_is_in_no_interval() -> None:
    trace = Trace(hangs)
    intervals = Intervals(0, HUNG_NS * 2)
    for event in trace.events():
        if not isinstance(event, Summary | Lost):
            intervals.add(event)
    (sums,) = intervals.finish(trace.end_ns)
    assert (sums.saves, sums.save_bytes) == (1, 8192)


def test_what_the_reader_saw_of_it_bounds_its_time() -> None:
    def seen(vf: Vf) -> None:
        vf.go("RUNNING", "PRE_COPY")
        issued = vf.issue(INITIAL)
        vf.put(Kind.SAVE_UNSEEN, vf.work, issued, 0, 539, 16, 523, 1)

    trace = Trace(seen)
    (save,) = trace.of(Save)
    assert (save.in_flight, save.image_bytes, save.fw_max_ns) == (False, 523, 1000)
    assert (trace.summary().images, trace.summary().incomplete_saves) == (1, 1)


def test_no_save_outlives_its_session() -> None:
    """The driver waits for its SAVEs before it takes the session's file away."""

    def cancelled(vf: Vf) -> None:
        vf.go("RUNNING", "PRE_COPY")
        vf.save(INITIAL, 8192)
        vf.arc("PRE_COPY", "RUNNING")
        vf.issue(CLEANUP, state="PRE_COPY")
        vf.set_state("RUNNING")

    def stopped(vf: Vf) -> None:
        vf.go("STOP", "STOP_COPY")
        vf.issue(FINAL, state="STOP")
        vf.go("STOP_COPY", "STOP")

    for make in (cancelled, stopped):
        trace = Trace(make)
        *_, save = trace.of(Save)
        assert not save.in_flight
        assert (save.fw_max_ns or HUNG_NS) < 10_000, "not until the trace's end"
        assert trace.summary().incomplete_saves == 1


def test_an_arc_that_failed_ends_no_session() -> None:
    def fails(vf: Vf) -> None:
        vf.go("STOP", "STOP_COPY")
        vf.issue(FINAL, state="STOP")
        vf.arc("STOP_COPY", "STOP")
        vf.set_state("STOP", result=-5)

    assert Trace(fails).summary().in_flight_saves == 1


def stop_hangs(vf: Vf) -> None:
    vf.go("RUNNING", "PRE_COPY")
    vf.save(INITIAL, 8192)
    vf.arc("PRE_COPY", "STOP_COPY")


def test_an_arc_that_hangs_has_a_row() -> None:
    trace = Trace(stop_hangs)
    (open_,) = trace.of(Open)
    assert (open_.call, open_.what) == ("state", "PRE_COPY -> STOP_COPY")
    assert (open_.open_ns, open_.boot_ns) == (HUNG_NS, trace.end_ns)
    assert (open_.pid, open_.tid, open_.session) == (8123, 8124, 1)
    (row,) = (line for line in trace.lines() if "PRE_COPY -> STOP_COPY" in line)
    assert row.endswith(" STATE PRE_COPY -> STOP_COPY       qemu-kvm/8123    >20000.000 in flight")
    found = trace.summary()
    assert (found.open_calls, found.unseen_arcs, found.failed_arcs) == (1, 0, 0)
    assert "  in flight 1 call had not returned at the end" in trace.lines()


def test_the_dashboard_shows_where_it_goes() -> None:
    text = Trace(stop_hangs).picture()
    assert "in flight PRE_COPY -> STOP_COPY for 20.0 s, by qemu-kvm/8123" in text


def test_a_task_with_brackets_in_its_name_does_no_harm() -> None:
    trace = Trace(stop_hangs)
    trace.out[-1] = trace.out[-1].replace(b"qemu-kvm", b"[/b]mine")
    assert "for 20.0 s, by [/b]mine/8123" in trace.picture()


def test_a_vf_of_which_nothing_else_is_known_has_a_panel() -> None:
    assert f"{BDF}  state unknown" in Trace(lambda vf: vf.arc("RUNNING", "PRE_COPY")).picture()


@pytest.mark.parametrize(("still_open", "kind"), [(1, Open), (0, State)])
def test_the_table_of_calls_tells_whether_a_set_state_had_returned(
    still_open: int, kind: type[Event]
) -> None:
    counters = Counters(probes={"set-state": ProbeCounts(2, 1, still_open)})
    trace = Trace(stop_hangs)
    *_, last = (e for e in trace.events(counters) if isinstance(e, State | Open))
    assert isinstance(last, kind)
    if isinstance(last, State):
        assert (last.errno, last.duration_ns, last.duration_max_ns) == (None, None, HUNG_NS)


def open_record(vf: Vf, call: Call, word: int = 0, tid: int = 99) -> None:
    """A call hangs, which began 5 s ago."""
    began_ns = vf.clock.now
    vf.clock.now += 5_000_000_000
    vf.put(Kind.OPEN_CALL, call, began_ns, word, tid=tid)


COMMANDS = (
    (Opcode.SUSPEND_VHCA, 1, "command", "SUSPEND RESPONDER", " CMD  "),
    (Opcode.LOAD_VHCA_STATE, 0, "load", "LOAD", " LOAD "),
)


@pytest.mark.parametrize(("opcode", "op_mod", "call", "what", "row"), COMMANDS)
def test_a_command_that_hangs(opcode: int, op_mod: int, call: str, what: str, row: str) -> None:
    trace = Trace(lambda vf: open_record(vf, Call.COMMAND, opcode << 16 | op_mod))
    (open_,) = trace.of(Open)
    assert (open_.call, open_.what, open_.tid) == (call, what, 99)
    assert open_.open_ns == 5_000_001_000
    (line,) = (line for line in trace.lines() if row in line)
    assert line.endswith(">5000.001 in flight")
    assert trace.summary().open_calls == 1


@pytest.mark.parametrize(
    ("call", "word", "what"),
    [
        (Call.IOCTL, 0, "GET_PRECOPY_INFO"),
        (Call.ESTIMATE, 0, "MIG_DATA_SIZE"),
        (Call.STATE, STATES.index("STOP_COPY"), "SET_STATE STOP_COPY"),
    ],
)
def test_an_ioctl_that_hangs(call: Call, word: int, what: str) -> None:
    (open_,) = Trace(lambda vf: open_record(vf, call, word)).of(Open)
    assert open_.what == what


def test_a_set_state_that_hangs_in_an_arc_is_told_once() -> None:
    def both(vf: Vf) -> None:
        stop_hangs(vf)
        open_record(vf, Call.STATE, STATES.index("STOP_COPY"), tid=8124)
        # This one waits for it.
        open_record(vf, Call.STATE, STATES.index("STOP"), tid=99)

    assert [e.what for e in Trace(both).of(Open)] == ["SET_STATE STOP", "PRE_COPY -> STOP_COPY"]


def table_entry(number: int, *value: int) -> tuple[int, SimpleNamespace]:
    values = (*value, *(0,) * (5 - len(value)))
    entry = SimpleNamespace(key=0, start_ns=7, vdev=VDEV, value=values)
    return os.getpid() << 8 | number, entry


def test_the_reader_of_the_ring_tells_of_open_calls() -> None:
    entries = dict(
        (
            table_entry(NUMBERS["set-state"], 3),
            table_entry(NUMBERS["precopy-ioctl"], 0x3B79),
            table_entry(NUMBERS["data-size"]),
            table_entry(NUMBERS["cmd-exec"], Opcode.LOAD_VHCA_STATE << 16),
            table_entry(NUMBERS["device-ioctl"], 2, 0, 4),
            table_entry(NUMBERS["mkey"]),
        )
    )
    tables = {"calls": Table(entries), "stream_calls": Table({}), "crowded_calls": Table({})}
    flows = Flows(*flow_tables(device(flow(), flow())))
    made = [records.unpack(each) for each in open_calls(Calls(tables), flows, 5)]
    assert [raw.kind for raw in made] == [Kind.DEVICE, *[Kind.OPEN_CALL] * 5], "named once"
    assert [raw.value[:3] for raw in made[1:]] == [
        (Call.STATE, 7, 3),
        (Call.IOCTL, 7, 0x3B79),
        (Call.ESTIMATE, 7, 0),
        (Call.COMMAND, 7, Opcode.LOAD_VHCA_STATE << 16),
        (Call.STATE, 7, 4),
    ]
    assert {(raw.pid, raw.tid) for raw in made[1:]} == {(os.getpid(), os.getpid())}
    comm = Path("/proc/self/comm").read_text().strip()
    assert {raw.command_name for raw in made[1:]} == {comm}
    assert list(open_calls(Calls(tables), flows, 8)) == [], "they began before the trace"
