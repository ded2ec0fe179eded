# SPDX-License-Identifier: GPL-2.0-or-later
"""The stream parser: any stream, cut into any parts, gives the same records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genbindings.errors import Error
from mlxtrace.stream import FLAG_OPTIONAL, HEADER, Framing, Kind, Piece, StreamParser, Tag


def record(payload: bytes, tag: int = Tag.FW_DATA, flags: int = 0) -> bytes:
    return HEADER.pack(len(payload), flags, tag) + payload


STOP_COPY_SIZE = record((1 << 40 | 7).to_bytes(8, "little"), Tag.STOP_COPY_SIZE, FLAG_OPTIONAL)

records_of_a_stream = st.lists(
    st.tuples(st.binary(max_size=40), st.sampled_from([0, 1, 2, 99]), st.integers(0, 1)),
    max_size=8,
)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Return ``data`` in parts of the sizes given, over and over."""
    parts, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        parts.append(data[at : at + size])
        at, turn = at + size, turn + 1
    return parts


def feed(parser: StreamParser, parts: list[bytes]) -> list[Piece]:
    return [piece for part in parts for piece in parser.feed(part)]


@given(records_of_a_stream, st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_every_segmentation_gives_the_same_records(
    records: list[tuple[bytes, int, int]], sizes: list[int]
) -> None:
    stream = b"".join(record(*each) for each in records)
    parser = StreamParser(Framing.RECORDS)
    pieces = feed(parser, cut(stream, sizes))
    parser.finish()

    assert b"".join(piece.data for piece in pieces) == stream
    assert [piece.offset for piece in pieces] == [
        sum(len(before.data) for before in pieces[:i]) for i in range(len(pieces))
    ]
    found = [(each.size_bytes, each.tag, each.flags) for each in parser.records]
    assert found == [(len(payload), tag, flags) for payload, tag, flags in records]
    assert sum(piece.complete for piece in pieces) == len(records)
    # No piece goes beyond the record that it begins in.
    ends = [each.offset + HEADER.size + each.size_bytes for each in parser.records]
    for piece in pieces:
        after = piece.offset + len(piece.data)
        assert not any(piece.offset < end < after for end in ends)
        assert piece.complete == (after in ends and piece.record is not None)


@given(records_of_a_stream.filter(bool), st.data())
def test_a_stream_cut_short_is_noticed(
    records: list[tuple[bytes, int, int]], data: st.DataObject
) -> None:
    stream = b"".join(record(*each) for each in records)
    length = data.draw(st.integers(0, len(stream)))
    parser = StreamParser(Framing.RECORDS)
    feed(parser, [stream[:length]])
    boundaries = {0}
    for payload, _, _ in records:
        boundaries.add(max(boundaries) + HEADER.size + len(payload))
    assert parser.at_boundary == (length in boundaries)
    if length in boundaries:
        parser.finish()
    else:
        with pytest.raises(Error, match="the stream ends inside"):
            parser.finish()


def test_images_are_named_by_phase_and_place() -> None:
    parser = StreamParser(Framing.RECORDS)
    precopy = [STOP_COPY_SIZE, record(b"i" * 100), record(b"m" * 10), record(b"unread" * 2)]
    feed(parser, precopy[:3])
    # The last middle image is still unread when the device stops: it precedes the final data.
    parser.final_from = parser.offset + len(precopy[3])
    feed(parser, [precopy[3], record(b"final 1"), record(b"final 2")])
    parser.finish()

    kinds = [image.kind for image in parser.images]
    assert kinds == [Kind.INITIAL, Kind.MIDDLE, Kind.MIDDLE, Kind.FINAL, Kind.FINAL]
    assert [image.index for image in parser.images] == [1, 2, 3, 4, 5]
    assert [image.size_bytes for image in parser.images] == [100, 10, 12, 7, 7]
    assert parser.stop_copy_bytes == 1 << 40 | 7
    assert parser.images[1].describe() == "image 2 (middle), stream offset 140, 10 bytes"


def test_an_announced_size_16_bytes_short_does_not_move_the_final_image() -> None:
    """Linux 6.2 leaves the record header out of what it announces."""
    parser = StreamParser(Framing.RECORDS)
    unread = record(b"x" * 32)
    parser.final_from = len(unread) - HEADER.size
    feed(parser, [unread, record(b"y")])
    assert [image.kind for image in parser.images] == [Kind.INITIAL, Kind.FINAL]


def test_without_pre_copy_the_only_image_is_final() -> None:
    parser = StreamParser(Framing.RECORDS, final_from=0)
    feed(parser, [STOP_COPY_SIZE + record(b"all")])
    assert [image.kind for image in parser.images] == [Kind.FINAL]


def test_where_names_what_is_being_read() -> None:
    parser = StreamParser(Framing.RECORDS)
    assert parser.where() == "image 1 (initial), stream offset 0"
    feed(parser, [record(b"abc") + HEADER.pack(1000, 0, 0)[:5]])
    assert parser.where() == "image 2 (middle), stream offset 19"
    assert parser.current is None
    feed(parser, [HEADER.pack(1000, 0, 0)[5:]])
    assert parser.where() == "image 2 (middle), stream offset 19, 1000 bytes"
    with pytest.raises(Error, match=r"image 2 \(middle\).*1000 bytes are missing"):
        parser.finish()


def test_an_unknown_record_is_passed_on_and_described() -> None:
    parser = StreamParser(Framing.RECORDS)
    feed(parser, [record(b"abcd", tag=77)])
    assert parser.images == []
    assert parser.records[0].describe() == "record with tag 77, stream offset 0, 4 bytes"


@given(st.binary(min_size=1, max_size=200), st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_a_raw_stream_is_one_image_between_two_ends(data: bytes, sizes: list[int]) -> None:
    parser = StreamParser(Framing.RAW)
    pieces = feed(parser, cut(data, sizes))
    assert b"".join(piece.data for piece in pieces) == data
    assert parser.at_boundary
    parser.end_part()
    parser.end_part()
    parser.final_from = parser.offset
    feed(parser, [b"rest"])
    parser.finish()
    assert [(image.kind, image.offset, image.size_bytes) for image in parser.images] == [
        (Kind.INITIAL, 0, len(data)),
        (Kind.FINAL, len(data), 4),
    ]
