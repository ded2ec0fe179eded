# SPDX-License-Identifier: GPL-2.0-or-later
"""Stream files: what is written is what is read, and nothing damaged is ever read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genbindings.errors import Error
from mlxtrace import streamfile

HEADER = {"driver": "mlx5_vfio_pci", "framing": "records"}
TRAILER = {"phases": [{"state": "STOP_COPY", "offset_bytes": 3}], "images": []}

shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, chunks: list[bytes]) -> None:
    with streamfile.StreamWriter(path, HEADER) as writer:
        for chunk in chunks:
            writer.write(chunk)
        writer.commit(TRAILER)


@given(st.lists(st.binary(max_size=100), max_size=5), st.integers(1, 64))
@shared_folder
def test_round_trip(tmp_path: Path, chunks: list[bytes], read_size: int) -> None:
    path = tmp_path / "a.mlxstream"
    write(path, chunks)
    file = streamfile.load(path)
    assert (file.header, file.trailer) == (HEADER, TRAILER)
    assert b"".join(file.chunks(read_size)) == b"".join(chunks)
    assert file.data_bytes == sum(map(len, chunks))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "good.mlxstream"
    write(path, [bytes(range(256)), b"end"])
    return path.read_bytes()


@given(data=st.data())
@shared_folder
def test_a_file_cut_anywhere_is_refused(good: bytes, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "cut.mlxstream"
    path.write_bytes(good[: data.draw(st.integers(0, len(good) - 1))])
    with pytest.raises(Error, match=r"cut off|not a stream file"):
        streamfile.load(path)


@given(data=st.data())
@shared_folder
def test_a_file_damaged_anywhere_is_refused(
    good: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = data.draw(st.integers(1, 255))
    path = tmp_path / "damaged.mlxstream"
    path.write_bytes(good[:at] + bytes([good[at] ^ flipped]) + good[at + 1 :])
    with pytest.raises(Error):
        streamfile.load(path)


@pytest.mark.parametrize("extra", [b"\0", b"x" * 1000])
def test_a_file_with_a_tail_is_refused(good: bytes, tmp_path: Path, extra: bytes) -> None:
    path = tmp_path / "long.mlxstream"
    path.write_bytes(good + extra)
    with pytest.raises(Error, match="cut off"):
        streamfile.load(path)


def test_two_files_in_one_are_refused(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "twice.mlxstream"
    path.write_bytes(good + good)
    with pytest.raises(Error, match="damaged"):
        streamfile.load(path)


def test_another_version_is_named(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "newer.mlxstream"
    path.write_bytes(good[:8] + (2).to_bytes(4, "little") + good[12:])
    with pytest.raises(Error, match="format version 2, this mlxtrace reads version 1"):
        streamfile.load(path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "not a stream file"), (b"#!/bin/sh\n" * 9, "not a stream file")]
)
def test_something_else_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(Error, match=message):
        streamfile.load(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"cannot read .*none: No such file"):
        streamfile.load(tmp_path / "none")


def test_nothing_is_left_without_commit(tmp_path: Path) -> None:
    path = tmp_path / "a.mlxstream"
    path.write_bytes(b"older")
    with streamfile.StreamWriter(path, HEADER) as writer:
        writer.write(b"data")
        assert len(list(tmp_path.iterdir())) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mlxstream"]
    assert path.read_bytes() == b"older"


def test_commit_replaces_an_older_file_and_honours_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "a.mlxstream"
    path.write_bytes(b"older")
    write(path, [b"newer"])
    assert b"".join(streamfile.load(path).chunks()) == b"newer"
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("name", ["none/a.mlxstream", "."])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(Error, match=str(tmp_path)):
        streamfile.StreamWriter(tmp_path / name, HEADER)


def test_a_special_file_is_not_replaced() -> None:
    with pytest.raises(Error, match="/dev/null is not a regular file"):
        streamfile.StreamWriter(Path("/dev/null"), HEADER)


def test_no_space_is_one_error(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with streamfile.StreamWriter(tmp_path / "x.mlxstream", HEADER) as writer:
        writer._file.close()
        writer._file = full.open("wb", buffering=0)
        with pytest.raises(Error, match=r"cannot write .*x.mlxstream: No space left"):
            writer.write(b"data")
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_contradict_are_refused(tmp_path: Path) -> None:
    """A file whose checksum fits, but that was made wrong."""
    text = json.dumps(HEADER).encode()
    body = streamfile.PREFIX.pack(streamfile.MAGIC, 1, len(text)) + text + b"data" + b"{}"
    body += streamfile.LENGTHS.pack(1 << 60, 2)
    path = tmp_path / "wrong"
    path.write_bytes(body + hashlib.sha256(body).digest() + streamfile.END_MAGIC)
    with pytest.raises(Error, match="contradict"):
        streamfile.load(path)


@pytest.mark.parametrize("value", [b"[]", b"nonsense", b"\xff"])
def test_a_description_that_is_no_object_is_refused(tmp_path: Path, value: Any) -> None:
    body = streamfile.PREFIX.pack(streamfile.MAGIC, 1, len(value)) + value + b"{}"
    body += streamfile.LENGTHS.pack(0, 2)
    path = tmp_path / "wrong"
    path.write_bytes(body + hashlib.sha256(body).digest() + streamfile.END_MAGIC)
    with pytest.raises(Error, match="description"):
        streamfile.load(path)
