# SPDX-License-Identifier: GPL-2.0-or-later
"""gen-bindings against its peers: time, memory, and how much of the header each gets right.

Run alone: bench/bindings.py [--kernel DIR] [--runs N]. Peers that are not installed are named and
left out. Nothing is written outside a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
import timeit
from pathlib import Path

from genbindings import ifc, uapi
from genbindings.compiler import Compiler
from genbindings.locate import kernel_tree

BIN = Path(sys.executable).parent


def measure(command: list[str], runs: int) -> tuple[float, float, int] | None:
    """Return the median seconds, the peak MiB of one process, and the status, of ``command``."""
    seconds: list[float] = []
    peak = 0.0
    status = 0
    for _ in range(runs):
        begin = time.perf_counter()
        child = os.posix_spawnp(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
        )
        _, status, usage = os.wait4(child, 0)
        seconds.append(time.perf_counter() - begin)
        peak = max(peak, usage.ru_maxrss / 1024)
    return statistics.median(seconds), peak, os.waitstatus_to_exitcode(status)


def peers(header: Path, include: Path, folder: Path, prelude: Path) -> dict[str, list[str]]:
    """Return the command line of each peer for ``header``."""
    out = str(folder / "peer.py")
    search = [f"-I{include}"]
    return {
        "ctypesgen": ["ctypesgen", "--all-headers", *search, "-o", out, str(header)],
        "clang2py": [
            *["clang2py", "-i", "-o", out, f"--clang-args=-I{include} -include {prelude}"],
            str(header),
        ],
        "bindgen": ["bindgen", str(header), "-o", out, "--", *search, "-include", str(prelude)],
        "castxml": [
            *["castxml", "--castxml-output=1", "-x", "c", *search, "-include", str(prelude)],
            *["-o", out, str(header)],
        ],
    }


def find(program: str) -> str | None:
    """Return the path of a peer, in this environment or on PATH."""
    beside = BIN / program
    return str(beside) if beside.exists() else shutil.which(program)


def generators(kernel: Path, runs: int) -> None:
    """Print the table of generators."""
    print(f"{'header':<12} {'tool':<14} {'time':>8} {'ratio':>7} {'memory':>9}  status")
    compiler = Compiler()
    vfio, include = uapi.install(kernel / "include/uapi/linux/vfio.h", kernel, compiler.target)
    mlx5 = kernel / "include/linux/mlx5/mlx5_ifc.h"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prelude = folder / "prelude.h"
        for header, text in ((vfio, ""), (mlx5, ifc.prelude())):
            prelude.write_text(text)
            own = [str(BIN / "gen-bindings"), "--header", str(header), "-o", str(folder / "own.py")]
            own += ["--include", str(include)] if header == vfio else []
            base = _row(header.name, "gen-bindings", own, runs, None)
            for tool, command in peers(header, include, folder, prelude).items():
                path = find(tool)
                if path is None:
                    print(f"{header.name:<12} {tool:<14} not installed")
                else:
                    _row(header.name, tool, [path, *command[1:]], runs, base)


def _row(header: str, tool: str, command: list[str], runs: int, base: float | None) -> float:
    result = measure(command, runs)
    assert result is not None
    seconds, peak, status = result
    ratio = seconds / base if base else 1.0
    print(f"{header:<12} {tool:<14} {seconds:6.3f} s {ratio:6.2f}x {peak:5.0f} MiB  {status}")
    return seconds


def accessors() -> None:
    """Print what the accessors of mlx5_ifc cost."""
    begin = time.perf_counter()
    from mlxuapi import mlx5_ifc

    imported = time.perf_counter() - begin
    qpc, caps = mlx5_ifc.qpc(), mlx5_ifc.cmd_hca_cap()

    def build() -> None:
        message = mlx5_ifc.create_qp_in()
        message.opcode = 0x500
        context = message.qpc
        context.st, context.pd, context.uar_page = 0, 5, 3
        context.cqn_snd, context.log_rq_size, context.log_sq_size = 7, 4, 4

    def put() -> None:
        qpc.log_rq_size = 4

    def get() -> int:
        return qpc.log_rq_size

    print(f"\nimport mlxuapi.mlx5_ifc      {imported * 1e3:8.1f} ms")
    for what, call in (
        ("set one field", put),
        ("get one field", get),
        ("build create_qp_in", build),
        (f"decode {len(caps.to_dict())} capabilities", caps.to_dict),
    ):
        seconds = min(timeit.repeat(call, number=5000, repeat=5)) / 5000
        print(f"{what:<28} {seconds * 1e6:8.2f} us")


def main() -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kernel", default="linux-source-6.12", help="kernel tree, or its package")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    generators(kernel_tree(arguments.kernel, Path.cwd()), arguments.runs)
    accessors()


if __name__ == "__main__":
    main()
