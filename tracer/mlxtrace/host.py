# SPDX-License-Identifier: GPL-2.0-or-later
"""What tracing needs of the host, each failure with what to do about it."""

from __future__ import annotations

import functools
import os
import platform
import re
import time
from fnmatch import fnmatchcase
from pathlib import Path

from genbindings.errors import Error
from mlxtrace import devices, hostclock
from mlxtrace.catalogue import DRIVER, DRIVERS, VFIO, Probe

PCI_DRIVERS = Path("/sys/bus/pci/drivers")
MODULES = Path("/sys/module")
LOCKDOWN = Path("/sys/kernel/security/lockdown")
KALLSYMS = Path("/proc/kallsyms")
STATUS = Path("/proc/self/status")
SYSCTL = Path("/proc/sys")
KPROBES = Path("/sys/kernel/debug/kprobes")
KHEADERS = Path("/sys/kernel/kheaders.tar.xz")
LIB_MODULES = Path("/lib/modules")

_CAPABILITIES = {"CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}


def require_vf(text: str, *, generic: bool = False) -> str:
    """Return the full name of the VF that a user calls ``text``; the migration driver has it.

    ``generic``: any driver may have it.

    Raises:
        UsageError: it is no device's address.
        Error: it is not there, or another driver or none has it.
    """
    device = devices.lookup(text)
    if ":" in device.name and device.driver != DRIVER and not generic:
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
    if reason := lacking_privileges() or locked_down():
        raise Error(*reason)


def lacking_privileges() -> tuple[str, str] | None:
    """Return which capabilities are lacking and what to do, or None; CAP_SYS_ADMIN has them all."""
    held = capabilities()
    lacking = [name for name in ("CAP_BPF", "CAP_PERFMON") if name not in held]
    if "CAP_SYS_ADMIN" in held or not lacking:
        return None
    names = " and ".join(lacking)
    if os.geteuid():
        return (
            f"tracing needs {names} (or CAP_SYS_ADMIN), which uid {os.geteuid()} does not have",
            "run it as root, by sudo for example",
        )
    return (
        f"tracing needs {names} (or CAP_SYS_ADMIN), which root does not have here: a container?",
        "run it outside the container, or give the container these capabilities",
    )


def locked_down() -> tuple[str, str] | None:
    """Return that the kernel is locked down against probes and what to do, or None.

    LOCKDOWN_KPROBES is one of the reasons of the level confidentiality, not of integrity.
    """
    if lockdown() != "confidentiality":
        return None
    return (
        "the kernel is locked down (confidentiality), which forbids kprobes, for root too",
        "boot with lockdown=integrity, or with Secure Boot off",
    )


def lockdown() -> str:
    """The level of lockdown: ``none``, ``integrity``, ``confidentiality``; "" where unknown."""
    try:
        match = re.search(r"\[(\w+)\]", LOCKDOWN.read_text())
    except OSError:
        return ""
    return match[1] if match else ""


def forbidding_sysctls() -> list[tuple[str, str]]:
    """Settings of the kernel that keep probes from being hit: what is wrong, and what to do."""
    found = []
    if setting("kernel/ftrace_enabled") == "0":
        found.append(
            ("kernel.ftrace_enabled is 0: no probe fires", "sysctl kernel.ftrace_enabled=1")
        )
    if _text(KPROBES / "enabled") == "0":
        found.append((f"{KPROBES}/enabled is 0: no kprobe fires", f"echo 1 > {KPROBES}/enabled"))
    return found


def setting(name: str) -> str:
    """Value of the sysctl ``name`` (with slashes), "" where there is none."""
    return _text(SYSCTL / name)


def why_refused() -> tuple[str, str]:
    """Say why the kernel answered EPERM or EACCES, and what to do.

    The order is that of likelihood and of the kernel's own checks: who runs it, what it may,
    lockdown, sysctls.
    """
    if reason := lacking_privileges() or locked_down():
        return reason
    paranoid = setting("kernel/perf_event_paranoid") or "unknown"
    hint = (
        f"kernel.perf_event_paranoid is {paranoid}; a security module or a seccomp filter can "
        "forbid it too: see dmesg and the audit log"
    )
    return (
        "permission denied, though the capabilities are there and the kernel is not locked down",
        hint,
    )


def require_module(module: str = DRIVER) -> None:
    """Check that the driver is loaded.

    Raises:
        Error: it is not.
    """
    if not (MODULES / module).exists():
        raise Error(f"the module {module} is not loaded", f"modprobe {module}")


def require_headers() -> None:
    """Check that bcc will find the kernel's headers, which only some bcc may need.

    Raises:
        Error: it will not; the hint names the package.
    """
    if not headers():
        release = platform.release()
        raise Error(
            f"this bcc needs the headers of this kernel: neither {LIB_MODULES}/{release}/build nor "
            f"{KHEADERS} has them",
            f"on Debian and Ubuntu: apt install linux-headers-{release}; on Fedora and RHEL: "
            f"dnf install kernel-devel-{release}; elsewhere set BCC_KERNEL_SOURCE to a tree of "
            f"them; in a container mount the host's {LIB_MODULES} and /usr/src",
        )


def headers() -> str:
    """Where bcc will find the kernel's headers, in the order in which it looks; "" if nowhere."""
    if source := os.environ.get("BCC_KERNEL_SOURCE"):
        return source
    # bcc follows the link. One whose package is gone dangles, or leads to a folder that is empty.
    build = LIB_MODULES / platform.release() / "build"
    if build.is_dir() and any(build.iterdir()):
        return str(build)
    return str(KHEADERS) if KHEADERS.exists() else ""


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
        return "blacklisted by the kernel" if symbol in blacklist() else ""
    if names:
        return f"only as {', '.join(sorted(names))}, whose arguments are unknown"
    if f"[{module}]" not in table and not (MODULES / module).exists():
        return f"not in this kernel ({module} is not loaded)"
    return "not in this build (inlined, or the driver does not have it)"


def places(probe: Probe) -> list[str]:
    """Return the functions that ``probe`` can be tried on, the best one first.

    For a probe on all drivers of VFIO those of their functions that its patterns fit.
    """
    if probe.module != DRIVERS:
        return list(probe.symbols)
    table = _symbols()
    modules = vfio_drivers()
    built_in = any(f"[{module}]" not in table for module in devices.vfio_modules())
    found = []
    for line in table.splitlines():
        words = line.split()
        # What is part of the kernel has no module behind its name.
        is_ours = words[3].strip("[]") in modules if len(words) == 4 else built_in
        if len(words) < 3 or words[1] not in "tT" or not is_ours:
            continue
        name = words[2]
        if not name.startswith("__") and any(fnmatchcase(name, p) for p in probe.symbols):
            found.append(name)
    return found


def vfio_drivers() -> set[str]:
    """Modules that may be drivers of VFIO, "" for one that has no name.

    Those that use its core; where that is part of the kernel, nothing tells which these are, but
    those that have a device are known all the same.
    """
    users = {
        holder.name
        for name in (VFIO, "vfio_pci_core", "mdev")
        for holder in (MODULES / name / "holders").glob("*")
    }
    return users | devices.vfio_modules()


def why_nowhere() -> tuple[str, str]:
    """Say why a probe on all drivers of VFIO has no place, and what to do."""
    names = sorted(name or "one of the kernel" for name in vfio_drivers())
    if not names:
        return (
            "in no driver of VFIO: none is known here",
            "load the driver whose migrations are to be traced, and bind a device to it",
        )
    return (
        f"in no driver of VFIO that is known here ({', '.join(names)})",
        "if another driver's migrations are to be traced, load it, and bind a device to it",
    )


@functools.cache
def _symbols() -> str:
    """The kernel's symbol table; "" where it cannot be read."""
    try:
        return KALLSYMS.read_text()
    except OSError:
        return ""


def has_process(pid: int) -> bool:
    """Whether there is a process of that number."""
    return (devices.PROC / str(pid)).is_dir()


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


def blacklist() -> set[str]:
    """Functions on which the kernel allows no kprobe, as far as they can be read (by root)."""
    return {
        line.split()[1]
        for line in _text(KPROBES / "blacklist").splitlines()
        if len(line.split()) > 1
    }


def capabilities() -> set[str]:
    """Effective capabilities of this process, of those that matter here."""
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", _text(STATUS), re.MULTILINE)
    effective = int(match[1], 16) if match else 0
    return {name for name, bit in _CAPABILITIES.items() if effective >> bit & 1}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
