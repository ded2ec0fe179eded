# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``mlxtrace doctor`` looks at on the host: rights, settings, headers, libraries."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from mlxtrace import btf, host
from mlxtrace.capture import load_bcc
from mlxtrace.doctor import Finding, Verdict
from mlxtrace.fentry import OLD_LIBBPF

if TYPE_CHECKING:
    from collections.abc import Iterator


def privileges() -> Iterator[Finding]:
    """Who runs this, and what the process may."""
    if lacking := host.lacking_privileges():
        yield Finding("privileges", Verdict.MISSING, *lacking)
        return
    held = host.capabilities()
    if "CAP_SYS_ADMIN" in held:
        who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
        yield Finding("privileges", Verdict.OK, f"{who} with CAP_SYS_ADMIN")
        return
    # The kernel hands out BTF by its id only to CAP_SYS_ADMIN (bpf_btf_get_fd_by_id).
    yield Finding(
        "privileges",
        Verdict.DEGRADED,
        "CAP_BPF and CAP_PERFMON, without CAP_SYS_ADMIN: fentry on a module cannot be used, so "
        "the kernel may skip the completion of a SAVE, and each read and write costs more",
        "run it with CAP_SYS_ADMIN too",
    )


def lockdown() -> Iterator[Finding]:
    """Whether the kernel is locked down, which makes root get EPERM."""
    if reason := host.locked_down():
        yield Finding("lockdown", Verdict.MISSING, *reason)
        return
    level = host.lockdown()
    said = f"{level}, which allows probes" if level else f"none seen ({host.LOCKDOWN} is absent)"
    yield Finding("lockdown", Verdict.OK, said)


def sysctls() -> Iterator[Finding]:
    """Settings that keep probes from firing, or make them slow."""
    found = host.forbidding_sysctls()
    for said, remedy in found:
        yield Finding("sysctls", Verdict.MISSING, said, remedy)
    if host.setting("net/core/bpf_jit_enable") == "0":
        yield Finding(
            "sysctls",
            Verdict.DEGRADED,
            "net.core.bpf_jit_enable is 0: each probe is interpreted, and costs several times as "
            "much",
            "sysctl net.core.bpf_jit_enable=1",
        )
    elif not found:
        yield Finding("sysctls", Verdict.OK, "probes fire, and are compiled")


def headers() -> Iterator[Finding]:
    """The kernel's headers, for a bcc that wants more of them than mlxtrace brings along."""
    said = host.headers() or "none of the kernel's are there, and normally none are needed"
    yield Finding("headers", Verdict.OK, said)


def libbpf() -> Iterator[Finding]:
    """The library that reads BTF and attaches probes."""
    name = btf.library()._name
    if btf.loads_programs():
        yield Finding("libbpf", Verdict.OK, name)
        return
    yield Finding(
        "libbpf",
        Verdict.DEGRADED,
        f"{name}: {OLD_LIBBPF}, so that fentry on a module cannot be used, the kernel may skip the "
        "completion of a SAVE, and each read and write costs more",
        "update libbpf",
    )


def bcc() -> Iterator[Finding]:
    """The compiler; whether it is too old for this kernel is told by compiling the program."""
    module = load_bcc()
    yield Finding(
        "bcc",
        Verdict.OK,
        f"{module.__version__} from {module.__file__}, on kernel {platform.release()}",
    )
