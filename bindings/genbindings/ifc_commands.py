# SPDX-License-Identifier: GPL-2.0-or-later
"""Which structs are the input and output of a firmware command: opcode to layouts.

``MLX5_CMD_OP_SAVE_VHCA_STATE`` means ``save_vhca_state_in`` and ``save_vhca_state_out``. Where the
names do not follow that rule they are listed here, and checked against the header.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.ifc import short_name

if TYPE_CHECKING:
    from genbindings.model import Header

# The second prefix is the header's own slip (MLX5_CMD_OPCODE_QUERY_VUID).
_PREFIXES = ("MLX5_CMD_OPCODE_", "MLX5_CMD_OP_")
# Bounds and modifiers that share the opcodes' prefix.
_NOT_OPCODES = ("MAX", "GENERAL_START", "GENERAL_END")
_MODIFIER = "MOD_"

_LAYOUTS = {
    "2ERR_QP": "qp_2err",
    "2RST_QP": "qp_2rst",
    "ACCESS_REG": "access_register",
    "ARM_DCT_FOR_KEY_VIOLATION": "arm_dct",
    "DELETE_FLOW_TABLE_ENTRY": "delete_fte",
    "QUERY_FLOW_TABLE_ENTRY": "query_fte",
    "QUERY_SF_PARTITION": "query_sf_partitions",
    "SET_FLOW_TABLE_ENTRY": "set_fte",
    "SQD_RTS_QP": "sqd2rts_qp",
}
_GENERAL_OBJECT = "_GENERAL_OBJECT"
# Inputs that an opcode has besides the one named after it.
_VARIANTS = {
    "QUERY_HCA_CAP": "query_other_hca_cap_in",
    "SET_HCA_CAP": "modify_other_hca_cap_in",
}


@dataclass(frozen=True, slots=True)
class Command:
    """A firmware command. ``input`` and ``output`` are short names, ``""`` for no layout."""

    enumerator: str
    opcode: int
    input: str
    output: str
    variant: str

    @property
    def name(self) -> str:
        """The command's name, such as ``SAVE_VHCA_STATE``."""
        return _suffix(self.enumerator)


@dataclass(frozen=True, slots=True)
class Commands:
    """The command table of a header, and what it leaves unexplained.

    ``without_layout`` are opcodes whose structs the header does not have; ``without_opcode`` are
    input structs (short names) that no opcode leads to.
    """

    table: tuple[Command, ...]
    without_layout: tuple[str, ...]
    without_opcode: tuple[str, ...]


def commands(header: Header) -> Commands:
    """Return the command table of ``header``; empty for one without opcodes."""
    shorts = {short_name(struct.name) for struct in header.own_structs()}
    table = [
        _command(name, value, shorts)
        for enum in header.enums
        for name, value in enum.values.items()
        if _is_opcode(name)
    ]
    reached = {command.input for command in table} | {command.variant for command in table}
    inputs = [
        short_name(struct.name)
        for struct in header.own_structs()
        if struct.name.endswith("_in_bits") and struct.fields and struct.fields[0].name == "opcode"
    ]
    return Commands(
        tuple(table),
        tuple(command.enumerator for command in table if not command.input),
        # `cmd_in` is what all commands begin with.
        tuple(name for name in inputs if name not in reached and name != "cmd_in"),
    )


def is_command_input(name: str) -> bool:
    """Whether the struct with this short name holds an opcode in its field ``opcode``."""
    return name.endswith("_in") or name == "general_obj_in_cmd_hdr"


def opcode_enumerators(header: Header) -> dict[str, int]:
    """Return the enumerators that are opcodes, with their values."""
    return {
        name: value
        for enum in header.enums
        for name, value in enum.values.items()
        if _is_opcode(name)
    }


def _command(enumerator: str, opcode: int, shorts: set[str]) -> Command:
    suffix = _suffix(enumerator)
    if suffix.endswith(_GENERAL_OBJECT):
        names = ("general_obj_in_cmd_hdr", "general_obj_out_cmd_hdr")
    else:
        stem = _LAYOUTS.get(suffix, suffix.lower())
        names = (f"{stem}_in", f"{stem}_out")
    found = [name if name in shorts else "" for name in names]
    variant = _VARIANTS.get(suffix, "")
    return Command(enumerator, opcode, found[0], found[1], variant if variant in shorts else "")


def _is_opcode(name: str) -> bool:
    suffix = _suffix(name)
    return suffix != name and suffix not in _NOT_OPCODES and not suffix.startswith(_MODIFIER)


def _suffix(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name
