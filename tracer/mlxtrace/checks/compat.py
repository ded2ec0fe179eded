# SPDX-License-Identifier: GPL-2.0-or-later
"""VFIO calls as a 32-bit program makes them, on x86-64: ``int 0x80`` in a page of its own.

Where the kernel has no 32-bit calls the process gets SIGSEGV: call it in a child.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
from typing import Any

from mlxtrace.checks import raw
from mlxuapi import vfio as uapi

# ioctl(2) of i386; a function of the 64-bit ABI with three arguments. mov eax, imm32 - push rbx -
# mov ebx, edi - mov ecx, esi - int 0x80 - pop rbx - ret; the third argument is in edx already.
_IOCTL = 54
_CODE = (
    b"\xb8" + _IOCTL.to_bytes(4, "little") + b"\x53" + b"\x89\xfb" + b"\x89\xf1" + b"\xcd\x80"
    b"\x5b\xc3"
)
_MAP_32BIT = 0x40
CALLS = ("feature", "again", "unknown", "null", "info")


def ask(device_fd: int, data_fd: int) -> dict[str, Any]:
    """Read the device's state, ask for it again, and for INFO of its data file, also with NULL.

    Returns:
        the errno of each call (:data:`CALLS`), and what they said; or ``refused`` alone, the errno
        with which this process got no memory for it.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_32BIT
    rights = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    try:
        memory = mmap.mmap(-1, 2 * mmap.PAGESIZE, flags=flags, prot=rights)
    except OSError as error:
        return {"refused": error.errno or errno.EIO}
    memory[: len(_CODE)] = _CODE
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    argument = base + mmap.PAGESIZE
    call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_uint, ctypes.c_uint)(base)

    size = ctypes.sizeof(uapi.vfio_device_feature_mig_state)
    request = uapi.vfio_device_feature.with_room(size)
    request.flags = uapi.VFIO_DEVICE_FEATURE_GET | uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
    ctypes.memmove(argument, bytes(request), len(bytes(request)))
    feature = -call(device_fd, uapi.VFIO_DEVICE_FEATURE, argument)
    answered = ctypes.string_at(argument, len(bytes(request)))
    state = uapi.vfio_device_feature_mig_state.from_buffer_copy(answered[-size:])

    wanted = uapi.vfio_device_feature_mig_state()
    wanted.device_state, wanted.data_fd = state.device_state, raw.POISON
    request.flags = uapi.VFIO_DEVICE_FEATURE_SET | uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
    request.data[:] = list(bytes(wanted))
    ctypes.memmove(argument, bytes(request), len(bytes(request)))
    again = -call(device_fd, uapi.VFIO_DEVICE_FEATURE, argument)
    answered = ctypes.string_at(argument, len(bytes(request)))
    left_there = uapi.vfio_device_feature_mig_state.from_buffer_copy(answered[-size:])
    unknown = -call(data_fd, uapi.VFIO_DEVICE_RESET, argument)
    null = -call(data_fd, uapi.VFIO_MIG_GET_PRECOPY_INFO, 0)

    question = uapi.vfio_precopy_info()
    question.argsz = raw.INFO_BYTES
    ctypes.memmove(argument, bytes(question), raw.INFO_BYTES)
    info = -call(data_fd, uapi.VFIO_MIG_GET_PRECOPY_INFO, argument)
    left = uapi.vfio_precopy_info.from_buffer_copy(ctypes.string_at(argument, raw.INFO_BYTES))
    return {
        "feature": feature,
        "state": int(state.device_state),
        "again": again,
        "again_fd": int(left_there.data_fd),
        "unknown": unknown,
        "null": null,
        "info": info,
        "initial": int(left.initial_bytes),
    }
