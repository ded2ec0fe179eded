# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxtrace stream``: whatever is wrong with a stream file is found, and said."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genbindings import console
from genbindings.errors import Error
from mlxtrace import migrate, streamfile
from mlxtrace.cli_stream import command
from mlxtrace.migrate_model import Options, framing_of
from mlxtrace.stream import FLAG_OPTIONAL, HEADER, Kind
from mlxtrace.stream_report import render, to_json
from mlxtrace.streamcheck import RECORDS_MAX, examine

from .migrate_pair import QUICK, STOP_COPY_ONLY, pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_lab")
one_folder = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200
)
Run = tuple[int, str, str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Return a function that runs the command as the console script does."""

    def invoke(*arguments: str) -> Run:
        monkeypatch.setattr(sys, "argv", ["mlxtrace", *arguments])
        with pytest.raises(SystemExit) as caught:
            console.run(command, "mlxtrace")
        output = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, output.out, output.err

    return invoke


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A stream file of a migration with pre-copy."""
    path = tmp_path_factory.mktemp("good") / "vf.mlxstream"
    source, _ = pair(blocks=6, dirty=1)
    assert migrate.migrate_to_file(source, path, QUICK).error is None
    return path.read_bytes()


def build(header: dict[str, Any], stream: bytes, trailer: dict[str, Any]) -> bytes:
    """Return a stream file whose checksum fits, whatever is in it."""
    head, tail = json.dumps(header).encode(), json.dumps(trailer).encode()
    body = streamfile.PREFIX.pack(streamfile.MAGIC, 1, len(head)) + head + stream + tail
    body += streamfile.LENGTHS.pack(len(stream), len(tail))
    return body + hashlib.sha256(body).digest() + streamfile.END_MAGIC


def parts(content: bytes, path: Path) -> tuple[dict[str, Any], bytes, dict[str, Any]]:
    path.write_bytes(content)
    file = streamfile.load(path)
    return file.header, b"".join(file.chunks()), file.trailer


def test_a_whole_file_is_listed(good: bytes, tmp_path: Path, run: Callable[..., Run]) -> None:
    path = tmp_path / "vf.mlxstream"
    path.write_bytes(good)
    status, out, err = run(str(path))
    assert (status, err) == (0, "")
    lines = out.splitlines()
    found = examine(path)
    assert lines[0] == f"{path}: whole: {len(found.records)} records"
    assert "device    15b3:101e" in lines
    assert "driver    mlx5_vfio_pci: STOP_COPY P2P PRE_COPY" in lines
    assert f"kernel    {os.uname().release}" in lines
    assert f"phases    PRE_COPY from 0, STOP_COPY from {found.records[-1].offset}" in lines
    table = lines[lines.index("") + 1 :]
    assert sum("FW_DATA" in line for line in table) == len(found.records) - 1
    assert next(line for line in table if "STOP_COPY_SIZE" in line).endswith("announces 384 B")
    assert all(len(line) <= 100 for line in lines[1:])


def test_json_has_the_same(good: bytes, tmp_path: Path, run: Callable[..., Run]) -> None:
    path = tmp_path / "vf.mlxstream"
    path.write_bytes(good)
    status, out, _ = run(str(path), "--json")
    line = json.loads(out)
    assert (status, line["type"], line["result"], line["whole"]) == (0, "stream", "done", True)
    assert line["header"]["driver"] == "mlx5_vfio_pci"
    images = [each for each in line["records"] if each["image"]]
    assert [
        {"index": each["image"]}
        | {key: each[key] for key in each if key in ("kind", "crc32")}
        | {"offset_bytes": each["offset_bytes"], "size_bytes": each["size_bytes"]}
        for each in images
    ] == line["trailer"]["images"]
    assert images[0]["kind"] == Kind.INITIAL
    assert images[-1]["kind"] == Kind.FINAL
    assert line["stop_copy_size_bytes"] == 384


@given(data=st.data())
@one_folder
def test_damage_at_any_byte_is_found_and_said(
    good: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(good) - 1))
    path = tmp_path / "damaged.mlxstream"
    path.write_bytes(
        good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    )
    found = examine(path)
    assert not found.whole
    assert found.problems
    assert list(render(found))
    assert json.loads(json.dumps(to_json(found)))["result"] == "failed"


@given(data=st.data())
@one_folder
def test_a_file_cut_anywhere_is_not_whole(good: bytes, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "cut.mlxstream"
    path.write_bytes(good[: data.draw(st.integers(1, len(good) - 1))])
    found = examine(path)
    assert "cut off" in found.problems[0]
    assert "NOT WHOLE" in next(iter(render(found)))


@given(junk=st.binary(max_size=300))
@one_folder
def test_no_content_is_a_traceback(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "junk"
    for content in (junk, streamfile.MAGIC + junk, junk + streamfile.END_MAGIC):
        path.write_bytes(content)
        try:
            found = examine(path)
        except Error as error:
            assert "not a stream file" in str(error)  # noqa: PT017
        else:
            assert found.problems
            assert json.dumps(to_json(found))
            assert list(render(found))


def test_the_damaged_image_is_named(good: bytes, tmp_path: Path, run: Callable[..., Run]) -> None:
    path = tmp_path / "vf.mlxstream"
    path.write_bytes(good)
    image = examine(path).records[2]
    at = examine(path).file.data_offset + image.offset + HEADER.size + 5
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    status, out, err = run(str(path))
    assert status == 1
    assert f"problem   {image.describe()}: damaged: the CRC-32 of its 16 header bytes" in out
    assert err.startswith(f"mlxtrace: error: {path}: it is damaged: its checksum does not fit")
    assert "hint: copy it again" in err


def test_a_migration_that_was_killed_is_not_complete(tmp_path: Path) -> None:
    """What a writer leaves that had no chance to clean up has another name, and says so."""
    source, _ = pair()
    writer = streamfile.StreamWriter(
        tmp_path / "vf.mlxstream",
        migrate.describe_source(source, source.flags, framing_of(source, source.flags)),
    )
    writer.write(HEADER.pack(1000, 0, 0) + bytes(400))
    writer._file.flush()
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".partial")
    found = examine(left)
    assert "cut off" in found.problems[0]
    assert any("600 bytes are missing" in problem for problem in found.problems)
    assert found.file.header["device"] == source.name
    writer.discard()


@pytest.mark.parametrize(
    ("where", "value", "problem"),
    [
        (["header", "kernel"], None, "its header does not say 'kernel'"),
        (["header", "framing"], "xml", "the stream format 'xml', which is not known"),
        (["trailer", "phases"], None, "does not name the phases"),
        (["trailer", "phases", 1, "offset_bytes"], 1 << 40, "gives the phases the offsets"),
        (["trailer", "images"], [], "its trailer lists 0 images, the stream has"),
        (["trailer", "images"], None, "does not list the images"),
        (["trailer", "images", 0, "size_bytes"], 1, "its trailer lists image 1 (initial)"),
        (["trailer", "images", 1, "crc32"], 1, "image 2 (middle)"),
    ],
)
def test_what_contradicts_the_stream_is_a_problem(
    good: bytes,
    tmp_path: Path,
    where: list[str | int],
    value: object,
    problem: str,
) -> None:
    path = tmp_path / "vf.mlxstream"
    header, stream, trailer = parts(good, path)
    place: Any = {"header": header, "trailer": trailer}
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    path.write_bytes(build(header, stream, trailer))
    found = examine(path)
    assert found.whole
    assert any(problem in each for each in found.problems), found.problems
    assert "WRONG, though its checksum fits" in next(iter(render(found)))


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (HEADER.pack(4, 0, 99) + b"data", "no driver that does not know the tag may load this"),
        (HEADER.pack(4, 2, 0) + b"data", "unknown flags 0x2"),
        (HEADER.pack(0, 0, 0), "it is empty"),
        (HEADER.pack(4, FLAG_OPTIONAL, 1) + b"size", "holds 8 bytes"),
        (HEADER.pack(4, 0, 0) + b"dat", "1 bytes are missing"),
        (HEADER.pack(4, 0, 0)[:9], "ends inside a record header"),
        (bytes(HEADER.size * RECORDS_MAX), "records or more: this is no migration's"),
    ],
)
def test_wrong_records_are_named(good: bytes, tmp_path: Path, record: bytes, problem: str) -> None:
    path = tmp_path / "vf.mlxstream"
    header, stream, trailer = parts(good, path)
    path.write_bytes(build(header, stream + record, trailer))
    assert any(problem in each for each in examine(path).problems)


def test_an_optional_record_of_an_unknown_tag_is_no_problem(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vf.mlxstream"
    header, stream, trailer = parts(good, path)
    extra = HEADER.pack(4, FLAG_OPTIONAL, 99) + b"data"
    path.write_bytes(build(header, stream + extra, trailer))
    found = examine(path)
    assert found.problems == []
    assert any("0x63" in line and "may be skipped" in line for line in render(found))


def test_a_stream_without_a_final_image_is_a_problem(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vf.mlxstream"
    header, stream, trailer = parts(good, path)
    final = trailer["images"].pop()
    path.write_bytes(build(header, stream[: final["offset_bytes"]], trailer))
    assert "there is no final image: the state is not complete" in examine(path).problems


def test_words_in_a_file_do_a_terminal_no_harm(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vf.mlxstream"
    header, stream, trailer = parts(good, path)
    header |= {"driver": "\x1b[2Jmlx5\n", "ids": {"vendor": "\x07"}}
    path.write_bytes(build(header, stream, trailer))
    assert all(line.isprintable() for line in render(examine(path)))


def test_a_raw_stream_is_one_image(tmp_path: Path) -> None:
    source, _ = pair(flags=STOP_COPY_ONLY)
    path = tmp_path / "vf.mlxstream"
    assert migrate.migrate_to_file(source, path, Options()).error is None
    found = examine(path)
    assert found.problems == []
    assert [(r.kind, r.size_bytes) for r in found.records] == [(Kind.FINAL, found.file.data_bytes)]


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (b"", "not a stream file, but empty", "mlxtrace migrate --to makes them"),
        (b"MLXREC\r\nmore", "but a recording of mlxtrace precopy", "mlxtrace report prints it"),
        (b"\x1f\x8b\x08\0", "but compressed (gzip)", "unpack it first"),
        (b"QEVM\0\0\0\3", "but a migration stream of QEMU", "only QEMU reads it"),
        (b"#!/bin/sh\n", "not a stream file", "mlxtrace migrate --to makes them"),
    ],
)
def test_a_foreign_file_is_named(
    tmp_path: Path, run: Callable[..., Run], content: bytes, message: str, hint: str
) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    status, out, err = run(str(path))
    assert (status, out) == (1, "")
    first, second = err.splitlines()
    assert message in first
    assert second == f"  hint: {hint}"


def test_a_pipe_is_not_waited_for(tmp_path: Path, run: Callable[..., Run]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        status, _, err = run(str(tmp_path / name))
        assert status == 1
        assert "is not a regular file" in err
    status, _, err = run(str(tmp_path / "none"))
    assert (status, "No such file" in err) == (1, True)
