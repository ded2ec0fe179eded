# SPDX-License-Identifier: GPL-2.0-or-later
"""C3, C20, C23 to C25, C36, C46: the calls themselves, and what they make of wrong arguments."""

from __future__ import annotations

import errno
import os
import platform
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtrace.checks import compat, fsm, raw
from mlxtrace.checks.child import Child, ChildDiedError
from mlxtrace.checks.core import (
    DeviationError,
    Level,
    NoAnswerError,
    NotOfferedError,
    check,
)
from mlxtrace.checks.limits import limits
from mlxtrace.checks.session import PRE_COPY
from mlxtrace.checks.transfer import read_all, read_part
from mlxtrace.devices import MLX5_DRIVER
from mlxtrace.vfio import State, VfioError
from mlxuapi import vfio as uapi

if TYPE_CHECKING:
    from mlxtrace.checks.context import Context

LARGE = 4096
# Of Linux 7.1's vfio.h.
PRECOPY_INFO_V2 = 12
REINIT = 1 << 0
# An ioctl of VFIO that no data file has, and one that nothing has.
UNKNOWN = (uapi.VFIO_DEVICE_RESET, 0xDEAD)


@check(
    "C3",
    Level.MUST,
    "A driver that offers PRE_COPY has VFIO_MIG_GET_PRECOPY_INFO.",
    needs=PRE_COPY,
)
def info_works(context: Context) -> None:
    subject = context.source
    for state in fsm.states(subject.flags):
        if state in (State.PRE_COPY, State.PRE_COPY_P2P):
            answer = raw.precopy_info(subject.go(state))
            context.expect(answer.errno == 0, f"INFO in {state.name}", str(answer), "success")
            subject.back()


@check(
    "C20",
    Level.SHOULD,
    "VFIO_MIG_GET_PRECOPY_INFO leaves flags alone that the caller has set to 0.",
    needs=PRE_COPY,
)
def info_flags(context: Context) -> None:
    answer = raw.precopy_info(context.source.go(State.PRE_COPY))
    context.expect(
        answer.errno == 0 and answer.info.flags == 0,
        "INFO with flags 0",
        f"{answer}, flags {answer.info.flags:#x}",
        "flags 0",
    )


@check(
    "C20.optin",
    Level.MUST,
    "Once a user has asked for it (VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2), the flags of "
    "VFIO_MIG_GET_PRECOPY_INFO are the driver's: 0, or VFIO_PRECOPY_INFO_REINIT.",
    needs=PRE_COPY,
)
def flags_are_output(context: Context) -> None:
    subject = context.source
    if not subject.device.offers(PRECOPY_INFO_V2, uapi.VFIO_DEVICE_FEATURE_SET):
        raise NotOfferedError("the kernel does not have the feature (Linux 7.1 has)")
    subject.device.set_feature(PRECOPY_INFO_V2)
    fd = subject.go(State.PRE_COPY)
    for given in (0, 0xFFFFFFFE):
        answer = raw.precopy_info(fd, flags=given)
        context.expect(
            answer.errno == 0 and answer.info.flags in (0, REINIT),
            f"INFO with flags {given:#x}",
            f"{answer}, flags {answer.info.flags:#x}",
            f"0 or {REINIT}",
        )


@check(
    "C23",
    Level.MUST,
    "VFIO_MIG_GET_PRECOPY_INFO refuses an argsz below the structure's size (EINVAL), takes a "
    "larger one, and writes nothing beyond the structure.",
    needs=PRE_COPY,
)
def info_argsz(context: Context) -> None:
    fd = context.source.go(State.PRE_COPY)
    for argsz, wanted in (
        (0, errno.EINVAL),
        (raw.INFO_BYTES - 1, errno.EINVAL),
        (raw.INFO_BYTES, 0),
        (LARGE, 0),
    ):
        answer = raw.precopy_info(fd, argsz)
        context.expect_errno(answer.errno, (wanted,), f"INFO with argsz {argsz}")
        touched = answer.rest.strip(b"\x5a")
        context.expect(not touched, "bytes after the structure", touched.hex(), "unchanged")


@check(
    "C24",
    Level.MUST,
    "An ioctl that a data file does not have is refused with ENOTTY.",
)
def unknown_ioctl(context: Context) -> None:
    subject = context.source
    for state in fsm.states(subject.flags):
        fd = subject.enter(state)
        if fd < 0:
            continue
        for request in UNKNOWN:
            with raw.page(bytes(LARGE)) as address:
                number = raw.ioctl(fd, request, address)
            context.expect_errno(number, (errno.ENOTTY,), f"{state.name}: ioctl {request:#x}")
        subject.back()


@check(
    "C24.compat",
    Level.MUST,
    "VFIO_MIG_GET_PRECOPY_INFO and VFIO_DEVICE_FEATURE work for a 32-bit program, and refuse what "
    "they refuse to others.",
    needs=PRE_COPY,
)
def compat_ioctl(context: Context) -> None:
    if platform.machine() != "x86_64":
        raise NotOfferedError("32-bit calls are made on x86-64 only")
    subject = context.source
    fd = subject.go(State.PRE_COPY)
    native = raw.precopy_info(fd).info
    child = Child(lambda: compat.ask(subject.fileno(), fd), keep=[subject.fileno(), fd])
    try:
        answer = child.result(limits.answer_s)
    except TimeoutError as error:
        child.kill()
        raise NoAnswerError(f"32-bit calls: {error}") from None
    except ChildDiedError as error:
        # That is what the instruction gives where it leads nowhere; anything else is harm.
        if error.signal == signal.SIGSEGV:
            raise NotOfferedError(f"the kernel has no 32-bit calls: {error}") from None
        raise DeviationError(f"32-bit calls: {error}; the rule wants answers") from None
    if "refused" in answer:
        raise NotOfferedError(f"no memory for 32-bit calls: {raw.answer(answer['refused'])}")
    if {answer[name] for name in compat.CALLS} == {errno.ENOSYS}:
        raise NotOfferedError("the kernel has no 32-bit calls: ENOSYS")
    context.expect_errno(answer["feature"], (0,), "reading the state by a 32-bit call")
    context.expect(
        answer["state"] == State.PRE_COPY, "the state", str(answer["state"]), "PRE_COPY (6)"
    )
    again = raw.StateAnswer(answer["again"], answer["again_fd"])
    context.expect(
        again == raw.StateAnswer(0, -1), "PRE_COPY again", str(again), "success, no data file"
    )
    context.expect_errno(answer["unknown"], (errno.ENOTTY,), "an ioctl that no data file has")
    context.expect_errno(answer["null"], (errno.EFAULT,), "INFO with NULL by a 32-bit call")
    context.expect_errno(answer["info"], (0,), "INFO by a 32-bit call")
    context.expect(
        answer["initial"] == native.initial_bytes,
        "initial_bytes",
        str(answer["initial"]),
        str(native.initial_bytes),
    )


@check(
    "C25",
    Level.MUST,
    "A bad pointer is answered with EFAULT, and the session is none the worse for it.",
    needs=PRE_COPY,
)
def bad_pointers(context: Context) -> None:
    # What INFO says is to be the same before and after.
    context.idle()
    subject = context.source
    fd = subject.go(State.PRE_COPY)
    good = bytes(raw.precopy_info(fd).info)
    number = raw.ioctl(fd, uapi.VFIO_MIG_GET_PRECOPY_INFO, 0)
    context.expect_errno(number, (errno.EFAULT,), "INFO with NULL")
    for inside in (4, 8, raw.INFO_BYTES - 1):
        with raw.page(good, offset=os.sysconf("SC_PAGESIZE") - inside) as address:
            number = raw.ioctl(fd, uapi.VFIO_MIG_GET_PRECOPY_INFO, address)
        context.expect_errno(
            number, (errno.EFAULT,), f"INFO of which {inside} bytes can be accessed"
        )
    with raw.page(good, writable=False) as address:
        number = raw.ioctl(fd, uapi.VFIO_MIG_GET_PRECOPY_INFO, address)
    context.expect_errno(number, (errno.EFAULT,), "INFO that cannot be written")
    answer = raw.precopy_info(fd)
    context.expect(
        bytes(answer.info) == good, "INFO with a good pointer", str(answer), "as before all that"
    )
    subject.close_files()
    subject.back()
    with subject.save(State.PRE_COPY) as stream:
        raw.ioctl(stream.fileno(), uapi.VFIO_MIG_GET_PRECOPY_INFO, 0)
        read_part(stream)
        subject.go(State.STOP_COPY)
        read_all(context, subject, stream)


@check(
    "C36",
    Level.MUST,
    "VFIO_DEVICE_FEATURE_MIG_DATA_SIZE works in every state.",
)
def data_size(context: Context) -> None:
    subject = context.source
    feature = uapi.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE
    if not subject.device.offers(feature, uapi.VFIO_DEVICE_FEATURE_GET):
        raise NotOfferedError("the kernel does not have the feature")
    for state in fsm.states(subject.flags):
        subject.enter(state)
        try:
            size = subject.device.stop_copy_bytes()
        except VfioError as error:
            context.expect(False, f"MIG_DATA_SIZE in {state.name}", str(error), "a size")
        context.note(f"MIG_DATA_SIZE in {state.name}", f"{size} bytes")
        subject.back()
    with subject.save(State.STOP_COPY) as stream:
        size = subject.device.stop_copy_bytes()
        data = read_all(context, subject, stream)
        context.note(f"{size} bytes were estimated in STOP_COPY; read", f"{len(data)} bytes")


@check(
    "C46",
    Level.DRIVER,
    "The data files of mlx5-vfio-pci are called mlx5vf_mig.",
)
def name_of_file(context: Context) -> None:
    subject = context.source
    if subject.device.driver != MLX5_DRIVER:
        raise NotOfferedError(f"the driver is {subject.device.driver}")
    for state in fsm.states(subject.flags):
        fd = subject.enter(state)
        if fd >= 0:
            name = str(Path(f"/proc/self/fd/{fd}").readlink())
            context.expect(
                name == "anon_inode:mlx5vf_mig", f"the file of {state.name}", name, "mlx5vf_mig"
            )
        subject.back()
