# SPDX-License-Identifier: GPL-2.0-or-later
"""Two hosts' recordings give the downtime that was, as exactly as their clocks allow."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genbindings.errors import Error
from mlxtrace import cli, hostclock, join_report, recording, records
from mlxtrace.counters import Counters
from mlxtrace.mailbox import Opcode

from .raw_records import FINAL, INITIAL, Clock, Vf
from .test_recording import header

if TYPE_CHECKING:
    from pathlib import Path

SOURCE, TARGET = "0000:01:00.1", "0000:02:00.2"
REALTIME = 1_800_000_000_000_000_000
"""Time of day when the source's boot clock stood at 0."""
MS = 1_000_000
STATE_CHANGES = (records.Kind.SET_STATE, records.Kind.STEP)


class Shifted(Clock):
    """The boot clock of another host, ``ahead`` of ``base``."""

    def __init__(self, base: Clock, ahead: int) -> None:
        self.base, self.ahead = base, ahead

    @property
    def now(self) -> int:  # type: ignore[override]
        return self.base.now + self.ahead

    def tick(self) -> int:
        return self.base.tick() + self.ahead


@dataclass
class Hosts:
    """A migration from one host to another, and what is true of it.

    Attributes:
        ahead: how far the target's boot clock is ahead.
        wrong: how much the target's time of day is ahead of the source's, which it should not be.
        content: what the source and the target summed up of their stream.
        error: what NTP on each host says of its error; None: not synchronised.
    """

    folder: Path
    ahead: int = 12_345 * MS
    wrong: int = 0
    error: int | None = None
    boot_ids: tuple[str, str] = ("one", "two")
    counters: Counters = field(default_factory=Counters)
    truth: dict[str, int] = field(default_factory=dict)
    content: tuple[tuple[int, int, int], ...] = ()

    def migrate(self, *, last_block: int = 273, delay_ns: int = 0, p2p: bool = True) -> None:
        """Write source.mlxrec and target.mlxrec; ``delay_ns`` is the way from read to write."""
        clock = Clock()
        out: tuple[list[bytes], list[bytes]] = ([], [])
        source = Vf(clock, SOURCE, 0x10, out[0])
        target = Vf(Shifted(clock, self.ahead), TARGET, 0x20, out[1])
        target.go("STOP", "RESUMING")
        source.go("RUNNING", "PRE_COPY")
        source.save(INITIAL, 8192)
        source.read(3, 8208, temporary=1)
        clock.now += delay_ns
        target.write(2, 4000)
        target.command(Opcode.LOAD_VHCA_STATE, size=8192)
        target.write(2, 4208)
        stop = clock.now
        if p2p:
            source.arc("PRE_COPY", "PRE_COPY_P2P")
            begin = clock.now
            source.set_state("PRE_COPY_P2P")
        source.arc("PRE_COPY_P2P" if p2p else "PRE_COPY", "STOP_COPY")
        stopping = clock.now
        begin = begin if p2p else stopping
        source.issue(FINAL, state="PRE_COPY_P2P")
        source.set_state("STOP_COPY")
        stopped = clock.now
        source.done(257)
        source.read(1, 273)
        clock.now += delay_ns
        target.command(Opcode.LOAD_VHCA_STATE, size=257)
        target.write(1, last_block)
        source.read(final=1)
        end = clock.now
        clock.now += 5000
        target.arc("RESUMING", "STOP")
        loaded = clock.now
        target.set_state("STOP")
        target.arc("STOP", "RUNNING_P2P", "RUNNING")
        starting = clock.now
        target.arc("RUNNING_P2P", "RUNNING")
        target.set_state("RUNNING")
        running = clock.now
        source.go("STOP_COPY", "STOP")
        for direction, (vf, total) in enumerate(zip((source, target), self.content, strict=False)):
            vf.content(direction, *total)
        assert stop < begin
        self.truth = {
            "downtime_ns": running - begin,
            "downtime_quiesce_ns": stopping - begin,
            "downtime_stop_ns": stopped - stopping,
            "downtime_final_ns": end - stopped,
            "downtime_transfer_ns": loaded - end,
            "downtime_load_ns": starting - loaded,
            "downtime_start_ns": running - starting,
        }
        self._write("source", 0, 0, out[0], clock.now)
        self._write("target", self.ahead, self.wrong, out[1], clock.now)

    def _write(self, name: str, ahead: int, wrong: int, chunks: list[bytes], end: int) -> None:
        def reading(now: int) -> dict[str, int]:
            at = {
                "boot_ns": now + ahead,
                "monotonic_ns": now,
                "realtime_ns": REALTIME + now + wrong,
            }
            return at if self.error is None else {**at, "realtime_error_ns": self.error}

        boot_id = self.boot_ids[name == "target"]
        head = {**header(), "clock": reading(500), "host": f"the-{name}", "boot_id": boot_id}
        writer = recording.Writer(self.path(name), head)
        for chunk in chunks:
            writer.write(chunk)
        writer.close({"clock": reading(end), "counters": self.counters.to_json()})

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.mlxrec"

    def joined(self, *names: str) -> dict[str, Any]:
        """The one line of ``--json``."""
        out = io.StringIO()
        source, target = (self.path(name) for name in names or ("source", "target"))
        join_report.report(source, target, out, as_json=True, warn=lambda _: None)
        return dict(json.loads(out.getvalue()))

    def text(self) -> list[str]:
        out = io.StringIO()
        join_report.report(self.path("source"), self.path("target"), out)
        lines = out.getvalue().splitlines()
        assert max(map(len, lines)) < 100
        return lines


@pytest.mark.parametrize("p2p", [True, False])
def test_good_clocks_give_the_downtime_and_its_parts(tmp_path: Path, p2p: bool) -> None:
    hosts = Hosts(tmp_path, error=200)
    hosts.migrate(p2p=p2p)
    found = hosts.joined()
    assert found | hosts.truth == found
    assert found["downtime_ns"] == sum(v for k, v in found.items() if k.startswith("downtime_")) / 2
    assert (found["clock"], found["clock_offset_ns"]) == ("realtime", hosts.ahead)
    assert found["at_most_ns"] == found["downtime_ns"] + 400
    assert found["at_least_ns"] == found["downtime_ns"] - 400
    assert (found["bdf"], found["target_bdf"]) == (SOURCE, TARGET)
    assert (found["host"], found["target_host"]) == ("the-source", "the-target")
    assert (found["stream_bytes"], found["images"], found["final_bytes"]) == (8481, 2, 273)
    assert found["contradiction_ns"] == 0
    text = hosts.text()
    assert text[0] == f"{SOURCE} on the-source -> {TARGET} on the-target"
    assert text[-1] == "    They agree. Used: realtime."


@pytest.mark.parametrize(
    ("totals", "said"),
    [
        (((99, 17, 0), (99, 17, 0)), "same"),
        (((99, 17, 0), (98, 17, 0)), "differs"),
        (((99, 17, 0), (99, 16, 0)), "differs"),
        (((99, 17, 0), (99, 17, 1)), ""),
        (((99, 17, 0),), ""),
        ((), ""),
    ],
)
def test_contents_are_compared(
    tmp_path: Path, totals: tuple[tuple[int, int, int], ...], said: str
) -> None:
    hosts = Hosts(tmp_path, error=200, content=totals)
    hosts.migrate()
    assert hosts.joined()["content"] == said
    lines = [line.split()[1] for line in hosts.text() if line.startswith("  content")]
    assert lines == {"same": ["the"], "differs": ["DIFFERS:"], "": []}[said]
    out = io.StringIO()
    good = join_report.report(hosts.path("source"), hosts.path("target"), out)
    assert good is (said != "differs")


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    ahead=st.integers(0, 10**15),
    wrong=st.integers(-(10**7), 10**7) | st.integers(-(10**12), 10**12),
    claimed=st.none() | st.integers(0, 10**7),
    delay_ns=st.integers(0, 10**6),
)
def test_the_truth_is_within_the_bounds(
    tmp_path: Path, ahead: int, wrong: int, claimed: int | None, delay_ns: int
) -> None:
    hosts = Hosts(tmp_path, ahead=ahead, wrong=wrong, error=claimed)
    hosts.migrate(delay_ns=delay_ns)
    found = hosts.joined()
    true = hosts.truth["downtime_ns"]
    assert found["stream_offset_ns"] >= ahead
    honest = claimed is not None and abs(wrong) <= 2 * claimed
    if honest or claimed is None:
        assert found["at_least_ns"] <= true
    if honest:
        assert true <= found["at_most_ns"]
        assert found["contradiction_ns"] == 0
    if found["contradiction_ns"]:
        assert (found["clock"], found["at_most_ns"]) == ("stream", None)
        assert 0 <= found["downtime_ns"] == found["at_least_ns"] <= true
    parts = ("quiesce", "stop", "final", "transfer", "load", "start")
    assert sum(found[f"downtime_{part}_ns"] for part in parts) == found["downtime_ns"]


def test_a_clock_that_the_stream_contradicts_is_not_used(tmp_path: Path) -> None:
    """By the time of day the target wrote 5 ms before the source read."""
    hosts = Hosts(tmp_path, wrong=-5 * MS, error=1000)
    hosts.migrate(delay_ns=300)
    found = hosts.joined()
    assert found["clock"] == "stream"
    assert 4 * MS < found["contradiction_ns"] < 5 * MS
    assert found["realtime_offset_ns"] == hosts.ahead + 5 * MS
    assert "read before they are written" in found["stream_proof"]
    text = "\n".join(hosts.text())
    assert "contradict each other by 4.99" in text
    assert "Used: the stream" in text
    words = ["report", str(hosts.path("source")), str(hosts.path("target"))]
    runs = [CliRunner().invoke(cli.group, [*words, *more], standalone_mode=False) for more in
            ([], ["--strict"])]  # fmt: skip
    assert [run.return_value for run in runs] == [0, 3]


def test_no_synchronisation_is_said(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path)
    hosts.migrate()
    assert hosts.joined()["at_most_ns"] is None
    text = "\n".join(hosts.text())
    assert "at most unknown" in text
    assert "not known to be synchronised" in text


def test_a_lost_record_loosens_the_stream_and_is_said(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, error=200)
    hosts.migrate()
    tight = hosts.joined()["stream_offset_ns"]
    hosts.counters = Counters(lost_records=1)
    hosts.migrate()
    assert hosts.joined()["stream_offset_ns"] >= tight
    warnings: list[str] = []
    paths = hosts.path("source"), hosts.path("target")
    assert not join_report.report(*paths, io.StringIO(), warn=warnings.append)
    assert [sentence.split(" is lost")[0] for sentence in warnings] == [
        f"something of {path}" for path in paths
    ]


def test_one_boot_has_one_clock(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, ahead=0, wrong=77 * MS, boot_ids=("same", "same"))
    hosts.migrate()
    found = hosts.joined()
    assert found["clock"] == "boot"
    assert found["at_least_ns"] == found["at_most_ns"] == hosts.truth["downtime_ns"]
    assert found["realtime_offset_ns"] is None
    assert "one clock: exact" in hosts.text()[2]


def test_one_recording_of_both_vfs(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, ahead=0)
    hosts.migrate()
    both = [recording.Reader(hosts.path(name), print) for name in ("source", "target")]
    raw = sorted(
        (chunk for reader in both for chunk in reader.chunks()),
        key=lambda record: int.from_bytes(record[:8], "little"),
    )
    writer = recording.Writer(hosts.path("both"), both[0].header)
    for record in raw:
        writer.write(record)
    assert both[0].closing
    writer.close(both[0].closing)
    found = hosts.joined("both", "both")
    assert found["clock"] == "boot"
    assert found | hosts.truth == found


@pytest.mark.parametrize(
    ("names", "said", "hint"),
    [
        (("source", "source"), "both recordings of a source", ""),
        (("target", "target"), "both recordings of a target", ""),
        (("target", "source"), "target.mlxrec is the target's recording", "source comes first"),
    ],
)
def test_recordings_of_the_wrong_side(
    tmp_path: Path, names: tuple[str, str], said: str, hint: str
) -> None:
    hosts = Hosts(tmp_path)
    hosts.migrate()
    with pytest.raises(Error, match=said) as failure:
        hosts.joined(*names)
    assert hint in failure.value.hint


def test_other_bytes_on_the_other_side(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path)
    hosts.migrate(last_block=272)
    with pytest.raises(Error, match=r"8481 bytes were read of .* but 8480 written to") as failure:
        hosts.joined()
    assert "cut or changed on the way" in failure.value.hint


def test_a_recording_with_nothing_in_it(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path)
    hosts.migrate()
    empty = recording.Writer(hosts.path("empty"), header())
    empty.close({"clock": header()["clock"], "counters": Counters().to_json()})
    with pytest.raises(Error, match=r"no migration in common: .*empty.mlxrec has no stream"):
        hosts.joined("source", "empty")


@pytest.mark.parametrize(
    ("name", "said"), [("source", r"when 0000:01:00\.1 stopped"), ("target", r"when .* ran")]
)
def test_state_changes_that_were_not_traced(tmp_path: Path, name: str, said: str) -> None:
    hosts = Hosts(tmp_path)
    hosts.migrate()
    reader = recording.Reader(hosts.path(name), print)
    chunks = [c for c in reader.chunks() if records.unpack(c).kind not in STATE_CHANGES]
    writer = recording.Writer(hosts.path(name), reader.header)
    for chunk in chunks:
        writer.write(chunk)
    writer.close(reader.closing or {})
    with pytest.raises(Error, match=said):
        hosts.joined()


def test_the_hosts_own_clock_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = hostclock.realtime_error_ns()
    assert error is None or error >= 0
    assert hostclock.boot_id()
    monkeypatch.setattr(hostclock, "BOOT_ID", tmp_path / "absent")
    assert hostclock.boot_id() == ""
