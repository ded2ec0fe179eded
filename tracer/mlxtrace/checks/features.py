# SPDX-License-Identifier: GPL-2.0-or-later
"""C24 and C25 for VFIO_DEVICE_FEATURE: numbers, flags, sizes and pointers that are wrong."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

from mlxtrace.checks import fsm, raw
from mlxtrace.checks.core import Level, check
from mlxtrace.checks.transfer import open_files
from mlxtrace.vfio import State
from mlxuapi import vfio as uapi

if TYPE_CHECKING:
    from mlxtrace.checks.context import Context
    from mlxtrace.checks.subject import Subject

GET = uapi.VFIO_DEVICE_FEATURE_GET
SET = uapi.VFIO_DEVICE_FEATURE_SET
PROBE = uapi.VFIO_DEVICE_FEATURE_PROBE
MIGRATION = uapi.VFIO_DEVICE_FEATURE_MIGRATION
STATE = uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
UNKNOWN = (0x7FFF, uapi.VFIO_DEVICE_FEATURE_MASK)
# VFIO's last number, and one of nobody's.
UNKNOWN_REQUESTS = (0x3BFF, 0xDEAD)
# No kernel gives these a meaning.
UNKNOWN_FLAGS = (1 << 19, 1 << 31)
HEAD = ctypes.sizeof(uapi.vfio_device_feature)
WHOLE = HEAD + ctypes.sizeof(uapi.vfio_device_feature_mig_state)
"""Bytes of a question about a state; one about the migration flags is as long."""
LARGE = 4096
POISON = 0x5A


def _payload(state: State) -> bytes:
    wanted = uapi.vfio_device_feature_mig_state()
    wanted.device_state, wanted.data_fd = state, -1
    return bytes(wanted)


def _name(flags: int) -> str:
    names = [name for name, flag in (("PROBE", PROBE), ("GET", GET), ("SET", SET)) if flags & flag]
    rest = flags & ~(PROBE | GET | SET | uapi.VFIO_DEVICE_FEATURE_MASK)
    words = [*names, *([hex(rest)] if rest else [])] or ["no operation"]
    return f"{'|'.join(words)} of feature {flags & uapi.VFIO_DEVICE_FEATURE_MASK}"


def _expect_still(context: Context, subject: Subject, state: State) -> None:
    """Check that nothing that was refused has changed the state."""
    now = subject.state()
    context.expect(now is state, "the state after all that", now.name, state.name)


@check(
    "C24.feature",
    Level.MUST,
    "A feature that the device does not have is refused with ENOTTY, whatever is asked of it "
    "(a mediated device may say EINVAL).",
)
def unknown_feature(context: Context) -> None:
    subject = context.source
    # Before Linux 6.18 VFIO says so for a driver that has no features of its own.
    wanted = (errno.ENOTTY,) if ":" in subject.name else (errno.ENOTTY, errno.EINVAL)
    for index in UNKNOWN:
        for flags in (GET, SET, PROBE | GET, PROBE | SET):
            answer = raw.feature(subject.fileno(), flags | index, LARGE)
            context.expect_errno(answer.errno, wanted, _name(flags | index))
    _expect_still(context, subject, State.RUNNING)


@check(
    "C24.device",
    Level.MUST,
    "An ioctl that the device does not have is refused with ENOTTY.",
)
def unknown_device_ioctl(context: Context) -> None:
    subject = context.source
    for request in UNKNOWN_REQUESTS:
        with raw.page(bytes(LARGE)) as address:
            number = raw.ioctl(subject.fileno(), request, address)
        context.expect_errno(number, (errno.ENOTTY,), f"ioctl {request:#x} of the device")
    _expect_still(context, subject, State.RUNNING)


@check(
    "C24.flags",
    Level.MUST,
    "VFIO_DEVICE_FEATURE refuses (EINVAL) flags that have no meaning, GET and SET at once, no "
    "operation at all, and one that the feature does not have, probed or not.",
)
def wrong_flags(context: Context) -> None:
    subject = context.source
    wrong = [
        GET | SET | STATE,
        STATE,
        GET | SET | MIGRATION,
        MIGRATION,
        SET | MIGRATION,
        PROBE | SET | MIGRATION,
        PROBE | GET | SET | MIGRATION,
        *(GET | flag | STATE for flag in UNKNOWN_FLAGS),
        *(SET | flag | STATE for flag in UNKNOWN_FLAGS),
        *(PROBE | GET | flag | STATE for flag in UNKNOWN_FLAGS),
    ]
    for flags in wrong:
        answer = raw.feature(subject.fileno(), flags, WHOLE, _payload(State.STOP))
        context.expect_errno(answer.errno, (errno.EINVAL,), _name(flags))
    _expect_still(context, subject, State.RUNNING)


@check(
    "C24.probe",
    Level.MUST,
    "Probing a feature with the operations that it has succeeds, needs no room for data and does "
    "nothing.",
)
def probing(context: Context) -> None:
    subject = context.source
    for flags in (GET | MIGRATION, GET | STATE, SET | STATE, GET | SET | STATE):
        answer = raw.feature(subject.fileno(), PROBE | flags, HEAD, _payload(State.STOP))
        context.expect_errno(answer.errno, (0,), _name(PROBE | flags))
        untouched = answer.data.startswith(_payload(State.STOP))
        context.expect(untouched, "the data after it", answer.data[:8].hex(), "as it was")
    _expect_still(context, subject, State.RUNNING)


@check(
    "C24.argsz",
    Level.MUST,
    "VFIO_DEVICE_FEATURE refuses an argsz that is too small (EINVAL) and does nothing then; it "
    "takes a larger one, and writes nothing beyond the feature's data.",
)
def feature_argsz(context: Context) -> None:
    subject = context.source
    fd = subject.fileno()
    for argsz in (0, HEAD - 1, HEAD, WHOLE - 1):
        for flags in (GET | MIGRATION, GET | STATE, SET | STATE):
            answer = raw.feature(fd, flags, argsz, _payload(State.STOP))
            context.expect_errno(
                answer.errno, (errno.EINVAL,), f"{_name(flags)} with argsz {argsz}"
            )
    _expect_still(context, subject, State.RUNNING)
    for argsz in (WHOLE, WHOLE + 1, LARGE):
        for flags in (GET | MIGRATION, GET | STATE, SET | STATE):
            answer = raw.feature(fd, flags, argsz, _payload(State.STOP))
            context.expect_errno(answer.errno, (0,), f"{_name(flags)} with argsz {argsz}")
            beyond = answer.data[WHOLE - HEAD :].strip(bytes([POISON]))
            context.expect(not beyond, "bytes after its data", beyond.hex(), "unchanged")
        _expect_still(context, subject, State.STOP)
        subject.back()


@check(
    "C25.feature",
    Level.MUST,
    "VFIO_DEVICE_FEATURE answers a bad pointer with EFAULT, and does nothing if the request could "
    "not be read.",
)
def bad_feature_pointers(context: Context) -> None:
    subject = context.source
    fd = subject.fileno()
    for flags in (GET | MIGRATION, GET | STATE, SET | STATE):
        number = raw.ioctl(fd, uapi.VFIO_DEVICE_FEATURE, 0)
        context.expect_errno(number, (errno.EFAULT,), f"{_name(flags)} with NULL")
        for inside in (4, HEAD, WHOLE - 1):
            number = _ask_at_edge(fd, flags, State.STOP, inside)
            what = f"{_name(flags)}, of which {inside} bytes can be accessed"
            context.expect_errno(number, (errno.EFAULT,), what)
    for flags in (GET | MIGRATION, GET | STATE):
        with raw.page(_request(flags, State.STOP), writable=False) as address:
            number = raw.ioctl(fd, uapi.VFIO_DEVICE_FEATURE, address)
        context.expect_errno(number, (errno.EFAULT,), f"{_name(flags)} that cannot be written")
    _expect_still(context, subject, State.RUNNING)


@check(
    "C25.state",
    Level.MUST,
    "When the answer to a request for a state cannot be written the call fails with EFAULT: the "
    "state is one on the way, no data file stays open, and the device goes on working.",
)
def unwritable_state(context: Context) -> None:
    subject = context.source
    for aim in fsm.states(subject.flags):
        if aim is State.RUNNING:
            continue
        files = open_files()
        with raw.page(_request(SET | STATE, aim), writable=False) as address:
            number = raw.ioctl(subject.fileno(), uapi.VFIO_DEVICE_FEATURE, address)
        did = f"to {aim.name}, the answer cannot be written"
        context.expect_errno(number, (errno.EFAULT,), did)
        now, way = subject.state(), fsm.path(State.RUNNING, aim, subject.flags) or ()
        names = ", ".join(each.name for each in (State.RUNNING, *way))
        context.expect(now in (State.RUNNING, *way), "the state then", now.name, f"one of {names}")
        left = open_files()
        context.expect(left == files, "files open in this process", str(left), str(files))
        if now is State.RESUMING:
            # It has nothing to go on with.
            subject.back()
        else:
            subject.run_again(f"after the answer to {aim.name} could not be written")
        fd = subject.enter(aim)
        wanted = fsm.has_session(aim)
        context.expect((fd >= 0) is wanted, f"to {aim.name} again", f"descriptor {fd}", "as ever")
        subject.back()


def _request(flags: int, aim: State) -> bytes:
    request = uapi.vfio_device_feature()
    request.argsz, request.flags = WHOLE, flags
    return bytes(request)[:HEAD] + _payload(aim)


def _ask_at_edge(fd: int, flags: int, aim: State, inside: int) -> int:
    """Issue a request whose first ``inside`` bytes only can be accessed; return the errno."""
    with raw.page(_request(flags, aim), offset=os.sysconf("SC_PAGESIZE") - inside) as address:
        return raw.ioctl(fd, uapi.VFIO_DEVICE_FEATURE, address)
