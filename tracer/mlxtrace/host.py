# SPDX-License-Identifier: GPL-2.0-or-later
"""What tracing needs of the host, each failure with what to do about it."""

from __future__ import annotations

import functools
import os
import platform
import re
import time
from pathlib import Path

from genbindings.errors import Error
from mlxtrace import devices, hostclock
from mlxtrace.catalogue import DRIVER

PCI_DRIVERS = Path("/sys/bus/pci/drivers")
MODULES = Path("/sys/module")
LOCKDOWN = Path("/sys/kernel/security/lockdown")
KALLSYMS = Path("/proc/kallsyms")
STATUS = Path("/proc/self/status")

_CAPABILITIES = {"CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}


def require_vf(text: str) -> str:
    """Return the full name of the VF that a user calls ``text``; the migration driver has it.

    Raises:
        UsageError: it is no device's address.
        Error: it is not there, or another driver or none has it.
    """
    device = devices.lookup(text)
    if ":" in device.name and device.driver != DRIVER:
        raise Error(
            f"{device.name} is bound to {device.driver or 'no driver'}, not to {DRIVER}",
            devices.bind_hint(device),
        )
    return device.name


def migration_vfs() -> list[str]:
    """Names of the devices that the migration driver has."""
    return sorted(path.name for path in (PCI_DRIVERS / DRIVER).glob("*:*"))


def require_privileges() -> None:
    """Check that this process may load and attach BPF programs.

    Raises:
        Error: it lacks a capability, or the kernel is locked down.
    """
    held = _capabilities()
    if "CAP_SYS_ADMIN" not in held:
        lacking = [name for name in ("CAP_BPF", "CAP_PERFMON") if name not in held]
        if lacking:
            who = "root" if os.geteuid() == 0 else "a user"
            raise Error(
                f"tracing needs {' and '.join(lacking)}, which {who} without it cannot have",
                "run it as root" if os.geteuid() else "run it outside the container",
            )
    try:
        lockdown = LOCKDOWN.read_text()
    except OSError:
        return
    if "[confidentiality]" in lockdown:
        raise Error(
            "the kernel is locked down (confidentiality), which forbids kprobes, for root too",
            "boot with lockdown=integrity, or with Secure Boot off",
        )


def require_module() -> None:
    """Check that the driver is loaded.

    Raises:
        Error: it is not.
    """
    if not (MODULES / DRIVER).exists():
        raise Error(f"the module {DRIVER} is not loaded", f"modprobe {DRIVER}")


def require_headers() -> None:
    """Check that bcc will find the kernel's headers.

    Raises:
        Error: it will not; the hint names the package.
    """
    if os.environ.get("BCC_KERNEL_SOURCE"):
        return
    release = platform.release()
    build = Path("/lib/modules") / release / "build"
    if build.exists() or Path("/sys/kernel/kheaders.tar.xz").exists():
        return
    raise Error(
        f"bcc needs the headers of this kernel ({build} is not there)",
        f"on Debian and Ubuntu: apt install linux-headers-{release}; on Fedora and RHEL: "
        f"dnf install kernel-devel-{release}; elsewhere set BCC_KERNEL_SOURCE",
    )


def why_absent(symbol: str, module: str) -> str:
    """Say why no probe can be on ``symbol``, from the kernel's symbol table; "" if it is there."""
    if module == DRIVER and not (MODULES / DRIVER).exists():
        return f"{module} is not loaded"
    table = _symbols()
    if not table:
        return "not found"
    names = set()
    at = table.find(f" {symbol}")
    while at >= 0:
        name = table[at + 1 : at + 200].split(maxsplit=1)[0]
        if name == symbol or name.startswith(f"{symbol}."):
            names.add(name)
        at = table.find(f" {symbol}", at + 1)
    if symbol in names:
        return ""
    if names:
        return f"only as {', '.join(sorted(names))}, whose arguments are unknown"
    if f"[{module}]" not in table and not (MODULES / module).exists():
        return f"not in this kernel ({module} is not loaded)"
    return "not in this build (inlined, or the driver does not have it)"


@functools.cache
def _symbols() -> str:
    """The kernel's symbol table; "" where it cannot be read."""
    try:
        return KALLSYMS.read_text()
    except OSError:
        return ""


def clocks() -> dict[str, int]:
    """Return one reading of the three clocks in nanoseconds, so that traces can be joined.

    ``realtime_error_ns``, which is only there if the kernel knows it, is how far CLOCK_REALTIME may
    be off (adjtimex(2): ``maxerror``, which NTP keeps).
    """
    reading = {
        "boot_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        "monotonic_ns": time.clock_gettime_ns(time.CLOCK_MONOTONIC),
        "realtime_ns": time.clock_gettime_ns(time.CLOCK_REALTIME),
    }
    error = hostclock.realtime_error_ns()
    return reading if error is None else {**reading, "realtime_error_ns": error}


def _capabilities() -> set[str]:
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", STATUS.read_text(), re.MULTILINE)
    effective = int(match[1], 16) if match else 0
    return {name for name, bit in _CAPABILITIES.items() if effective >> bit & 1}
