# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's part of ``mlxlab qemu``: the tracer once, and the scenarios one after the other.

``python -m mlxlab.vmm.guest QEMU_ROOT QEMU_VERSION SCENARIO...``
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genbindings.errors import Error
from mlxlab import firmware
from mlxlab.vmm import scenarios
from mlxlab.vmm.drive import Migration
from mlxlab.vmm.process import Installation
from mlxtrace.vfio import Device, MigrationFlags

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RECORDING = "trace.mlxrec"
RESULT = "result.json"
ABOUT = "run.json"
_FILES = Path("/run/mlxlab/vmm")
# Compiling the BPF program takes 10 to 20 s under emulation.
_TRACER_START_S = 300.0
_TRACER_END_S = 60.0


@contextlib.contextmanager
def tracing(out: Path, vfs: Sequence[str]) -> Iterator[None]:
    """Run ``mlxtrace precopy`` on ``vfs`` beside the block, recording to ``out``.

    Raises:
        Error: it does not start, or failed.
    """
    command = ["mlxtrace", "precopy", "-v", "-w", str(out / RECORDING)]
    for vf in vfs:
        command += ["-d", vf]
    said = out / "tracer.stderr"
    with (out / "tracer.txt").open("wb") as rows, said.open("wb") as errors:
        tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=rows, stderr=errors)
        try:
            _until_traced(tracer, said)
            yield
        finally:
            if tracer.poll() is None:
                tracer.terminate()
            try:
                tracer.wait(_TRACER_END_S)
            except subprocess.TimeoutExpired:
                tracer.kill()
                tracer.wait()
    if tracer.returncode:
        raise Error(f"the tracer failed: {_last_line(said)}")


def _until_traced(tracer: subprocess.Popen[bytes], said: Path) -> None:
    deadline = time.monotonic() + _TRACER_START_S
    while "Tracing" not in said.read_text(errors="replace"):
        if tracer.poll() is not None:
            raise Error(f"the tracer does not start: {_last_line(said)}")
        if time.monotonic() > deadline:
            raise Error(f"the tracer has not started after {_TRACER_START_S:.0f} s")
        time.sleep(0.1)


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def run(installation: Installation, names: Sequence[str], out: Path, vfs: dict[str, str]) -> None:
    """Run the scenarios ``names``; each leaves a folder of its own in ``out``.

    Raises:
        Error: the tracer or a QEMU does not work, or a migration does not end.
    """
    with Device.open(vfs["source"]) as vf:
        precopy = MigrationFlags.PRE_COPY in vf.require_migration()
    chosen = scenarios.pick(names, precopy=precopy)
    left_out = [one.name for one in scenarios.pick(names) if one not in chosen]
    about = {
        "qemu": ".".join(map(str, installation.version)),
        "kernel": os.uname().release,
        "scenarios": [one.name for one in chosen],
        "left_out": left_out,
    }
    _write(out / ABOUT, about)
    _FILES.mkdir(parents=True, exist_ok=True)
    with tracing(out, list(vfs.values())):
        for scenario in chosen:
            folder = out / scenario.name
            folder.mkdir(exist_ok=True)
            began = time.monotonic()
            result = Migration(scenario, installation, vfs, _FILES).run(folder)
            result["precopy"] = precopy
            result["objects"] = firmware.figures(os.environ["MLXLAB_PF"])["objects"].splitlines()
            _write(folder / RESULT, result)
            took = time.monotonic() - began
            print(f"{scenario.name}: {result['migration']} ({took:.1f} s)", flush=True)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def main() -> int:
    """Run what the command line says; errors are one line."""
    root, version, *names = sys.argv[1:]
    numbers = tuple(int(number) for number in version.split("."))
    vfs = {"source": os.environ["MLXLAB_VF0"], "target": os.environ["MLXLAB_VF1"]}
    try:
        run(Installation(Path(root), numbers), names, Path(os.environ["MLXLAB_OUT"]), vfs)
    except Error as error:
        print(f"mlxlab: error: {error}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
