# SPDX-License-Identifier: GPL-2.0-or-later
"""What bcc's failures mean, in words that say what to do: bcc's own are misleading or none."""

from __future__ import annotations

import platform
import re
import sys
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxtrace import host

if TYPE_CHECKING:
    from types import ModuleType

_MISSING = re.compile(
    r"incomplete type '?(?:struct |enum )?(bpf_\w+)|unknown type name '(bpf_\w+)'"
)
_REFUSED = re.compile(r"super-user privileges|operation not permitted|permission denied", re.I)


def not_imported(error: BaseException) -> Error:
    """Return what to say when ``import bcc`` raised ``error``."""
    if isinstance(error, ModuleNotFoundError) and error.name in (None, "bcc"):
        return Error(
            "bcc for Python is not there (Debian and Ubuntu: apt install python3-bpfcc; Fedora "
            "and RHEL: dnf install python3-bcc)",
            f"{sys.prefix} must see the system's packages: make a virtual environment with "
            "--system-site-packages, and never install bcc from PyPI, which is something else",
        )
    if isinstance(error, ModuleNotFoundError):
        return Error(
            f"bcc does not load: it lacks the module {error.name}",
            "reinstall python3-bpfcc (Fedora and RHEL: python3-bcc)",
        )
    # ctypes: OSError for a library that is absent or does not link, AttributeError for a function
    # that the Python part expects and the library has not.
    return Error(
        f"bcc does not load: {error}",
        "its Python part, libbcc and LLVM are not of one release: reinstall python3-bpfcc and "
        "libbpfcc (Fedora and RHEL: python3-bcc and bcc)",
    )


def not_bcc(module: ModuleType) -> Error:
    """Return what to say of a module named bcc that is not bcc."""
    return Error(
        f"{module.__file__} is not bcc, but the unrelated package of that name from PyPI",
        "pip uninstall bcc, then install the system's python3-bpfcc",
    )


def too_old(module: ModuleType) -> Error:
    """Return what to say of a bcc that cannot read a BPF ring buffer."""
    return Error(
        f"bcc {module.__version__} is too old: it cannot read a ring buffer, as 0.16 can",
        "update bcc (python3-bpfcc; Fedora and RHEL: python3-bcc)",
    )


def not_compiled(output: str, failure: str, version: str) -> Error:
    """Return what to say when the program was not compiled or created.

    Args:
        output: what clang and bcc wrote to stderr.
        failure: the text of bcc's exception.
        version: of bcc.
    """
    first = next((line for line in output.splitlines() if "error:" in line), failure).strip()
    if match := _MISSING.search(output):
        return Error(
            f"bcc {version} is older than the kernel {platform.release()}, whose headers use "
            f"{match[1] or match[2]}",
            "update bcc (python3-bpfcc; Fedora and RHEL: python3-bcc), on Debian from backports",
        )
    if ("headers" in output or ".h' file not found" in output) and not host.headers():
        try:
            host.require_headers()
        except Error as error:
            return error
    if _REFUSED.search(output + failure):
        reason, hint = host.why_refused()
        return Error(f"the kernel refuses the BPF program: {reason}", hint)
    return Error(
        f"the BPF program does not compile: {first}",
        "mlxtrace precopy --ebpf prints the program; mlxtrace doctor says what else is wrong",
    )


def not_loaded(name: str, output: str, failure: str) -> Error:
    """Return what to say when the kernel did not take the program ``name``."""
    if _REFUSED.search(failure) or not output.strip():
        reason, hint = host.why_refused()
        return Error(f"the kernel refuses the BPF program {name}: {reason}", hint)
    last = output.strip().splitlines()[-1].strip()
    return Error(
        f"the kernel's verifier refuses the BPF program {name}: {last}",
        "please report it with the kernel's version and the output of mlxtrace precopy --ebpf",
    )
