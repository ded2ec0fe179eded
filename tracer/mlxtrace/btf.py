# SPDX-License-Identifier: GPL-2.0-or-later
"""BTF, read by libbpf (which comes with bcc) through ctypes. Nothing is parsed here.

What libbpf has only as inline functions of its header, walking the members of a ``struct
btf_type``, is done on its memory: include/uapi/linux/btf.h states that layout.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import NamedTuple

from genbindings.errors import Error

_KIND_STRUCT = 4
_KIND_UNION = 5
_KIND_FLAG = 1 << 31
_DEPTH_MAX = 32
"""Anonymous structs in one another: more are damaged BTF that goes in a circle."""
_FIRST_NAMED = ("libbpf.so.1", "libbpf.so.0")

SYSFS = Path("/sys/kernel/btf")


class _Type(ctypes.Structure):
    _fields_ = [
        ("name_off", ctypes.c_uint32),
        ("info", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
    ]


class _Member(ctypes.Structure):
    _fields_ = [
        ("name_off", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("offset", ctypes.c_uint32),
    ]


class Member(NamedTuple):
    """A member: its offset from the start of the struct in bytes, and its type's id."""

    offset: int
    type_id: int


@functools.cache
def library() -> ctypes.CDLL:
    """Return libbpf, its functions declared.

    Raises:
        Error: the library is not installed, or too old.
    """
    for name in _FIRST_NAMED:
        try:
            lib = ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue
        break
    else:
        raise Error("libbpf is not installed", "on Debian: apt install libbpf1 (bcc needs it too)")
    pointer, text, u32 = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32
    for function, result, arguments in (
        ("btf__load_vmlinux_btf", pointer, []),
        ("btf__parse", pointer, [text, pointer]),
        ("btf__parse_split", pointer, [text, pointer]),
        ("btf__free", None, [pointer]),
        ("btf__find_by_name_kind", ctypes.c_int32, [pointer, text, u32]),
        ("btf__type_by_id", pointer, [pointer, u32]),
        ("btf__name_by_offset", text, [pointer, u32]),
        ("btf__resolve_type", ctypes.c_int, [pointer, u32]),
        ("bpf_link_create", ctypes.c_int, [ctypes.c_int, ctypes.c_int, ctypes.c_int, pointer]),
        ("bpf_obj_get_info_by_fd", ctypes.c_int, [ctypes.c_int, pointer, pointer]),
        ("bpf_btf_get_next_id", ctypes.c_int, [u32, pointer]),
        ("bpf_btf_get_fd_by_id", ctypes.c_int, [u32]),
        (
            "bpf_prog_load",
            ctypes.c_int,
            [ctypes.c_int, text, text, text, ctypes.c_size_t, pointer],
        ),
        ("libbpf_set_print", pointer, [pointer]),
    ):
        try:
            declared = getattr(lib, function)
        except AttributeError:
            raise Error(
                f"{name} is older than libbpf 0.5: it has no {function}",
                "update libbpf (Debian and Ubuntu: libbpf0 or libbpf1; Fedora and RHEL: libbpf)",
            ) from None
        declared.restype = result
        declared.argtypes = arguments
    # What fails here is reported by us, in our words.
    lib.libbpf_set_print(None)
    return lib


def loads_programs() -> bool:
    """Whether libbpf's bpf_prog_load is the one with the arguments that are declared here.

    That came with libbpf 0.6, as libbpf_major_version did. Before, the function of that name took
    the path of an object file, and a number in its place is a crash.
    """
    return hasattr(library(), "libbpf_major_version")


def error_of(result: int) -> int:
    """Return the errno of a call of libbpf that returned ``result``, which is negative.

    Before libbpf 1.0 that is -1 for all of them.
    """
    return (ctypes.get_errno() or 1) if result == -1 else -result


class Btf:
    """The types of the kernel, of one module (and the kernel below it), or of a file."""

    def __init__(self, lib: ctypes.CDLL, handle: int, base: Btf | None = None) -> None:
        self._lib = lib
        self._handle = handle
        # libbpf keeps a pointer to the base: it must outlive this one.
        self._base = base

    def __del__(self) -> None:
        if self._handle:
            self._lib.btf__free(self._handle)

    @classmethod
    @functools.cache
    def of_kernel(cls) -> Btf | None:
        """The running kernel's types, read once, or None where it has no BTF."""
        lib = library()
        handle = lib.btf__load_vmlinux_btf()
        return cls(lib, handle) if _is_pointer(handle) else None

    @classmethod
    def of_module(cls, name: str) -> Btf | None:
        """Types of the loaded module ``name``, or None where kernel or module has no BTF."""
        if not (SYSFS / name).exists():
            return None
        base = cls.of_kernel()
        if base is None:
            return None
        handle = base._lib.btf__parse_split(str(SYSFS / name).encode(), base._handle)
        return cls(base._lib, handle, base) if _is_pointer(handle) else None

    @classmethod
    def of_file(cls, path: Path, base: Btf | None = None) -> Btf | None:
        """Types in an ELF file's .BTF or a raw BTF file, or None where it has none."""
        lib = library()
        if base is None:
            handle = lib.btf__parse(str(path).encode(), None)
        else:
            handle = lib.btf__parse_split(str(path).encode(), base._handle)
        return cls(lib, handle, base) if _is_pointer(handle) else None

    def offset(self, struct: str, *path: str) -> int | None:
        """Return the offset in bytes of ``struct.path[0].path[1]…``, or None.

        Members of anonymous structs and unions belong to the struct around them, as in C.
        """
        type_id = self._lib.btf__find_by_name_kind(self._handle, struct.encode(), _KIND_STRUCT)
        total = 0
        for name in path:
            if type_id < 0:
                return None
            member = self._member(type_id, name)
            if member is None:
                return None
            total += member.offset
            type_id = self._lib.btf__resolve_type(self._handle, member.type_id)
        return None if not path else total

    def has_struct(self, struct: str) -> bool:
        """Whether there is a struct of that tag."""
        return self.find(struct, _KIND_STRUCT) is not None

    def find(self, name: str, kind: int) -> int | None:
        """Return the id of the type of that name and BTF_KIND, or None."""
        found: int = self._lib.btf__find_by_name_kind(self._handle, name.encode(), kind)
        return found if found >= 0 else None

    def _member(self, type_id: int, name: str, depth: int = 0) -> Member | None:
        if depth > _DEPTH_MAX:
            return None
        address = self._lib.btf__type_by_id(self._handle, type_id)
        if not address:
            return None
        declared = _Type.from_address(address)
        if declared.info >> 24 & 0x1F not in (_KIND_STRUCT, _KIND_UNION):
            return None
        count = declared.info & 0xFFFF
        members = (_Member * count).from_address(address + ctypes.sizeof(_Type))
        for member in members:
            bits = member.offset
            if declared.info & _KIND_FLAG:
                if bits >> 24:
                    continue
                bits &= 0xFFFFFF
            own = self._lib.btf__name_by_offset(self._handle, member.name_off) or b""
            if own == name.encode():
                return Member(bits // 8, member.type)
            if not own:
                inner = self._member(self._resolved(member.type), name, depth + 1)
                if inner is not None:
                    return Member(bits // 8 + inner.offset, inner.type_id)
        return None

    def _resolved(self, type_id: int) -> int:
        # Qualifiers and typedefs only: an anonymous member is the struct itself.
        resolved: int = self._lib.btf__resolve_type(self._handle, type_id)
        return resolved if resolved >= 0 else type_id


def _is_pointer(handle: int | None) -> bool:
    # libbpf before 1.0 returned errors as pointers at the end of the address space.
    return handle is not None and 0 < handle < (1 << 64) - 4096
