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

_LAYOUT = struct.Struct(f"<QQIIHHi{COMM_LENGTH}s{VALUE_COUNT}Q")
SIZE = _LAYOUT.size
"""Bytes of one record."""

FLAG_UNREADABLE = 1
"""The caller's vfio_precopy_info could not be read, so its sizes are unknown."""


class Kind(enum.IntEnum):
    """What a record tells. The comment lists ``value[]`` in order; times are boot_ns."""

    DEVICE = 1
    """value: the device's name, NUL-terminated."""
    SET_STATE = 2
    """asked state, start, whether a file was returned; result: errno of the call."""
    STEP = 3
    """old state, asked state, next state, start; an arc begins."""
    IOCTL = 4
    """command, start, initial bytes, dirty bytes."""
    READ = 5
    """Totals: calls, bytes, busy ns, first, last, ENOMSG, 0, EAGAIN, errors, last errno."""
    WRITE = 6
    """As READ, of the resuming side."""
    SAVE_ISSUE = 7
    """work, size, mkey, mailbox byte 8, entry to the driver's function, vhca_id, mig_state."""
    SAVE_DONE = 8
    """work, issue, status, syndrome, actual image size, next required size."""
    SAVE_UNSEEN = 9
    """work, issue, stream end then and now, buffer's start and length, whether it has one."""
    COMMAND = 10
    """start, opcode, op_mod, mailbox byte 8, size, status, syndrome, QUERY size, total, vhca_id."""
    LOST = 11
    """Made by the reader of the ring: records lost since tracing began."""


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
    text = struct.pack(f"<{VALUE_COUNT}Q", *raw.value)[:NAME_LENGTH]
    return _shown(text.split(b"\0", 1)[0].decode("ascii", errors="replace"))


def _shown(name: str) -> str:
    # A task may call itself anything: a row must stay a row, and a terminal unharmed.
    return name if name.isprintable() else "".join(c if c.isprintable() else "?" for c in name)


def name_values(name: str) -> tuple[int, ...]:
    """The ``value[]`` of a DEVICE record for ``name``."""
    text = name.encode()[: NAME_LENGTH - 1].ljust(8 * VALUE_COUNT, b"\0")
    return struct.unpack(f"<{VALUE_COUNT}Q", text)
