# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts a program on the entry of a module's function by fentry, through libbpf.

The kernel skips a kprobe's program that would interrupt another one on the same CPU, and with it
the completion of a SAVE. A fentry program has a guard of its own, so it is never skipped for
another's sake. bcc 0.26 compiles such a program, but cannot load it for a function of a module.
"""

from __future__ import annotations

import ctypes
import os

from mlxtrace import btf

_PROG_TYPE_TRACING = 26
_TRACE_FENTRY = 24
_KIND_FUNC = 12
_NAME_LENGTH = 64


class _LoadOptions(ctypes.Structure):
    """struct bpf_prog_load_opts of libbpf, as far as it is used; ``sz`` says how far."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_int),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_prog_fd", ctypes.c_uint32),
        ("attach_btf_obj_fd", ctypes.c_uint32),
    ]


class _BtfInfo(ctypes.Structure):
    """struct bpf_btf_info of include/uapi/linux/bpf.h."""

    _fields_ = [
        ("btf", ctypes.c_uint64),
        ("btf_size", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("name", ctypes.c_uint64),
        ("name_len", ctypes.c_uint32),
        ("kernel_btf", ctypes.c_uint32),
    ]


def attach(name: str, code: bytes, symbol: str, module: str) -> tuple[int, int]:
    """Load ``code`` and attach it to the entry of ``symbol`` in ``module``.

    Args:
        name: of the program.
        code: its instructions, with the file descriptors of its maps in them.
        symbol: the function.
        module: the module that has it, loaded, with BTF.

    Returns:
        File descriptors of the program and of its link.

    Raises:
        OSError: this kernel cannot do it, or the module has no BTF that tells of the function.
    """
    lib = btf.library()
    types = btf.Btf.of_module(module)
    function = types.find(symbol, _KIND_FUNC) if types is not None else None
    if function is None:
        raise FileNotFoundError(f"no BTF of {symbol}")
    object_fd = _module_fd(lib, module)
    options = _LoadOptions(
        sz=ctypes.sizeof(_LoadOptions),
        expected_attach_type=_TRACE_FENTRY,
        attach_btf_id=function,
        attach_btf_obj_fd=object_fd,
    )
    try:
        program = lib.bpf_prog_load(
            _PROG_TYPE_TRACING,
            name.encode()[:15],
            b"GPL",
            code,
            len(code) // 8,
            ctypes.byref(options),
        )
        if program < 0:
            raise _failure(-program, f"loading {name}")
    finally:
        os.close(object_fd)
    link: int = lib.bpf_link_create(program, 0, _TRACE_FENTRY, None)
    if link < 0:
        os.close(program)
        raise _failure(-link, f"attaching {name}")
    return program, link


def _module_fd(lib: ctypes.CDLL, module: str) -> int:
    """Return a file descriptor of the module's BTF."""
    identity = ctypes.c_uint32(0)
    while not lib.bpf_btf_get_next_id(identity.value, ctypes.byref(identity)):
        descriptor: int = lib.bpf_btf_get_fd_by_id(identity.value)
        if descriptor < 0:
            continue
        name = ctypes.create_string_buffer(_NAME_LENGTH)
        info = _BtfInfo(name=ctypes.addressof(name), name_len=_NAME_LENGTH)
        length = ctypes.c_uint32(ctypes.sizeof(info))
        failed = lib.bpf_obj_get_info_by_fd(descriptor, ctypes.byref(info), ctypes.byref(length))
        if not failed and info.kernel_btf and name.value == module.encode():
            return descriptor
        os.close(descriptor)
    raise FileNotFoundError(f"no BTF of {module} in the kernel")


def _failure(code: int, what: str) -> OSError:
    return OSError(code, f"{what}: {os.strerror(code)}")
