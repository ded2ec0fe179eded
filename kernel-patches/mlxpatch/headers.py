# SPDX-License-Identifier: GPL-2.0-or-later
"""The headers of a kernel: where those of a release are, and what a build against them needs."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from genbindings.errors import Error
from mlxpatch import kernels, vmlinux

# Only the headers of a package have it: they do not change under their path.
_PACKAGED = ".kernelvariables"


@dataclass(frozen=True)
class Headers:
    """A folder that out-of-tree modules are built in, and what its configuration says."""

    path: Path
    release: str
    compiler: str
    compiler_version: str
    debug_info: bool
    btf_configured: bool
    btf_possible: bool  # a vmlinux is here, and pahole
    btf_base: Path | None = None  # else the kernel's BTF, taken from its image
    words: tuple[str, ...] = ()  # make's, for a compiler that the headers do not name themselves

    def identity(self) -> str:
        """Return what decides the outcome of a build: release, exported symbols, tools."""
        symbols = hashlib.sha256((self.path / "Module.symvers").read_bytes()).hexdigest()
        config = hashlib.sha256((self.path / ".config").read_bytes()).hexdigest()
        # An absolute path: warnings and DWARF name it.
        tools = f"{self.compiler_version} {self._btf}"
        return f"{self.path} {self.release} {symbols} {config} {tools}{_changes(self.path)}"

    @property
    def _btf(self) -> str:
        if not self.btf_configured:
            return "no-btf"
        return "btf" if self.btf_possible else "btf-base" if self.btf_base else "no-btf"


def find(release: str) -> Path:
    """Return the headers of kernel ``release``: the installed ones, or those in the cache.

    Raises:
        Error: there are none.
    """
    installed = Path("/lib/modules") / release / "build"
    if (installed / "Makefile").is_file():
        return installed.resolve()
    cached = kernels.cached_kernel(release)
    if cached:
        return cached.headers
    raise Error(
        f"no headers of kernel {release}: {installed} does not exist",
        f"install linux-headers-{release}, or give --headers DIR",
    )


def inspect(path: Path) -> Headers:
    """Look at the headers in ``path``.

    Raises:
        Error: they are not complete, or make or the compiler that they ask for is missing.
    """
    for name in ("Makefile", ".config", "Module.symvers"):
        if not (path / name).is_file():
            raise Error(
                f"{path} is not a prepared kernel headers folder: it has no {name}",
                "give what /lib/modules/RELEASE/build points to",
            )
    if shutil.which("make") is None:
        raise Error("make is missing", "run: apt-get install make (as root)")
    config = (path / ".config").read_text(errors="replace")
    compiler, words = _compiler(path, config)
    return Headers(
        path.resolve(),
        _release(path),
        compiler,
        _version(compiler),
        "\nCONFIG_DEBUG_INFO=y" in config,
        "\nCONFIG_DEBUG_INFO_BTF_MODULES=y" in config,
        (path / "vmlinux").is_file() and shutil.which("pahole") is not None,
        _btf_base(path),
        words,
    )


def _btf_base(path: Path) -> Path | None:
    base = path / vmlinux.NAME
    found = base.is_file() and base.stat().st_size > 0 and shutil.which("pahole") is not None
    return base.resolve() if found else None


def _release(path: Path) -> str:
    for name, pattern in (
        (_PACKAGED, r"KERNELRELEASE = (\S+)"),
        ("include/config/kernel.release", r"(\S+)"),
        ("include/generated/utsrelease.h", r'UTS_RELEASE "([^"]+)"'),
    ):
        file = path / name
        match = re.search(pattern, file.read_text()) if file.is_file() else None
        if match:
            return match[1]
    raise Error(f"{path} does not say which kernel release it is for")


def _compiler(path: Path, config: str) -> tuple[str, tuple[str, ...]]:
    # Debian's headers name the compiler that built the kernel, and make reads it there.
    variables = path / _PACKAGED
    if variables.is_file():
        match = re.search(r"^CC = .*?(gcc(?:-\d+)?)$", variables.read_text(), re.MULTILINE)
        return match[1] if match else "gcc", ()
    if "\nCONFIG_CC_IS_CLANG=y" in config:
        return "clang", ("LLVM=1",) if "\nCONFIG_LD_IS_LLD=y" in config else ("CC=clang",)
    match = re.search(r'^CONFIG_CC_VERSION_TEXT="([\w.-]*gcc[\w.-]*) ', config, re.MULTILINE)
    compiler = match[1] if match else "gcc"
    return compiler, (f"CC={compiler}",) if compiler != "gcc" else ()


def _changes(path: Path) -> str:
    """Return what changes with any header of a tree that somebody works on."""
    if (path / _PACKAGED).is_file():
        return ""
    stamps = hashlib.sha256()
    for top in {path, (path / "source").resolve()}:
        for folder in ("include", "arch"):
            for parent, _, names in sorted(os.walk(top / folder)):
                for name in sorted(names):
                    if name.endswith(".h"):
                        header = f"{parent}/{name}"
                        stat = os.lstat(header)
                        stamps.update(f"{header} {stat.st_mtime_ns} {stat.st_size}\n".encode())
    return f" {stamps.hexdigest()}"


def _version(compiler: str) -> str:
    try:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True)
    except FileNotFoundError:
        package = compiler if compiler != "gcc" else "gcc"
        raise Error(
            f"{compiler} is missing, the compiler that these headers ask for",
            f"run: apt-get install {package} (as root)",
        ) from None
    return done.stdout.splitlines()[0] if done.stdout else compiler
