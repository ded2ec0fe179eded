# SPDX-License-Identifier: GPL-2.0-or-later
"""The state machine of the migration uAPI (include/uapi/linux/vfio.h), as a user sees it."""

from __future__ import annotations

from mlxtrace.vfio import MigrationFlags, State

R, RP, S, SC = State.RUNNING, State.RUNNING_P2P, State.STOP, State.STOP_COPY
RS, P, PP = State.RESUMING, State.PRE_COPY, State.PRE_COPY_P2P

STATES = (R, RP, S, SC, RS, P, PP)
"""Those that a device can be asked for."""

# A row for each start, a column for each aim, in the order of STATES: the states that are gone
# through when all optional ones are supported; None where there is no way.
_PATHS: dict[State, tuple[tuple[State, ...] | None, ...]] = {
    R: ((), (RP,), (RP, S), (RP, S, SC), (RP, S, RS), (P,), (RP, PP)),
    RP: ((R,), (), (S,), (S, SC), (S, RS), (R, P), (PP,)),
    S: ((RP, R), (RP,), (), (SC,), (RS,), (RP, R, P), (RP, PP)),
    SC: ((S, RP, R), (S, RP), (S,), (), (S, RS), None, None),
    RS: ((S, RP, R), (S, RP), (S,), (S, SC), (), (S, RP, R, P), (S, RP, PP)),
    P: ((R,), (R, RP), (R, RP, S), (PP, SC), (R, RP, S, RS), (), (PP,)),
    PP: ((RP, R), (RP,), (RP, S), (SC,), (RP, S, RS), (P,), ()),
}
_SAVING = (P, PP, SC)
# What a state needs besides STOP_COPY.
_OPTIONAL = {
    RP: MigrationFlags.P2P,
    P: MigrationFlags.PRE_COPY,
    PP: MigrationFlags.P2P | MigrationFlags.PRE_COPY,
}


def supported(state: State, flags: MigrationFlags) -> bool:
    """Tell whether a device with ``flags`` has ``state``."""
    needed = _OPTIONAL.get(state, MigrationFlags(0))
    return needed & flags == needed


def states(flags: MigrationFlags) -> tuple[State, ...]:
    """Return the states that a device with ``flags`` can be asked for."""
    return tuple(state for state in STATES if supported(state, flags))


def path(start: State, aim: State, flags: MigrationFlags) -> tuple[State, ...] | None:
    """Return the states from ``start`` (left out) to ``aim``; ``None`` where EINVAL is the answer.

    Optional states that the device lacks are skipped.
    """
    way = _PATHS[start][STATES.index(aim)]
    if way is None or not supported(aim, flags):
        return None
    return tuple(state for state in way if supported(state, flags))


def opens_file(start: State, aim: State, flags: MigrationFlags) -> bool:
    """Tell whether going from ``start`` to ``aim`` returns a data file: if its last arc does."""
    way = path(start, aim, flags)
    if not way:
        return False
    before = ((start, *way))[-2]
    return aim is RS or (aim in _SAVING and before not in _SAVING)


def has_session(state: State) -> bool:
    """Tell whether a device in ``state`` has a data transfer session."""
    return state in (*_SAVING, RS)
