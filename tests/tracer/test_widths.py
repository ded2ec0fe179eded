# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines for people have less than 100 columns, whatever they have to tell."""

from __future__ import annotations

import dataclasses
import re
import typing
from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace import events, join_report
from mlxtrace.events import Command, Event, Lost, Save, Summary
from mlxtrace.intervals import Interval
from mlxtrace.join import Downtime
from mlxtrace.mailbox import Opcode, op_mod_name, opcode_name
from mlxtrace.text import Text, short_name
from mlxtrace.units import COLUMNS, fold

from .raw_records import MIDDLE, Clock, Vf, source_migrates
from .raw_records import events as events_of

if TYPE_CHECKING:
    from collections.abc import Iterator

BDF = "0000:01:00.1"
LONG_DOMAIN = "10000001:01:00.1"
UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
DAYS_NS = 12 * 86_400_000_000_000
WORST: dict[str, Any] = {
    "boot_ns": DAYS_NS,
    "old_state": "PRE_COPY_P2P",
    "new_state": "RUNNING_P2P",
    "asked_state": "RUNNING_P2P",
    "state": "PRE_COPY_P2P",
    "what": "PRE_COPY_P2P -> RUNNING_P2P",
    "call": "state",
    "kind": "cleanup",
    "name": "SUSPEND",
    "op_mod": "RESPONDER",
    "error": "ENOTRECOVERABLE",
    "errno": 131,
    "status": 9,
    "status_name": "BAD_RES_STATE",
    "syndrome": 0xFFFFFFFF,
    "comm": "c" * 15,
    "pid": 4_194_304,
    "cause": "vf-disabled",
    "direction": "write",
    "reason": "save-in-flight",
    "stack": ["f" * 79],
    "counts": [10**10] * 32,
    "format": "unknown",
    "tag": "STOP_COPY_SIZE",
    "action": "alloc",
    "measure": "latency_ns",
    "image": 123_456,
    "at_end": True,
    "converging": False,
    "content_sum": 2**52 - 1,
    "start_boot_ns": 1,
}
SHOWN = [
    cls
    for cls in (*vars(events).values(), Interval)
    if isinstance(cls, type) and issubclass(cls, Event) and cls not in (Event, events.Meta)
]


def worst(cls: type[Event], **changes: Any) -> Event:
    """An event that says as much as it can."""
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        kind = str(hints[field.name])
        if field.name in WORST:
            values[field.name] = WORST[field.name]
        elif "dict" in kind:
            values[field.name] = {4_194_304 - number: 12_345_678 for number in range(9)}
        elif "list" in kind:
            values[field.name] = [1] * 12_345
        elif field.name.endswith("_ns"):
            values[field.name] = 1_234_567_890_123
        elif "int" in kind:
            values[field.name] = 12_345_678 if "bytes" not in field.name else 1 << 50
        else:
            values[field.name] = None if "None" in kind else "" if "str" in kind else True
    return cls(**{**values, "bdf": BDF, **changes})


def variants(cls: type[Event]) -> Iterator[dict[str, Any]]:
    yield {}
    if any(field.name == "errno" for field in dataclasses.fields(cls)):
        yield {"errno": 0, "error": ""}
    if any(field.name == "status" for field in dataclasses.fields(cls)):
        yield {"status": 0, "status_name": "OK", "syndrome": 0}
    if cls is Save:
        yield {"callback_seen": False, "syndrome": None, "status": None}
        yield {"callback_seen": False, "syndrome": None, "status": None, "fw_min_ns": None}
    if cls is events.State:
        yield {"duration_ns": None, "errno": None, "error": ""}
    if cls is events.End:
        for kind in ("temporary", "final", "again", "error"):
            yield {"kind": kind}


@pytest.mark.parametrize("bdf", [BDF, LONG_DOMAIN, UUID])
@pytest.mark.parametrize("cls", SHOWN, ids=lambda cls: str(cls.type))
def test_no_row_is_wide(cls: type[Event], bdf: str) -> None:
    for changes in variants(cls):
        for line in Text(0, verbose=True).lines(worst(cls, **{**changes, "bdf": bdf})):
            assert len(line) < 100, line


def test_reads_by_the_block_are_no_wider() -> None:
    (row,) = Text(0).flow_rows(LONG_DOMAIN, "write", [(DAYS_NS, 10**9, 1 << 50, 1_234_567_890_123)])
    assert len(row) < 100
    (row,) = Text(0).flow_rows(UUID, "write", [(0, 1, 1, 1)])
    assert row.split()[1] == "83b8f4f2~001"


@pytest.mark.parametrize("opcode", list(Opcode))
def test_a_command_that_failed_stays_in_its_columns(opcode: int) -> None:
    names = {"name": opcode_name(opcode), "op_mod": op_mod_name(opcode, 1)}
    event = worst(Command, **names, boot_ns=1_000_000_000, fw_ns=1_234_567)
    (row,) = Text(0).lines(event)
    assert row.endswith("   1.235 BAD_RES_STATE")
    assert "syndrome 0xffffffff " in row
    (plain,) = Text(0, verbose=True).lines(
        dataclasses.replace(event, syndrome=0, status=0)  # type: ignore[call-arg]
    )
    assert row.index("1.235") == plain.index("1.235")


def test_the_full_name_of_a_mediated_device_is_in_its_summary() -> None:
    assert [short_name(name) for name in (None, BDF, LONG_DOMAIN)] == ["-", BDF, LONG_DOMAIN]
    out: list[bytes] = []
    vf = Vf(Clock(), UUID, 0x10, out)
    source_migrates(vf)
    (summary,) = events_of(vf, Summary)
    lines = list(Text(0).lines(summary))
    assert lines[1].startswith(f"{UUID} saved 4 images")
    assert max(map(len, lines)) < 100


def test_what_gives_way_is_what_can() -> None:
    """The columns right of a long one are all there, and so are the states of an arc."""
    (row,) = Text(0).lines(worst(events.State, bdf=LONG_DOMAIN))
    assert "PRE_COPY_P2P -> RUNNING_P2P cccc~ " in row
    assert row.endswith(" 1234567.890 ENOTRECOVERABLE")


def test_a_soak_has_a_summary_of_the_usual_width() -> None:
    event = worst(Summary)
    lines = list(Text(0).lines(event))
    joined = re.sub(r"\s+", " ", " ".join(lines))
    assert "12345678 cleanup) by 12345678 SAVEs, 12345678 failed" in joined
    assert "-> not converging: it is dirtied faster than it is read" in joined


def test_the_end_of_a_cut_recording_is_one_line() -> None:
    lost = Lost(bdf=None, boot_ns=0, lost_records=None, incomplete_saves=123, at_end=True)
    (_, line) = Text(0).lines(lost)
    assert len(line) < 100


def test_losses_fold() -> None:
    lines = list(Text(0).lines(worst(Lost)))
    assert max(map(len, lines)) < 100
    assert "lost 12345678 (ring) missed 12345678" in re.sub(r"\s+", " ", " ".join(lines))


@pytest.mark.parametrize("clock", ["boot", "realtime", "stream"])
@pytest.mark.parametrize("name", [BDF, UUID])
def test_the_downtime_between_two_hosts(clock: str, name: str) -> None:
    hints = typing.get_type_hints(Downtime)
    values: dict[str, Any] = {
        field.name: 1_234_567_890_123 if "int" in str(hints[field.name]) else "h" * 40
        for field in dataclasses.fields(Downtime)
    }
    proof = "bytes 1099511627776 to 1099511693311 are read before they are written"
    values.update(bdf=name, target_bdf=name, clock=clock, stream_proof=proof, content="differs")
    lines = list(join_report.text(Downtime(**values)))
    assert max(map(len, lines)) < 100
    joined = re.sub(r"\s+", " ", " ".join(lines))
    assert name in joined
    assert (proof in joined) == (clock != "boot")


def test_folding_leaves_short_lines_alone() -> None:
    assert fold("  two  blanks") == ["  two  blanks"]
    assert fold("x" * COLUMNS) == ["x" * COLUMNS]
    first, second = fold("  head      " + "word " * 30, 4)
    assert first.startswith("  head      word")
    assert second.startswith("    word")


def test_a_long_wait_in_a_failed_save() -> None:
    vf = Vf(Clock(), BDF, 0x10, [])
    vf.issue(MIDDLE, state="PRE_COPY")
    vf.done(0, status=9, syndrome=0xFFFFFFFF)
    (save,) = events_of(vf, Save)
    (row,) = Text(0).lines(save)
    assert row.endswith("BAD_RES_STATE")
    assert len(row) < 100
