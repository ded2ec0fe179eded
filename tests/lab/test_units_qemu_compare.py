# SPDX-License-Identifier: GPL-2.0-or-later
"""Three witnesses of one migration: a wrong figure of any of them is noticed, and named."""

from __future__ import annotations

import copy
import io
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from mlxlab.vmm import outcome, scenarios, show
from mlxlab.vmm.compare import Firmware, compare
from mlxlab.vmm.qemulog import Asked
from mlxlab.vmm.verdict import Run, Verdict
from tests.lab.witnesses import IMAGES, STREAM, counters, witnesses

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlxlab.vmm.compare import Row


def rows(known: dict[str, Any]) -> list[Row]:
    return compare(known["scenario"], known["result"], known["source"], known["target"])


def wrong(known: dict[str, Any]) -> set[str]:
    return {row.name.strip() for row in rows(known) if not row.agrees}


def test_a_migration_without_trouble_agrees_on_everything() -> None:
    assert wrong(witnesses()) == set()
    assert len(rows(witnesses())) == 30


def grow(side: str, witness: str, name: str) -> Callable[[dict[str, Any]], None]:
    """Add 1 to a counter or to a figure."""

    def change(known: dict[str, Any]) -> None:
        subject = getattr(known[side], witness)
        if isinstance(subject, Firmware):
            subject.counters[name] += 1  # type: ignore[index]
        elif isinstance(value := getattr(subject, name), int):
            setattr(subject, name, value + 1)
        else:
            value[-1] += 1

    return change


def refuse(side: str, witness: str) -> Callable[[dict[str, Any]], None]:
    def change(known: dict[str, Any]) -> None:
        states = getattr(known[side], witness).states
        states[-1] = Asked(states[-1].state, True)

    return change


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set what is at ``path``: attributes and keys."""

    def change(known: dict[str, Any]) -> None:
        at: Any = known
        for step in path[:-1]:
            at = getattr(at, step) if isinstance(step, str) and hasattr(at, step) else at[step]
        if isinstance(at, dict | list):
            at[path[-1]] = value
        else:
            setattr(at, path[-1], value)

    return change


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        (refuse("source", "told"), {"source: states asked for"}),
        (refuse("target", "seen"), {"target: states asked for"}),
        (grow("source", "told", "resets"), {"resets after a refusal"}),
        (grow("target", "firmware", "reset"), {"resets after a refusal"}),
        (put("source", "told", "answers", 1, value=(16489, 0)), {"precopy_init_size, sum"}),
        (put("source", "seen", "answers", 2, value=None), {"precopy_dirty_size, sum"}),
        (grow("source", "firmware", "save_initial"), {"initial SAVEs"}),
        (grow("source", "firmware", "save_middle"), {"middle SAVEs"}),
        (grow("source", "firmware", "save_final"), {"final SAVEs"}),
        (grow("source", "firmware", "save_chunk"), {"final SAVEs"}),
        (grow("source", "firmware", "save_cleanup"), {"cleanup SAVEs"}),
        (grow("source", "firmware", "save_failed"), {"failed SAVEs"}),
        (grow("source", "firmware", "save_bytes"), {"bytes in images", "bytes read"}),
        (grow("source", "seen", "save_bytes"), {"bytes in images"}),
        (grow("source", "told", "empty"), {"temporary ends, in runs"}),
        (grow("source", "seen", "reads"), {"reads"}),
        (grow("source", "told", "blocks"), {"bytes read", "bytes that were read"}),
        (
            grow("source", "seen", "read_bytes"),
            {"bytes read", "QMP: transferred", "bytes that were read"},
        ),
        (put("result", "transferred_bytes", value=1), {"QMP: transferred"}),
        (grow("target", "told", "loaded"), {"bytes written"}),
        (grow("target", "seen", "written_bytes"), {"bytes written", "bytes that were read"}),
        (grow("target", "seen", "loads"), {"LOADs", "bytes written"}),
        (grow("target", "firmware", "load_failed"), {"failed LOADs"}),
        (grow("target", "firmware", "load_bytes"), {"bytes loaded", "bytes written"}),
        (grow("source", "firmware", "query"), {"QUERY commands"}),
        (grow("source", "firmware", "suspend"), {"SUSPEND commands"}),
        (grow("target", "firmware", "resume"), {"RESUME commands"}),
        (put("result", "target", "state_hash_at_end", value="0"), {"both: state hashes"}),
        (put("result", "objects", 1, value="mkeys 1"), {"left in the firmware"}),
    ],
)
def test_a_wrong_figure_is_noticed_where_it_is(
    change: Callable[[dict[str, Any]], None], noticed: set[str]
) -> None:
    known = copy.deepcopy(witnesses())
    change(known)
    assert wrong(known) == noticed


def test_an_answer_too_many_is_noticed() -> None:
    known = witnesses()
    known["source"].seen.answers.append((0, 0))
    assert "precopy ioctls" in wrong(known)


def test_a_figure_that_nobody_told_of_a_whole_list_names_the_place() -> None:
    known = witnesses()
    known["source"].told.answers[1:] = [(16489, 0), (-1, 1050688)]
    (row,) = (row for row in rows(known) if "precopy_init_size" in row.name)
    assert row.qemu == row.tracer
    assert not row.agrees
    assert row.note == "answer 2 is 16489 to QEMU and 16488 to the tracer"


def test_the_switchover_must_have_been_acknowledged() -> None:
    known = witnesses()
    known["scenario"] = scenarios.by_name()["switchover-ack"]
    assert wrong(known) == {"switchover acknowledged"}
    known["source"].told.acknowledged = True
    assert wrong(known) == set()


def test_the_final_data_must_go_through_multifd_when_asked_for() -> None:
    known = witnesses()
    known["scenario"] = scenarios.by_name()["multifd"]
    known["source"].told.acknowledged = True
    final = known["source"].told.blocks.pop()
    known["target"].told.loaded.pop()
    assert wrong(known) == {"reads of the end"}
    known["target"].told.buffers = 1
    assert wrong(known) == set()
    # Nothing of it there: it went the usual way.
    known["source"].told.blocks.append(final)
    assert wrong(known) == {"reads before the end", "bytes of these"}


def test_a_block_that_failed_may_have_been_written_in_part() -> None:
    known = witnesses()
    known["result"] |= {"migration": "failed"}
    told, seen = known["target"].told, known["target"].seen
    told.failed_blocks = [told.loaded.pop()]
    for written, agrees in (
        (STREAM, True),
        (STREAM - 849688, True),
        (STREAM - 849689, False),
        (STREAM + 1, False),
    ):
        seen.written_bytes = written
        assert ("bytes written" not in wrong(known)) == agrees


def test_what_a_fault_refused_is_counted_with_the_firmware() -> None:
    side = {
        "counters": counters(query=3, load=2),
        "faults": [
            "query nth=2 status=4 syndrome=0xabc101 # seen 4, hit 1",
            "load errno=5 # seen 3, hit 2",
            "suspend_responder nth=1 delay_us=3000000 # seen 1, hit 1",
        ],
    }
    firmware = Firmware.of(side)
    assert firmware.count("query", "query") == 4
    assert firmware.count("load", "load") == 4
    assert firmware.count("suspend", "suspend_responder") == 0


def test_what_is_wrong_is_shown_with_what_each_said() -> None:
    known = witnesses()
    known["source"].told.blocks[-1] += 1
    known["result"]["source"]["status"]["tracked"] = 1
    verdict = Verdict(
        known["scenario"],
        known["result"],
        rows(known),
        outcome.surprises(known["scenario"], known["result"]),
        "1+1+1",
        STREAM,
        "",
    )
    losses = {"records lost": 2}
    run = Run([verdict], "10.0.2", "6.12", ["cancel"], losses)
    assert not run.good
    text = io.StringIO()
    show.show(run, Console(file=text, width=80), details=False)
    said = " ".join(text.getvalue().split())
    assert f"disagree on bytes read: QEMU {STREAM + 1:,}, tracer {STREAM:,}" in said
    assert "still tracks" in said
    assert "records lost: 2" in said
    assert "no PRE_COPY, so these were left out: cancel" in said
    assert "28/30 !!" in said
    assert max(map(len, text.getvalue().splitlines())) <= 80
    assert "…" not in text.getvalue()


def test_without_precopy_the_stream_is_bare() -> None:
    known = witnesses()
    known["result"] |= {"precopy": False, "transferred_bytes": sum(IMAGES)}
    for side, read in (("source", "read_bytes"), ("target", "written_bytes")):
        setattr(known[side].seen, read, sum(IMAGES))
    for blocks in (known["source"].told.blocks, known["target"].told.loaded):
        blocks[:] = IMAGES
    known["source"].seen.reads = len(IMAGES)
    assert wrong(known) == set()
    known["target"].told.loaded[0] -= 1
    assert wrong(known) == {"bytes written"}


@pytest.mark.parametrize(
    ("headers", "agrees"), [(16, True), (16 + 24, True), (0, False), (24, False)]
)
def test_one_image_may_come_without_being_announced(headers: int, agrees: bool) -> None:
    known = witnesses()
    source, target = known["source"], known["target"]
    size = IMAGES[0]
    for side in (source, target):
        side.seen.read_bytes = side.seen.written_bytes = size + headers
        side.seen.loads = 1
        side.firmware.counters["save_bytes"] = side.firmware.counters["load_bytes"] = size
    source.seen.save_bytes = [size]
    source.told.blocks[:] = target.told.loaded[:] = [size + headers]
    assert ("bytes read" in wrong(known)) != agrees
