# SPDX-License-Identifier: GPL-2.0-or-later
"""A probe that is absent is told of, live and in a report, and what it would tell is not 0."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from mlxtrace import host, layout, output, precopy, probetable, recording, unknown
from mlxtrace.agreement import compare_calls
from mlxtrace.catalogue import GENERIC, PROBES
from mlxtrace.cli import group
from mlxtrace.counters import Counters
from mlxtrace.decoder import Decoder
from mlxtrace.events import Summary
from mlxtrace.live_output import LiveOutput
from mlxtrace.probetable import ATTACHED, LEFT_OUT, ProbeState
from mlxtrace.records import Kind
from mlxtrace.selection import EVERYTHING

from . import test_live
from .raw_records import Clock, Vf, source_migrates, target_loads
from .test_selection import CLOCK, header

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlxtrace.catalogue import Probe

ONE, TWO = "0000:01:00.1", "0000:01:00.2"
EVENTS = Path(__file__).resolve().parents[2] / "docs/events.md"
# Kinds of records that are not made without a probe.
_OF = {
    "save-read": (Kind.READ, Kind.DRAINED, Kind.HISTOGRAM),
    "resume-write": (Kind.WRITE, Kind.HEADER),
}


def table(
    probes: Sequence[Probe], *absent: str, reason: str = "inlined in this build"
) -> list[dict[str, Any]]:
    return [
        (
            ProbeState.absent(probe, reason)
            if probe.name in absent
            else ProbeState(probe, ATTACHED, probe.symbols[0], "kprobe")
        ).to_json()
        for probe in probes
    ]


def migration(*absent: str) -> bytes:
    """The records of a migration, but for those that absent probes would make."""
    out: list[bytes] = []
    clock = Clock()
    source_migrates(Vf(clock, ONE, 0x10, out))
    target_loads(Vf(clock, TWO, 0x20, out))
    missing = {kind for name in absent for kind in _OF.get(name, ())}
    return b"".join(record for record in out if record[24] not in missing)


def printed(path: Path, *words: str) -> tuple[str, str]:
    done = CliRunner().invoke(group, ["report", str(path), *words])
    assert done.exception is None
    return done.stdout, done.stderr


def recorded(path: Path, *absent: str, reason: str = "inlined in this build") -> Path:
    writer = recording.Writer(path, {**header(), "probes": table(PROBES, *absent, reason=reason)})
    writer.write(migration(*absent))
    writer.close({"clock": {**CLOCK, "boot_ns": 2_000_000}, "counters": Counters().to_json()})
    return path


def summaries(path: Path) -> dict[str, dict[str, Any]]:
    lines = map(json.loads, printed(path, "--json")[0].splitlines())
    return {line["bdf"]: line for line in lines if line["type"] == "summary"}


def test_what_depends_on_a_probe_is_a_key_of_a_summary() -> None:
    known = {field.name for field in dataclasses.fields(Summary)}
    names = {probe.name for probe in (*PROBES, *GENERIC)}
    assert set(unknown._WITHOUT) < names
    for keys in unknown._WITHOUT.values():
        assert set(keys) <= known
    required = {probe.name for probe in (*PROBES, *GENERIC) if probe.required}
    assert not required & set(unknown._WITHOUT)


@pytest.mark.parametrize("name", sorted(unknown._WITHOUT))
def test_figures_that_rest_on_an_absent_probe_are_null(tmp_path: Path, name: str) -> None:
    whole = summaries(recorded(tmp_path / "whole.mlxrec"))
    found = summaries(recorded(tmp_path / "some.mlxrec", name, reason=LEFT_OUT))
    assert set(found) == {ONE, TWO}
    for bdf, summary in found.items():
        assert set(summary) == set(whole[bdf])
        nulls = {key for key in unknown._WITHOUT[name] if summary[key] is None}
        assert nulls == set(unknown._WITHOUT[name])
        if name not in _OF:
            others = set(summary) - nulls
            assert {k: summary[k] for k in others} == {k: whole[bdf][k] for k in others}


def test_people_get_a_dash_for_them(tmp_path: Path) -> None:
    said, _ = printed(recorded(tmp_path / "a.mlxrec", "save-read", "resume-write", "save-callback"))
    assert "  stream    - bytes in - reads, - temporary ends, - final, - errors" in said
    assert "  stream    - bytes in - writes" in said
    assert "by 4 SAVEs, - failed" in said
    assert "  stopped   - ms" in said
    assert "None" not in said
    assert max(map(len, said.splitlines())) < 100


@pytest.mark.parametrize("name", sorted(unknown._WITHOUT))
def test_no_text_breaks_without_them(tmp_path: Path, name: str) -> None:
    said, _ = printed(recorded(tmp_path / "a.mlxrec", name, reason=LEFT_OUT), "-v")
    assert "None" not in said
    assert max(map(len, said.splitlines())) < 100


def test_what_a_driver_has_not_is_0(tmp_path: Path) -> None:
    lacks = ("precopy-ioctl", "data-size", "buffer-alloc", "buffer-free")
    found = summaries(recorded(tmp_path / "a.mlxrec", *lacks, reason="this driver has none"))[ONE]
    assert None not in [found[key] for name in lacks for key in unknown._WITHOUT[name]]


def test_without_its_owner_no_file_of_any_driver_is_known() -> None:
    lost = unknown.keys(table(GENERIC, "data-file"))
    assert {"read_bytes", "written_bytes", "ioctls", "final_ends"} <= lost
    assert unknown.keys(table(GENERIC)) == {"get_states"}, "which is no probe of any driver"


def test_a_figure_that_is_not_known_agrees_with_none() -> None:
    lost = {"type": "lost", "lost_records": 0, "missed_returns": 0}
    events: list[dict[str, Any]] = [{"type": "summary", "resets": n} for n in (None, 1)] + [lost]
    row, *_ = compare_calls({"resets": 1}, events)
    assert (row.tracer, row.agrees) == (None, False)


def test_a_report_tells_of_absent_probes_as_the_live_run_did(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.mlxrec", "save-read")
    _, told = printed(path)
    assert " ".join(told.split()) == (
        "probe save-read is absent: mlx5vf_save_read inlined in this build; so reads and ends of "
        "the stream are missing"
    )
    assert max(map(len, told.splitlines())) < 100
    assert printed(path, "--json")[1] == printed(path, "-s")[1] == told
    whole = printed(recorded(tmp_path / "b.mlxrec"), "-v")[1].splitlines()
    some = printed(path, "-v")[1].splitlines()
    assert len(whole) == len(PROBES)
    at = next(n for n, line in enumerate(some) if line.startswith("  save-read"))
    assert some[at].endswith("absent    inlined in this build")
    assert some[at + 1].strip() == "so reads and ends of the stream are missing"
    assert printed(recorded(tmp_path / "c.mlxrec"))[1] == ""


@pytest.mark.parametrize("entry", [{}, {"state": "absent"}, {"state": "absent", "name": ["\n"]}])
def test_a_table_that_nobody_made_breaks_nothing(entry: dict[str, Any]) -> None:
    for verbose in (False, True):
        for line in probetable.told([entry], verbose=verbose):
            assert line.isprintable()
    assert unknown.keys([entry]) == {"get_states"}


class Running:
    """A capture of a migration, with the probes that were asked for."""

    def __init__(self, probes: Sequence[Probe], *_: object, content: bool) -> None:
        assert not content
        self._probes = probes
        self._all = {probe.name for probe in PROBES}

    def start(self) -> list[ProbeState]:
        return [ProbeState(p, ATTACHED, p.symbols[0], "kprobe") for p in self._probes]

    def poll(self, _timeout_ms: int) -> bytes:
        return b""

    def stop(self) -> tuple[bytes, Counters]:
        return migration(*self._all - {probe.name for probe in self._probes}), Counters()


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> None:
    for check in ("require_privileges", "require_module"):
        monkeypatch.setattr(host, check, lambda *_: None)
    monkeypatch.setattr(host, "migration_vfs", lambda: [ONE, TWO])
    offsets = {wanted.macro: 8 for wanted in layout.WANTED}
    monkeypatch.setattr(layout, "of_running_module", lambda: layout.Layouts("a test", offsets))
    monkeypatch.setattr(host, "why_absent", lambda *_: "")
    monkeypatch.setattr(precopy, "load_bcc", lambda: None)
    monkeypatch.setattr(precopy, "Capture", Running)


@pytest.mark.parametrize("verbose", [False, True])
def test_what_was_left_out_is_told_and_kept(
    running: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], verbose: bool
) -> None:
    del running
    path, out = tmp_path / "run.mlxrec", io.StringIO()
    options = precopy.Options(
        without=("save-read",),
        duration_s=0.001,
        as_json=True,
        recording=path,
        verbose=verbose,
        argv=(),
    )
    precopy.run(options, out)
    said = capsys.readouterr().err
    assert f"({len(PROBES) - 1}/{len(PROBES)} probes)" in said
    assert "left out by --without" in said
    meta = json.loads(out.getvalue().splitlines()[0])
    assert [probe["name"] for probe in meta["probes"]] == [probe.name for probe in PROBES]
    (probe,) = (probe for probe in meta["probes"] if probe["state"] == "absent")
    assert (probe["name"], probe["reason"], probe["symbol"]) == ("save-read", LEFT_OUT, "")
    replayed, told = printed(path, "--json", *["-v"] * verbose)
    assert replayed == out.getvalue()
    lines = [line for line in said.splitlines() if not line.startswith("Tracing ")]
    assert told.splitlines() == lines
    assert '"read_bytes":null' in replayed


def test_a_dry_run_lists_what_is_left_out(running: None) -> None:
    del running
    out = io.StringIO()
    precopy.dry_run(precopy.Options(without=("mkey",), argv=()), out)
    assert re.search(rf"^  mkey +absent +{LEFT_OUT}$", out.getvalue(), re.MULTILINE)


def test_the_dashboard_shows_no_0_either() -> None:
    meta = output.meta_of({**header(), "probes": table(PROBES, "save-read", "resume-write")})
    out = io.StringIO()
    printer = LiveOutput(out, meta, EVERYTHING)
    seen = list(Decoder().feed(migration("save-read", "resume-write")))
    printer.write(seen)
    shown = test_live.picture(seen, 80, unknown=unknown.keys(meta.probes))
    assert re.search(r"│ read +- ", shown)
    assert re.search(r"│ written +- |4 LOADs", shown)
    decoder = Decoder()
    list(decoder.feed(migration("save-read")))
    printer.write(decoder.finish(Counters(), 2_000_000))
    assert "- bytes in - reads" in out.getvalue()


def test_the_documentation_says_which_are_null() -> None:
    told = EVENTS.read_text().partition("| without the probe | null |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", told, re.MULTILINE))
    found = {name: tuple(re.findall(r"`(\w+)`", keys)) for name, keys in rows.items()}
    assert found == unknown._WITHOUT
