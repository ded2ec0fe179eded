# SPDX-License-Identifier: GPL-2.0-or-later
"""The raw record: what the BPF program writes into the ring and a recording keeps unchanged.

The layout is stated here once. The template of the BPF program is rendered from it, and the
decoder unpacks with it, so that neither can drift from the other.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

COMM_LENGTH = 16
NAME_LENGTH = 40
"""Bytes of a device's name: a BDF, or the UUID of a mediated device, and a NUL."""
VALUE_COUNT = 10
TEXT_LENGTH = 8 * VALUE_COUNT
"""Bytes of the text that ``value[]`` can hold, with its NUL."""

_LAYOUT = struct.Struct(f"<QQIIHHi{COMM_LENGTH}s{VALUE_COUNT}Q")
SIZE = _LAYOUT.size
"""Bytes of one record."""

FLAG_UNREADABLE = 1
"""The caller's vfio_precopy_info could not be read, so its sizes are unknown."""
FLAG_ORDERED = 2
"""It happened inside a SET_STATE."""
FLAG_POSITION = 4
"""A READ or WRITE has the file's position in place of the last errno, which is its result."""
FLAG_LAST = 8
"""The last HISTOGRAM record of one histogram."""
FLAG_UNREAD = 16
"""The HEADER is not within one write, and those after it are not followed."""
FLAG_REFUSED = 32
"""The SAVE_DONE is of a command that was never sent: no callback comes."""

BUCKETS = 32
"""Powers of two that a histogram counts; what is larger is in the last."""
HISTOGRAM_COUNTS = VALUE_COUNT - 1
MEASURES = ("size_bytes", "latency_ns")
"""What histograms there are of each direction, by their number in a record."""
DIRECTIONS = ("read", "write", "get_state")
"""Of a histogram, by their number; the last has latencies only, and is none of a stream."""


class Kind(enum.IntEnum):
    """What a record tells. The comment lists ``value[]`` in order; times are boot_ns."""

    DEVICE = 1
    """The device's name, NUL-terminated, in 5 words; which tenant of its address it is, from 1:
    each has totals of its own (0: not told, and they go on)."""
    SET_STATE = 2
    """asked state, start, whether a file was returned; result: errno of the call."""
    STEP = 3
    """old state, asked state, next state, start; an arc begins."""
    IOCTL = 4
    """command, start, initial bytes, dirty bytes."""
    READ = 5
    """Totals: calls, bytes, busy ns, first, last, ENOMSG, 0, EAGAIN, errors, file position."""
    WRITE = 6
    """As READ, of the resuming side."""
    SAVE_ISSUE = 7
    """work, size, mkey, mailbox byte 8, entry to the driver's function, vhca_id, mig_state,
    buffer (0: unknown)."""
    SAVE_DONE = 8
    """work, issue, status, syndrome, actual image size, next required size, images and bytes
    before it that were not read yet; result: errno of its delivery."""
    SAVE_UNSEEN = 9
    """work, issue, stream end then and now, buffer's start and length, whether it has one."""
    COMMAND = 10
    """start, opcode, op_mod, mailbox byte 8, size, status, syndrome, QUERY size, total, vhca_id."""
    LOST = 11
    """Made by the reader of the ring: records lost since tracing began."""
    STACK = 12
    """Addresses of a kernel stack, 0 after the last; never recorded: the reader makes FRAMEs."""
    FRAME = 13
    """Made by the reader of the ring: a function on the stack of the record that follows, text."""
    RESET = 14
    """A reset is done: mig_state, whether there is a saving file, whether a resuming one."""
    SESSION_END = 15
    """The driver takes the data files away: as RESET."""
    DRAINED = 16
    """issue, ready (0: unseen), first read, its start and end in the stream, images and bytes
    behind it; it was read to its end."""
    HISTOGRAM = 17
    """Made by the reader of the ring, totals: number in DIRECTIONS | measure << 8 | first bucket
    << 16, the counts of that bucket and of those after it."""
    BUFFER_ALLOC = 18
    """start, buffer (0: failed), length asked for, bytes allocated; result: errno."""
    BUFFER_FREE = 19
    """buffer, bytes allocated."""
    MKEY = 20
    """start, buffer (before Linux 6.2 the data file), bytes allocated (0: unknown); result: errno
    of creating its memory key."""
    DATA_SIZE = 21
    """start, bytes of a stop-copy; result: errno."""
    HEADER = 22
    """Of a record in a written stream: its place, 24 bytes as 3 words, how many bytes were read."""
    CONTENT = 23
    """Made by the reader of the ring, totals: direction (0 read, 1 write), sum, how many bytes were
    to be in it, how many of them are not."""
    FLOWING = 24
    """Made by the reader of the ring while data flows, totals: direction (0 read, 1 write), calls,
    bytes. READ and WRITE count the same again."""
    OPEN_CALL = 25
    """Made by the reader of the ring at the end: a number of opencalls.Call, start, and of a
    SET_STATE the asked state, of a command opcode << 16 | op_mod; it had not returned."""
    LONGEST = 26
    """Made by the reader of the ring: ns of the longest GET_STATE of this device so far."""


class Raw(NamedTuple):
    """One record, unpacked."""

    boot_ns: int
    vdev: int
    pid: int
    tid: int
    kind: int
    flags: int
    result: int
    comm: bytes
    value: tuple[int, ...]

    @property
    def command_name(self) -> str:
        """The comm of the task on whose CPU the record was made, without control characters."""
        return _shown(self.comm.split(b"\0", 1)[0].decode(errors="replace"))


_PROCESS_OFFSET = struct.calcsize("<QQ")
_KIND_OFFSET = struct.calcsize("<QQII")


def kind_of(data: bytes) -> int:
    """The kind of the record in ``data``, without unpacking it."""
    kind: int = struct.unpack_from("<H", data, _KIND_OFFSET)[0]
    return kind


def process_of(data: bytes) -> int:
    """The PID in the record in ``data``, without unpacking it."""
    pid: int = struct.unpack_from("<I", data, _PROCESS_OFFSET)[0]
    return pid


_KINDS = frozenset(int(kind) for kind in Kind)


def pack(raw: Raw) -> bytes:
    """Return the ``SIZE`` bytes of ``raw``; missing values are 0."""
    value = (*raw.value, *(0,) * (VALUE_COUNT - len(raw.value)))
    return _LAYOUT.pack(*raw[:7], raw.comm, *value)


def unpack(data: bytes) -> Raw:
    """Return the record in ``data``, which holds at least ``SIZE`` bytes."""
    fields = _LAYOUT.unpack_from(data)
    return Raw._make((*fields[:8], fields[8:]))


def unpack_all(data: bytes) -> Iterator[Raw]:
    """Yield the records in ``data``; a rest shorter than a record is left out."""
    whole = len(data) - len(data) % SIZE
    for fields in _LAYOUT.iter_unpack(memoryview(data)[:whole]):
        yield Raw._make((*fields[:8], fields[8:]))


def is_known(raw: Raw) -> bool:
    """Whether ``raw`` is of a kind that this version knows."""
    return raw.kind in _KINDS


def device_name(raw: Raw) -> str:
    """The name that a DEVICE record carries."""
    return _text(raw, NAME_LENGTH)


def device_tenant(raw: Raw) -> int:
    """Which tenant of its address a DEVICE record names; 0 if it does not tell."""
    return raw.value[NAME_LENGTH // 8]


def name_values(name: str, tenant: int = 0) -> tuple[int, ...]:
    """The ``value[]`` of a DEVICE record for ``name``."""
    words = _text_values(name, NAME_LENGTH)[: NAME_LENGTH // 8]
    return (*words, tenant)


def frame(raw: Raw) -> str:
    """The function that a FRAME record names."""
    return _text(raw, TEXT_LENGTH)


def frame_values(function: str) -> tuple[int, ...]:
    """The ``value[]`` of a FRAME record; a longer text is cut."""
    return _text_values(function, TEXT_LENGTH)


def _text(raw: Raw, length: int) -> str:
    text = struct.pack(f"<{VALUE_COUNT}Q", *raw.value)[:length]
    return _shown(text.split(b"\0", 1)[0].decode("ascii", errors="replace"))


def _shown(name: str) -> str:
    # A task may call itself anything: a row must stay a row, and a terminal unharmed.
    return name if name.isprintable() else "".join(c if c.isprintable() else "?" for c in name)


def _text_values(text: str, length: int) -> tuple[int, ...]:
    data = text.encode()[: length - 1].ljust(TEXT_LENGTH, b"\0")
    return struct.unpack(f"<{VALUE_COUNT}Q", data)
