# SPDX-License-Identifier: GPL-2.0-or-later
"""gen-bindings against its peers: time, memory, and how much of the header each gets right.

Run alone: bench/bindings.py [--kernel DIR] [--runs N]. The peers are installed into the cache;
bindgen and castxml, which write no Python, take part where the system has them. Nothing is written
outside the cache and a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bindings_truth
from bindings_peers import Peer, environment, peers

from genbindings import ifc, uapi
from genbindings.compiler import Compiler
from genbindings.generate import Options, model
from genbindings.locate import kernel_tree

BIN = Path(sys.executable).parent
COLUMNS = {"structs": "structs", "enumerators": "enums", "macros": "macros", "ioctls": "ioctls"}


@dataclass(frozen=True)
class Measured:
    """What one command took: median seconds, its own peak MiB, its exit status."""

    seconds: float
    peak_mib: float
    status: int


def measure(command: list[str], runs: int) -> Measured:
    """Run ``command`` so many times."""
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
    return Measured(statistics.median(seconds), peak, os.waitstatus_to_exitcode(status))


def generators(kernel: Path, runs: int) -> None:
    """Print the table of generators."""
    compiler = Compiler()
    vfio, include = uapi.install(kernel / "include/uapi/linux/vfio.h", kernel, compiler.target)
    mlx5 = kernel / "include/linux/mlx5/mlx5_ifc.h"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        output, prelude = folder / "bindings.py", folder / "prelude.h"
        for header, text in ((vfio, ""), (mlx5, ifc.prelude())):
            prelude.write_text(text)
            found, _ = model(Options(header.name, kernel=kernel))
            source = f'{text}\n#include <stddef.h>\n#include "{header}"'
            options = [f"-I{include}"]
            expected = bindings_truth.truth(found, source, options, folder)
            (folder / "truth.json").write_text(json.dumps(expected))
            _title(header.name, expected)
            own = Peer(
                "gen-bindings",
                [
                    *[str(BIN / "gen-bindings"), "--header", header.name, "-o", str(output)],
                    *["--kernel", str(kernel)],
                ],
            )
            base = _row(own, sys.executable, output, runs, None)
            python = str(environment() / "python")
            for peer in peers(header, include, output, prelude):
                _row(peer, python, output, runs, base)


def _title(header: str, expected: dict[str, Any]) -> None:
    totals = "".join(f"{f'{name}/{len(expected[kind])}':>12}" for kind, name in COLUMNS.items())
    print(f"\n{header:<16} {'time':>7} {'ratio':>6} {'memory':>8} {'import':>8}{totals}")


def _row(peer: Peer, python: str, output: Path, runs: int, base: float | None) -> float:
    output.unlink(missing_ok=True)
    if shutil.which(peer.command[0]) is None:
        print(f"{peer.name:<16} not installed")
        return 0.0
    result = measure(peer.command, runs)
    ratio = result.seconds / base if base else 1.0
    line = f"{peer.name:<16} {result.seconds:5.2f} s {ratio:5.2f}x {result.peak_mib:4.0f} MiB"
    if result.status or not output.is_file():
        print(f"{line}  refuses the header (exit status {result.status})")
    elif not peer.python:
        print(f"{line}  writes no Python")
    else:
        print(line + _judged(python, output))
    return result.seconds


def _judged(python: str, output: Path) -> str:
    judge = str(Path(bindings_truth.__file__))
    truth = str(output.with_name("truth.json"))
    done = subprocess.run(
        [python, judge, truth, str(output)], check=False, capture_output=True, text=True
    )
    if done.returncode:
        return f"  cannot be imported: {done.stderr.strip().splitlines()[-1]}"
    found = json.loads(done.stdout)
    return f" {found['import_ms']:5.0f} ms" + "".join(f"{found[kind]:>12.0f}" for kind in COLUMNS)


def accessors() -> None:
    """Print what the accessors of mlx5_ifc cost."""
    script = "import time; t = time.perf_counter(); import mlxuapi.mlx5_ifc; "
    script += "print(time.perf_counter() - t)"
    imports = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True).stdout)
        for _ in range(9)
    ]
    from mlxuapi import mlx5_ifc

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

    print(f"\nimport mlxuapi.mlx5_ifc      {statistics.median(imports) * 1e3:8.1f} ms")
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
