# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts BPF programs on functions of the kernel, and asks the kernel how often it skipped them.

bcc can attach kprobes too, but only by an ioctl, which gives no BPF link: it is the link that
counts the hits a kprobe missed (Linux 6.7, "bpf: Add missed value to kprobe perf link info").
Everything here is undone when its file descriptors are closed, so a killed tracer leaves nothing.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxtrace import btf

if TYPE_CHECKING:
    from collections.abc import Iterable

_PMU = Path("/sys/bus/event_source/devices/kprobe")
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_ATTR = struct.Struct("<IIQQQQQIIQQ40x")
"""struct perf_event_attr up to config2, padded to PERF_ATTR_SIZE_VER5 (112 bytes)."""
_FLAG_FD_CLOEXEC = 8
_IOC_ENABLE = 0x2400
_IOC_SET_BPF = 0x40042408
_ATTACH_PERF_EVENT = 41
"""BPF_PERF_EVENT of enum bpf_attach_type."""
_INFO_SIZE = 512


@dataclass(slots=True)
class Attachment:
    """A program on a function: its file descriptors, -1 for what there is none of."""

    program: int
    event: int
    link: int

    @property
    def by_fentry(self) -> bool:
        """Whether it is on by fentry, which needs no perf event."""
        return self.event < 0


class Attacher:
    """Attaches programs by kprobe, and reads the kernel's counts of what it skipped."""

    def __init__(self) -> None:
        self._lib = btf.library()
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        try:
            self._type = int((_PMU / "type").read_text())
            spec = (_PMU / "format/retprobe").read_text()
        except OSError:
            raise Error(
                "this kernel has no kprobes for perf (no /sys/bus/event_source/devices/kprobe)",
                "it needs CONFIG_KPROBES and CONFIG_KPROBE_EVENTS",
            ) from None
        self._return_bit = 1 << int(spec.split(":")[1])
        kernel = btf.Btf.of_kernel()
        self._program_misses: int | None = None
        self._link_misses: int | None = None
        if kernel is not None:
            self._program_misses = kernel.offset("bpf_prog_info", "recursion_misses")
            self._link_misses = kernel.offset("bpf_link_info", "perf_event", "kprobe", "missed")

    def attach(self, program: int, symbol: str, *, at_return: bool) -> Attachment:
        """Attach the program with that file descriptor to the entry or return of ``symbol``.

        Raises:
            OSError: the kernel refused; ENOENT and EADDRNOTAVAIL: there is no such function.
        """
        event = self._open(symbol, at_return=at_return)
        link = self._lib.bpf_link_create(program, event, _ATTACH_PERF_EVENT, None)
        if link < 0:
            # Links on perf events came in 5.15; the ioctl has been there since 4.1.
            link = -1
            try:
                fcntl.ioctl(event, _IOC_SET_BPF, program)
            except OSError:
                os.close(event)
                raise
        fcntl.ioctl(event, _IOC_ENABLE, 0)
        return Attachment(program, event, link)

    def detach(self, attachment: Attachment) -> None:
        """Take the program off again."""
        if attachment.link >= 0:
            os.close(attachment.link)
        if attachment.by_fentry:
            os.close(attachment.program)
        else:
            os.close(attachment.event)

    def skipped(self, attachments: Iterable[Attachment]) -> int | None:
        """Return how often the kernel did not run the programs; None where it counts none of them.

        A kprobe's program is not run when it would interrupt another one on the same CPU (since
        6.7, "bpf: Count missed stats in trace_call_bpf"), one for fentry when it would interrupt
        itself: that is counted by the program, wherever it is attached. A kprobe is missed when it
        is hit inside another's handler, or when a return probe runs out of instances: that is
        counted where it is.
        """
        if self._program_misses is None:
            return None
        total: int | None = None
        programs: set[int] = set()
        for attachment in attachments:
            counts = []
            if not attachment.by_fentry:
                if self._link_misses is None or attachment.link < 0:
                    continue
                counts.append(info_count(self._lib, attachment.link, self._link_misses))
            if attachment.program not in programs:
                counts.append(info_count(self._lib, attachment.program, self._program_misses))
            known = [count for count in counts if count is not None]
            if len(known) == len(counts):
                programs.add(attachment.program)
                total = (total or 0) + sum(known)
        return total

    def _open(self, symbol: str, *, at_return: bool) -> int:
        name = ctypes.create_string_buffer(symbol.encode())
        config = self._return_bit if at_return else 0
        attr = _ATTR.pack(
            self._type, _ATTR.size, config, 0, 0, 0, 0, 0, 0, ctypes.addressof(name), 0
        )
        number = _PERF_EVENT_OPEN[platform.machine()]
        descriptor: int = self._syscall(number, attr, -1, 0, -1, _FLAG_FD_CLOEXEC)
        if descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), symbol)
        return descriptor


def info_count(lib: ctypes.CDLL, descriptor: int, offset: int) -> int | None:
    """Return the u64 at ``offset`` of the kernel's info on a BPF program or link, or None."""
    info = ctypes.create_string_buffer(_INFO_SIZE)
    length = ctypes.c_uint32(_INFO_SIZE)
    failed = lib.bpf_obj_get_info_by_fd(descriptor, ctypes.byref(info), ctypes.byref(length))
    if failed or offset + 8 > length.value:
        return None
    value: int = struct.unpack_from("<Q", info, offset)[0]
    return value


def is_absent(error: OSError) -> bool:
    """Whether attaching failed because there is no such function."""
    return error.errno in (errno.ENOENT, errno.EADDRNOTAVAIL, errno.EINVAL)
