# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of what is in the firmware's mailboxes and in VFIO's state machine.

Sources: include/linux/mlx5/mlx5_ifc.h and driver.h (MLX5_CMD_OP_*, MLX5_CMD_STAT_*) and
include/uapi/linux/vfio.h (enum vfio_device_mig_state) of Linux.
"""

from __future__ import annotations

import enum
import errno as _errno


class Opcode(enum.IntEnum):
    """The migration commands of mlx5 firmware."""

    SUSPEND_VHCA = 0x115
    RESUME_VHCA = 0x116
    QUERY_VHCA_MIGRATION_STATE = 0x117
    SAVE_VHCA_STATE = 0x118
    LOAD_VHCA_STATE = 0x119


INCREMENTAL = 0x80
"""Byte 8 of a SAVE or QUERY mailbox: only what changed since the last SAVE."""
SET_TRACK = 0x40
"""Byte 8 of a SAVE mailbox: track changes from here on."""

STATES = (
    "ERROR",
    "STOP",
    "RUNNING",
    "STOP_COPY",
    "RESUMING",
    "RUNNING_P2P",
    "PRE_COPY",
    "PRE_COPY_P2P",
)

MIGRATING = ("PRE_COPY", "PRE_COPY_P2P", "STOP_COPY", "RESUMING")
"""The states that have a data file."""

STATUS = {
    0x00: "OK",
    0x01: "INT_ERR",
    0x02: "BAD_OP",
    0x03: "BAD_PARAM",
    0x04: "BAD_SYS_STATE",
    0x05: "BAD_RES",
    0x06: "BUSY",
    0x07: "NOT_READY",
    0x08: "LIM",
    0x09: "BAD_RES_STATE",
    0x0A: "IX",
    0x0F: "NO_RES",
    0x30: "BAD_QP_STATE",
    0x40: "BAD_PKT",
    0x50: "BAD_INP_LEN",
    0x51: "BAD_OUTP_LEN",
}

_OPCODE_NAMES = {int(opcode): opcode.name.split("_", 1)[0] for opcode in Opcode}

# SUSPEND takes the initiator down first, RESUME brings the responder up first.
_OP_MODS: dict[int, tuple[str, ...]] = {
    Opcode.SUSPEND_VHCA: ("INITIATOR", "RESPONDER"),
    Opcode.RESUME_VHCA: ("RESPONDER", "INITIATOR"),
}


def state_name(state: int) -> str:
    """Return VFIO's name of a migration state, without its prefix."""
    return STATES[state] if state < len(STATES) else f"state {state}"


def status_name(status: int) -> str:
    """Return mlx5's name of a command's status, without its prefix."""
    return STATUS.get(status, f"status {status:#x}")


def errno_name(errno: int) -> str:
    """Return the name of an errno given as 0 or a positive number: ``EIO``; "" for 0."""
    return "" if errno == 0 else _errno.errorcode.get(errno, f"errno {errno}")


def opcode_name(opcode: int) -> str:
    """Return the command's name without the suffix that they share: ``SUSPEND``."""
    return _OPCODE_NAMES.get(opcode, f"{opcode:#x}")


def op_mod_name(opcode: int, op_mod: int) -> str:
    """Return what ``op_mod`` means for ``opcode``; "" where it means nothing."""
    names = _OP_MODS.get(opcode, ())
    return names[op_mod] if op_mod < len(names) else ""
