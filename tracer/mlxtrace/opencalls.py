# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that have not returned when tracing ends, as records: what hangs makes none by itself."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtrace import mailbox, records
from mlxtrace.catalogue import NUMBERS
from mlxtrace.flows import own_record
from mlxtrace.records import Kind
from mlxuapi import vfio as uapi

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlxtrace.calls import Calls
    from mlxtrace.flows import Flows


class Call(enum.IntEnum):
    """What a record of an open call is about; the numbers of the probes are no part of it."""

    STATE = 0
    IOCTL = 1
    ESTIMATE = 2
    COMMAND = 3


_CALLS = {
    NUMBERS["set-state"]: Call.STATE,
    NUMBERS["precopy-ioctl"]: Call.IOCTL,
    NUMBERS["data-size"]: Call.ESTIMATE,
    NUMBERS["cmd-exec"]: Call.COMMAND,
}
_DEVICE_IOCTL = NUMBERS["device-ioctl"]
"""Two of these in one, told apart by the first value, the number of the feature."""
_COMM_BYTES = records.COMM_LENGTH - 1


def open_calls(calls: Calls, flows: Flows, since_ns: int) -> Iterator[bytes]:
    """Yield a record of each call that began after ``since_ns`` and is open.

    ``flows`` tells the name of a device that has none yet: the call may be the first that it got.
    """
    for tid, number, call in calls.open(since_ns):
        word = int(call.value[0])
        kind = _CALLS.get(number)
        if number == _DEVICE_IOCTL:
            is_state = word == uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
            kind, word = (Call.STATE if is_state else Call.ESTIMATE), int(call.value[2])
        if kind is None:
            # Within another call, or one that needs no return.
            continue
        yield from flows.introduce(int(call.vdev))
        value = (int(kind), int(call.start_ns), word)
        raw = records.unpack(own_record(Kind.OPEN_CALL, int(call.vdev), value))
        yield records.pack(raw._replace(tid=tid, pid=_process(tid), comm=_comm(tid)))


def describe(kind: int, word: int) -> tuple[str, str] | None:
    """Return what :class:`mlxtrace.events.Open` says of a record: its ``call`` and ``what``.

    None for a kind that is not known.
    """
    if kind == Call.STATE:
        return "state", f"SET_STATE {mailbox.state_name(word)}"
    if kind == Call.IOCTL:
        return "ioctl", "GET_PRECOPY_INFO"
    if kind == Call.ESTIMATE:
        return "estimate", "MIG_DATA_SIZE"
    if kind != Call.COMMAND:
        return None
    opcode, op_mod = word >> 16, word & 0xFFFF
    call = "load" if opcode == mailbox.Opcode.LOAD_VHCA_STATE else "command"
    return call, f"{mailbox.opcode_name(opcode)} {mailbox.op_mod_name(opcode, op_mod)}".strip()


def _process(tid: int) -> int:
    """The process of a thread; the thread itself if that is gone by now."""
    try:
        status = Path(f"/proc/{tid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return tid
    found = [line.split()[1] for line in status.splitlines() if line.startswith("Tgid:")]
    return int(found[0]) if found else tid


def _comm(tid: int) -> bytes:
    try:
        return Path(f"/proc/{tid}/comm").read_bytes().rstrip(b"\n")[:_COMM_BYTES]
    except OSError:
        return b""
