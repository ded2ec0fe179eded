# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's headers as far as bcc and our program need them, so that none must be installed.

bcc includes some of the kernel's headers in each program, and through them hundreds of others: they
take a good part of its time, their package is often missing, and those of a kernel that is newer
than bcc may not compile. Our program reaches structs by offsets and needs only the integer types
and the registers that a probe is given.
"""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = "BCC_KERNEL_SOURCE"
"""The variable by which bcc is told where the headers are."""

# What bcc's own headers take of the kernel's; the empty ones have nothing that is used.
_TYPES = """\
#pragma once
typedef signed char __s8;
typedef unsigned char __u8;
typedef short __s16;
typedef unsigned short __u16;
typedef int __s32;
typedef unsigned int __u32;
typedef long long __s64;
typedef unsigned long long __u64;
typedef __s8 s8;
typedef __u8 u8;
typedef __s16 s16;
typedef __u16 u16;
typedef __s32 s32;
typedef __u32 u32;
typedef __s64 s64;
typedef __u64 u64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u16 __le16;
typedef __u32 __le32;
typedef __u64 __le64;
typedef __u16 __sum16;
typedef __u32 __wsum;
typedef unsigned long size_t;
typedef long ssize_t;
typedef unsigned long uintptr_t;
typedef int pid_t;
typedef _Bool bool;
enum { false, true };
#define __aligned_u64 __u64 __attribute__((aligned(8)))
#define __always_inline inline __attribute__((__always_inline__))
"""
# Since Linux 5.0 the kernel does not look at the version that a kprobe's program was made for.
_VERSION = """\
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 18, 0)
"""
# x86_64: arch/x86/include/asm/ptrace.h. aarch64: arch/arm64/include/uapi/asm/ptrace.h, with which
# the kernel's own struct begins.
_PTRACE = """\
#pragma once
#if defined(__x86_64__)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};
#elif defined(__aarch64__)
struct user_pt_regs {
	__u64 regs[31];
	__u64 sp, pc, pstate;
};
struct pt_regs {
	union {
		struct user_pt_regs user_regs;
		struct {
			__u64 regs[31];
			__u64 sp, pc, pstate;
		};
	};
};
#endif
"""


def files() -> dict[str, str]:
    """Return the headers' text by path in the tree."""
    empty = ("bpf_common", "log2")
    uapi = ("bpf", "if_ether", "if_packet")
    page = f"#define PAGE_SIZE {resource.getpagesize()}\n"
    return {
        "include/linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n",
        "include/linux/types.h": _TYPES,
        "include/linux/version.h": _VERSION,
        "include/uapi/linux/ptrace.h": _PTRACE,
        "include/asm/page.h": page,
        **{f"include/linux/{name}.h": "" for name in empty},
        **{f"include/uapi/linux/{name}.h": "" for name in uapi},
    }


@contextlib.contextmanager
def used() -> Iterator[None]:
    """Have bcc take these headers, unless the user's environment names others."""
    if os.environ.get(SOURCE):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="mlxtrace-") as folder:
        for name, text in files().items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        os.environ[SOURCE] = folder
        try:
            yield
        finally:
            del os.environ[SOURCE]
