# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings that are cut, damaged or made up: told up to there, with a warning, no traceback."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import struct
import threading
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from genbindings.errors import Error
from mlxtrace import cli, join_report, output, recording, records, report
from mlxtrace.counters import Counters
from mlxtrace.decoder import Decoder

from .random_records import raws
from .test_recording import COUNTERS, END, header, stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ANY = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
IDENTITY = 12
"""Bytes of magic and version: damage there makes it another kind of file."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("recording") / "run.mlxrec", header())


def write(path: Path, head: Any, closing: Any = None, chunks: list[bytes] | None = None) -> Path:
    writer = recording.Writer(path, head)
    for chunk in stream() if chunks is None else chunks:
        writer.write(chunk)
    writer.close({"clock": END, "counters": COUNTERS.to_json()} if closing is None else closing)
    return path


def replayed(path: Path, warnings: list[str], *, as_json: bool = True) -> str:
    out = io.StringIO()
    complete = report.report(path, out, as_json=as_json, warn=warnings.append)
    assert complete is not bool(warnings)
    return out.getvalue()


def damaged(path: Path, data: bytes) -> Path:
    other = path.with_suffix(".damaged")
    other.write_bytes(data)
    return other


def rows(text: str) -> list[str]:
    """What was told of single events; what is open at a cut is told as open, or in flight."""
    lines = [line for line in text.splitlines() if '"callback_seen":false' not in line]
    return [line for line in lines if json.loads(line)["type"] not in ("open", "summary", "lost")]


@ANY
@given(data=st.data())
def test_a_cut_recording_is_read_up_to_the_cut(recorded: Path, data: st.DataObject) -> None:
    whole = recorded.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    warnings: list[str] = []
    text = replayed(damaged(recorded, whole[:at]), warnings)
    assert len(warnings) == 1
    assert f"cut at byte {at}" in warnings[0]
    found = rows(text)
    assert found == rows(replayed(recorded, []))[: len(found)]
    if found:
        assert json.loads(text.splitlines()[-1])["lost_records"] is None, "nobody knows"


@pytest.mark.parametrize("block", [0, 1, -1])
def test_a_block_whose_length_is_damaged_is_no_cut(recorded: Path, block: int) -> None:
    whole = bytearray(recorded.read_bytes())
    starts = [match.start() for match in re.finditer(b"RECS", bytes(whole))]
    number = int.from_bytes(whole[starts[block] + 4 : starts[block] + 8], "little")
    whole[starts[block] + 4 : starts[block] + 8] = (number + 70_000).to_bytes(4, "little")
    warnings: list[str] = []
    found = rows(replayed(damaged(recorded, bytes(whole)), warnings))
    assert f"damaged in the block that begins at byte {starts[block]}" in warnings[0]
    kept = b"".join(stream()[: range(len(starts))[block]])
    assert len(found) == 1 + len(list(Decoder().feed(kept)))


def test_all_records_before_a_cut_are_told(recorded: Path) -> None:
    whole = recorded.read_bytes()
    end = whole.rindex(b"ENDS")
    # The cut falls into the last byte of the last record, so that only this one is missing.
    text = replayed(damaged(recorded, whole[: end - 1]), [])
    decoder = Decoder()
    kept = b"".join(stream())[: -records.SIZE]
    assert len(rows(text)) == 1 + len(list(decoder.feed(kept)))


@ANY
@given(data=st.data())
def test_a_damaged_recording_is_read_up_to_the_damage(recorded: Path, data: st.DataObject) -> None:
    whole = bytearray(recorded.read_bytes())
    at = data.draw(st.integers(IDENTITY, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    for _ in range(data.draw(st.integers(0, 3))):
        where = data.draw(st.integers(min(at + 1, len(whole)), len(whole)))
        whole[where : where + 1] = data.draw(st.binary(min_size=1, max_size=1))
    warnings: list[str] = []
    found = rows(replayed(damaged(recorded, bytes(whole)), warnings))
    assert found == rows(replayed(recorded, []))[: len(found)]
    assert len(warnings) == 1
    assert re.search(r" byte \d+", warnings[0])


@ANY
@given(data=st.data())
@example(data=None)
def test_garbage_behind_a_good_header_is_told(recorded: Path, data: st.DataObject | None) -> None:
    whole = recorded.read_bytes()
    begin = whole.index(b"RECS")
    garbage = data.draw(st.binary(min_size=1, max_size=300)) if data else b"RECS\xff\xff\xff\xff"
    warnings: list[str] = []
    replayed(damaged(recorded, whole[:begin] + garbage), warnings)
    assert len(warnings) == 1
    assert "byte" in warnings[0]
    warnings.clear()
    whole_and_more = replayed(damaged(recorded, whole + garbage), warnings)
    assert whole_and_more == replayed(recorded, [])
    assert f"goes on after its end, from byte {len(whole)}" in warnings[0]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.just(10**400)
    | st.integers(0, 2**64 - 1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@ANY
@given(data=st.data())
def test_headers_and_ends_that_are_made_up_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    head: dict[str, Any] = json.loads(json.dumps(header()))
    closing = json.loads(json.dumps({"clock": END, "counters": COUNTERS.to_json()}))
    where = data.draw(
        st.sampled_from(
            [
                head,
                head["clock"],
                closing,
                closing["clock"],
                closing["counters"],
                closing["counters"]["probes"],
                closing["counters"]["probes"]["save-read"],
            ]
        )
    )
    key = data.draw(st.sampled_from(sorted(where)))
    if data.draw(st.booleans()):
        del where[key]
    else:
        where[key] = data.draw(values)
    path = write(tmp_path / "made-up.mlxrec", head, closing)
    for as_json in (False, True):
        for show in (report.report, joined):
            with contextlib.suppress(Error):
                show(path, io.StringIO(), as_json=as_json, warn=lambda _: None)


def joined(path: Path, stream: io.StringIO, **how: Any) -> bool:
    """As report.report, of a recording that has both VFs."""
    return join_report.report(path, path, stream, **how)


@pytest.mark.parametrize("name", ["host", "version", "filter", "vfs", "probes", "clock"])
@pytest.mark.parametrize("show", [report.report, joined])
def test_an_odd_header_is_refused(tmp_path: Path, name: str, show: Callable[..., bool]) -> None:
    path = write(tmp_path / "odd.mlxrec", {**header(), name: [7]})
    with pytest.raises(Error, match=rf"the header of .*odd.mlxrec cannot be read: {name} is no "):
        show(path, io.StringIO(), warn=print)
    path = write(tmp_path / "odd.mlxrec", {k: v for k, v in header().items() if k != name})
    with pytest.raises(Error, match=f"lacks '{name}'"):
        show(path, io.StringIO(), warn=print)


@pytest.mark.parametrize("odd", [[], "", {}, False, 1.5])
@pytest.mark.parametrize("key", ["entries", "returns", "open", "skipped"])
def test_odd_counts_are_unknown_with_a_warning(tmp_path: Path, key: str, odd: object) -> None:
    counters = COUNTERS.to_json()
    counters["probes"]["save-read"][key] = odd
    closing = {"clock": END, "counters": counters}
    path = write(tmp_path / "odd.mlxrec", header(), closing)
    warnings: list[str] = []
    text = replayed(path, warnings)
    assert warnings == [f"the closing counters of {path} cannot be read"]
    assert json.loads(text.splitlines()[-1])["lost_records"] is None


def test_json_that_is_too_deep_is_damage(recorded: Path) -> None:
    deep = b"[" * 100_000
    head = struct.pack("<8sIII", recording.MAGIC, recording.VERSION, len(deep), zlib.crc32(deep))
    warnings: list[str] = []
    assert replayed(damaged(recorded, head + deep), warnings) == ""
    assert "damaged in its header" in warnings[0]


@pytest.mark.parametrize("as_json", [False, True])
@settings(deadline=None)
@given(rows=st.lists(raws, max_size=30))
def test_records_of_any_kind_in_any_order_never_crash(
    as_json: bool, rows: list[records.Raw]
) -> None:
    out = io.StringIO()
    printer = output.Output(out, output.meta_of(header()), as_json=as_json, verbose=True)
    decoder = Decoder()
    for raw in rows:
        printer.write(decoder.feed(records.pack(raw)))
    printer.write(decoder.finish(Counters()))
    lines = out.getvalue().splitlines()
    if as_json:
        assert all(json.loads(line) for line in lines)
    else:
        assert all(line.isprintable() for line in lines), "no comm or name breaks a row"


@given(st.lists(st.binary(min_size=records.SIZE, max_size=records.SIZE), max_size=20))
def test_arbitrary_records_never_crash(chunks: list[bytes]) -> None:
    printer = output.Output(io.StringIO(), output.meta_of(header()), verbose=True)
    decoder = Decoder()
    for chunk in chunks:
        printer.write(decoder.feed(chunk))
    printer.write(decoder.finish(Counters()))


@pytest.mark.parametrize(
    ("cut", "strict", "status"),
    [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 3), (-9, 0, 0), (-9, 1, 3)],
)
def test_exit_status(recorded: Path, cut: int, strict: int, status: int) -> None:
    """Cut nowhere, one byte before the end, and inside the header."""
    whole = recorded.read_bytes()
    part = whole[:30] if cut < 0 else whole[: len(whole) - cut]
    words = ["report", str(damaged(recorded, part)), *["--strict"] * strict]
    result = CliRunner().invoke(cli.group, words, standalone_mode=False)
    assert result.exception is None
    assert result.return_value == status
    assert ("warning: " in result.stderr) is bool(cut)


def test_a_pipe_is_read_like_a_file(tmp_path: Path, recorded: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    feeder = threading.Thread(target=pipe.write_bytes, args=[recorded.read_bytes()])
    feeder.start()
    warnings: list[str] = []
    assert replayed(pipe, warnings) == replayed(recorded, [])
    feeder.join()
    assert not warnings
