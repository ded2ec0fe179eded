# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts programs on a module's function by fentry, and on its return by fexit, through libbpf.

The kernel skips a kprobe's program that would interrupt another one on the same CPU, and with it
the completion of a SAVE. A fentry program has a guard of its own, so it is never skipped for
another's sake. It also costs less, and at the return much less: there the function is called by
the kernel's trampoline, and nothing has to be hooked into its stack.

bcc 0.26 compiles such a program, but cannot load it for a function of a module.
"""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxtrace import btf

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlxtrace.catalogue import Probe

_PROG_TYPE_TRACING = 26
_TRACE_FENTRY = 24
_TRACE_FEXIT = 25
_KIND_FUNC = 12
_NAME_LENGTH = 64

OLD_LIBBPF = "libbpf is older than 0.6"


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


class RefusedError(Exception):
    """The kernel does not take a program for fentry or fexit; a kprobe may do."""


@dataclass(frozen=True, slots=True)
class _Module:
    """A module's types, and a file descriptor of its BTF; or why there are none."""

    types: btf.Btf | None = None
    descriptor: int = -1
    lacks: str = ""


class Fentry:
    """Loads and attaches programs. The BTF of a module is read once."""

    def __init__(self) -> None:
        self._modules: dict[str, _Module] = {}

    def usable(self, probes: Iterable[Probe]) -> frozenset[str]:
        """Return the names of the probes that are to be put on by fentry here."""
        return frozenset(p.name for p in probes if p.fentry and not self.why_not(p))

    def why_not(self, probe: Probe) -> str:
        """Say why ``probe`` cannot be put on by fentry; "" if it can be tried."""
        module = self._module(probe.module)
        if module.types is None:
            return module.lacks
        if self.symbol(probe) is None:
            return f"the BTF of {probe.module} does not tell of {probe.symbols[0]}"
        return ""

    def symbol(self, probe: Probe) -> str | None:
        """Return the function to put ``probe`` on, or None where BTF tells of none."""
        types = self._module(probe.module).types
        if types is None:
            return None
        return next((s for s in probe.symbols if types.find(s, _KIND_FUNC) is not None), None)

    def load(self, name: str, code: bytes, probe: Probe, *, at_return: bool) -> int:
        """Have the kernel verify a program; return its file descriptor.

        Args:
            name: of the program.
            code: its instructions, with the file descriptors of its maps in them.
            probe: what it is for, one that is :meth:`usable`.
            at_return: for the return of the function, not for its entry.

        Raises:
            RefusedError: this kernel does not take it.
        """
        module = self._module(probe.module)
        symbol = self.symbol(probe)
        assert module.types is not None, "usable() first"
        assert symbol is not None, "usable() first"
        options = _LoadOptions(
            sz=ctypes.sizeof(_LoadOptions),
            expected_attach_type=_TRACE_FEXIT if at_return else _TRACE_FENTRY,
            attach_btf_id=module.types.find(symbol, _KIND_FUNC),
            attach_btf_obj_fd=module.descriptor,
        )
        program: int = btf.library().bpf_prog_load(
            _PROG_TYPE_TRACING,
            name.encode()[:15],
            b"GPL",
            code,
            len(code) // 8,
            ctypes.byref(options),
        )
        if program < 0:
            why = os.strerror(btf.error_of(program))
            raise RefusedError(f"the kernel does not load {name}: {why}")
        return program

    def attach(self, program: int, name: str, *, at_return: bool) -> int:
        """Attach what :meth:`load` returned; return the file descriptor of the link.

        Raises:
            RefusedError: this kernel cannot.
        """
        side = _TRACE_FEXIT if at_return else _TRACE_FENTRY
        link: int = btf.library().bpf_link_create(program, 0, side, None)
        if link < 0:
            why = os.strerror(btf.error_of(link))
            raise RefusedError(f"the kernel does not attach {name}: {why}")
        return link

    def close(self) -> None:
        """Give back what was opened. Programs that are attached stay so."""
        for module in self._modules.values():
            if module.descriptor >= 0:
                os.close(module.descriptor)
        self._modules.clear()

    def _module(self, name: str) -> _Module:
        if name not in self._modules:
            self._modules[name] = _opened(name)
        return self._modules[name]


def _opened(name: str) -> _Module:
    types = btf.Btf.of_module(name)
    if types is None:
        return _Module(lacks=f"no BTF of {name}")
    if not btf.loads_programs():
        return _Module(lacks=OLD_LIBBPF)
    try:
        return _Module(types, _module_fd(btf.library(), name))
    except OSError as error:
        return _Module(lacks=f"no BTF of {name} from the kernel: {error.strerror}")


def _module_fd(lib: ctypes.CDLL, module: str) -> int:
    """Return a file descriptor of the module's BTF."""
    identity = ctypes.c_uint32(0)
    refused = errno.ENOENT
    while not lib.bpf_btf_get_next_id(identity.value, ctypes.byref(identity)):
        descriptor: int = lib.bpf_btf_get_fd_by_id(identity.value)
        if descriptor < 0:
            refused = btf.error_of(descriptor)
            continue
        name = ctypes.create_string_buffer(_NAME_LENGTH)
        info = _BtfInfo(name=ctypes.addressof(name), name_len=_NAME_LENGTH)
        length = ctypes.c_uint32(ctypes.sizeof(info))
        failed = lib.bpf_obj_get_info_by_fd(descriptor, ctypes.byref(info), ctypes.byref(length))
        if not failed and info.kernel_btf and name.value == module.encode():
            return descriptor
        os.close(descriptor)
    raise OSError(refused, os.strerror(refused))
