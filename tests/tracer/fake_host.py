# SPDX-License-Identifier: GPL-2.0-or-later
"""A model of what the tracer looks at on a host: /proc and /sys in a temporary folder, and bcc."""

from __future__ import annotations

import os
import platform
import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

from mlxtrace import btf, devices, host, layout
from mlxtrace.catalogue import PROBES

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

RELEASE = "6.1.0-test"
OFFSETS = {wanted.macro: 8 for wanted in layout.WANTED}


class FakeHost:
    """A host on which tracing works, until a test takes something away."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self._monkeypatch = monkeypatch
        self.places = {
            "PCI_DRIVERS": "sys/bus/pci/drivers",
            "MODULES": "sys/module",
            "LOCKDOWN": "sys/kernel/security/lockdown",
            "KALLSYMS": "proc/kallsyms",
            "STATUS": "proc/self/status",
            "SYSCTL": "proc/sys",
            "KPROBES": "sys/kernel/debug/kprobes",
            "KHEADERS": "sys/kernel/kheaders.tar.xz",
            "LIB_MODULES": "lib/modules",
        }
        for name, path in self.places.items():
            monkeypatch.setattr(host, name, root / path)
        monkeypatch.setattr(btf, "SYSFS", root / "sys/kernel/btf")
        monkeypatch.setattr(devices, "SYSFS", root / "sys")
        monkeypatch.setattr(devices, "PROC", root / "proc")
        monkeypatch.setattr(platform, "release", lambda: RELEASE)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.delenv("BCC_KERNEL_SOURCE", raising=False)
        host._symbols.cache_clear()
        self.capabilities(21, 38, 39)
        self.write("sys/kernel/security/lockdown", "[none] integrity confidentiality\n")
        self.write("proc/sys/kernel/ftrace_enabled", "1\n")
        self.write("proc/sys/net/core/bpf_jit_enable", "1\n")
        self.write("sys/kernel/debug/kprobes/enabled", "1\n")
        self.write("sys/kernel/debug/kprobes/blacklist", "0xffff-0xffff\tdo_int3\n")
        self.write("sys/module/mlx5_vfio_pci/srcversion", "ABCDEF\n")
        (root / f"lib/modules/{RELEASE}/build/include").mkdir(parents=True)
        self.symbols({probe.symbols[0]: probe.module for probe in PROBES})
        self.layouts(OFFSETS)
        self.bcc()

    def write(self, path: str, text: str) -> None:
        """Write a file below the root."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def capabilities(self, *bits: int) -> None:
        """Let the process have these, and no others."""
        self.write("proc/self/status", f"CapEff:\t{sum(1 << bit for bit in bits):016x}\n")

    def symbols(self, table: dict[str, str]) -> None:
        """Let the kernel have these functions, in these modules."""
        lines = [f"ffff0 t {name}\t[{module}]\n" for name, module in table.items()]
        self.write("proc/kallsyms", "".join(lines))
        host._symbols.cache_clear()

    def rename(self, symbol: str, *names: str) -> None:
        """Let the kernel have ``names`` instead of ``symbol``."""
        table = {probe.symbols[0]: probe.module for probe in PROBES}
        module = table.pop(symbol)
        self.symbols({**table, **dict.fromkeys(names, module)})

    def layouts(self, offsets: dict[str, int]) -> None:
        """Let the driver's structs be laid out so."""
        found = layout.Layouts("BTF of mlx5_vfio_pci", offsets)
        self._monkeypatch.setattr(layout, "of_running_module", lambda: found)

    def bcc(self, said: str = "", failure: str = "", load_failure: str = "") -> None:
        """Let bcc write ``said`` to stderr and fail so, when it compiles or when it loads."""

        class BPF:
            KPROBE = 2
            ring_buffer_poll = None

            def __init__(self, text: str, cflags: list[str]) -> None:
                assert "enter_set_state" in text or "enter_device_ioctl" in text
                assert cflags
                if failure:
                    os.write(2, said.encode())
                    raise Exception(failure)

            def load_func(self, name: bytes, kind: int) -> SimpleNamespace:
                assert kind == self.KPROBE
                if load_failure:
                    os.write(2, said.encode())
                    raise Exception(load_failure)
                return SimpleNamespace(fd=len(name))

        module = ModuleType("bcc")
        module.__file__ = "/usr/lib/python3/dist-packages/bcc/__init__.py"
        module.BPF = BPF  # type: ignore[attr-defined]
        module.__version__ = "0.26.0"  # type: ignore[attr-defined]
        self._monkeypatch.setitem(sys.modules, "bcc", module)
