# SPDX-License-Identifier: GPL-2.0-or-later
"""The generators that gen-bindings is compared with, each run as its documentation says.

All get the header as it is. What mlx5_ifc.h takes from the rest of the kernel (``u8``, ``BIT``) is
given to those that can include a file; gen-bindings has it built in.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from genbindings.locate import cache

REQUIREMENTS = Path(__file__).with_name("peers.txt")


@dataclass(frozen=True)
class Peer:
    """A generator: its command line, and whether it writes a Python module."""

    name: str
    command: list[str]
    python: bool = True


def environment() -> Path:
    """Return the bin folder of an environment with the peers, made when it is missing."""
    folder = cache() / "bench/peers"
    done = folder / "peers.txt"
    if not done.is_file() or done.read_text() != REQUIREMENTS.read_text():
        print("bench: installing the peers", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "-q"]
        subprocess.run(
            [*pip, "--disable-pip-version-check", "-r", str(REQUIREMENTS)],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        shutil.copy(REQUIREMENTS, done)
    return folder / "bin"


_TINYGRAD = """import sys
from tinygrad.runtime.support.autogen import gen
header, output, *args = sys.argv[1:]
open(output, "w").write(gen("header", [header], args=args))
"""
_CFFI = """import cffi, sys
ffi = cffi.FFI()
ffi.cdef(open(sys.argv[1]).read())
"""
_CSTRUCT = """import sys
from dissect.cstruct import cstruct
cstruct().load(open(sys.argv[1]).read())
"""


def peers(header: Path, include: Path, output: Path, prelude: Path) -> list[Peer]:
    """Return the peers, with command lines that turn ``header`` into ``output``.

    Args:
        header: the header, as installed for user space.
        include: where its includes are.
        output: the file to write.
        prelude: a file to include first.
    """
    binaries = environment()
    python = str(binaries / "python")
    search = f"-I{include}"
    given = ["-include", str(prelude)]
    return [
        Peer(
            "ctypesgen",
            [
                *[str(binaries / "ctypesgen"), "--all-headers", search, "-o", str(output)],
                str(header),
            ],
        ),
        Peer(
            "clang2py",
            [
                *[str(binaries / "clang2py"), "-i", "-o", str(output)],
                *[f"--clang-args={search} -include {prelude}", str(header)],
            ],
        ),
        Peer("tinygrad", [python, "-c", _TINYGRAD, str(header), str(output), search, *given]),
        Peer("cffi", [python, "-c", _CFFI, str(header)]),
        Peer("dissect.cstruct", [python, "-c", _CSTRUCT, str(header)]),
        Peer("bindgen", ["bindgen", str(header), "-o", str(output), "--", search, *given], False),
        Peer(
            "castxml",
            [
                *["castxml", "--castxml-output=1", "-x", "c", search, *given],
                *["-o", str(output), str(header)],
            ],
            False,
        ),
    ]
