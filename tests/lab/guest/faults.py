# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: one migration for each fault that the firmware can be told to have.

Writes, per case, how the migration ended, how often the fault struck, what the firmware refused,
and whether the next migration, without faults, went well. Where a driver has no PRE_COPY, there is
one kind of image, the final one.

usage: faults.py RESULT [CASE]...
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.lab.guest import witness

from mlxlab import firmware
from mlxtrace.vfio import Device, MigrationFlags, State, VfioError

PF = os.environ["MLXLAB_PF"]
SOURCE, TARGET = os.environ["MLXLAB_VF0"], os.environ["MLXLAB_VF1"]


@dataclasses.dataclass(frozen=True)
class Case:
    """A rule for one device, knobs for it, and how to migrate."""

    rule: str = ""
    device: str = SOURCE
    knobs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


CASES = {
    "query": Case("query nth=1 status=3 syndrome=0xabc001"),
    "suspend-initiator": Case("suspend_initiator status=4 syndrome=0xabc002"),
    "suspend-responder": Case("suspend_responder status=4 syndrome=0xabc003"),
    "resume-responder": Case("resume_responder status=4 syndrome=0xabc004", TARGET),
    "resume-initiator": Case("resume_initiator status=4 syndrome=0xabc005", TARGET),
    "save-initial": Case("save_initial status=5 syndrome=0xabc006"),
    "save-middle": Case("save_middle nth=1 status=9 syndrome=0xabc007"),
    "save-final": Case("save_final status=5 syndrome=0xabc008"),
    "save-every": Case("save status=5 syndrome=0xabc009"),
    "load": Case("load nth=1 status=5 syndrome=0xabc00a", TARGET),
    "save-undelivered": Case("save_initial errno=5"),
    "save-refused-at-once": Case("save_initial submit_errno=11"),
    "load-undelivered": Case("load errno=5", TARGET),
    "save-at-once": Case("save delay_us=0"),
    "save-slow": Case("save_initial delay_us=400000"),
    "load-slow": Case("load nth=1 delay_us=400000", TARGET),
    "save-never": Case("save_initial delay_us=never"),
    "load-never": Case("load nth=1 delay_us=never", TARGET),
    "save-damaged": Case("save_initial damage"),
    "load-damaged": Case("load nth=1 damage", TARGET),
    "disable-vf": Case("save_initial disable_vf delay_us=100000"),
    "no-pd": Case("alloc_pd nth=1 errno=12", PF),
    "no-mkey": Case("create_mkey nth=1 errno=12", PF),
    "growth": Case("", SOURCE, ("growth_bytes=16777216",)),
    "stop-copy-growth": Case("", SOURCE, ("growth_bytes=16777216",), ("--no-precopy",)),
}


def migrate(*options: str) -> subprocess.CompletedProcess[str]:
    """Run one migration; a hang is an error."""
    command = ["mlxtrace", "migrate", "--source", SOURCE, "--target", TARGET, *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def has_precopy() -> bool:
    """Return whether the driver offers PRE_COPY."""
    with Device.open(SOURCE) as vf:
        return MigrationFlags.PRE_COPY in vf.require_migration()


def without_precopy(case: Case) -> Case:
    """Return ``case`` with its rule on the only SAVE that there is."""
    rule = case.rule.replace("save_initial", "save_final")
    # 6.1's driver does not wake a reader when a SAVE fails.
    return dataclasses.replace(case, rule=rule, options=("--no-precopy", "--data-timeout", "3"))


def cancel() -> str:
    """Enter pre-copy and leave it again, where the cleanup SAVE is; return the driver's answer."""
    with Device.open(SOURCE) as vf:
        with vf.save(State.PRE_COPY) as stream:
            stream.wait(5)
        try:
            vf.set_state(State.RUNNING)
        except VfioError as error:
            return str(error)
    return "ok"


def hits(device: str) -> int:
    """Return how often the rules of ``device`` struck."""
    text = firmware.figures(device).get("faults", "")
    return sum(int(number) for number in re.findall(r"hit (\d+)", text))


def rebind(vf: str) -> None:
    """Take ``vf`` from its driver and give it back: a disabled one stays so until then."""
    driver = Path("/sys/bus/pci/drivers/mlx5_vfio_pci")
    (driver / "unbind").write_text(vf)
    Path("/sys/bus/pci/drivers_probe").write_text(vf)


def run(name: str, case: Case) -> dict[str, Any]:
    """Run one case and the migration after it."""
    print(f"fault: {name}", flush=True)
    before = firmware.show(case.device)
    words = [f"fault={case.rule}"] if case.rule else []
    firmware.apply(case.device, [*case.knobs, *words])
    log = len(subprocess.run(["dmesg"], capture_output=True, text=True).stdout)
    began = time.monotonic()
    with witness.watching() as seen:
        done = migrate(*case.options)
    took = time.monotonic() - began
    said = subprocess.run(["dmesg"], capture_output=True, text=True).stdout[log:]
    result = {
        "status": done.returncode,
        "stdout": done.stdout,
        "stderr": done.stderr,
        "seconds": round(took, 3),
        "hits": hits(case.device) if case.rule else None,
        "saves": witness.saves(seen),
        "load_seconds": witness.load_seconds(seen),
        # Since Linux 6.9 upstream has mlx5_core tell of a SAVE; the carried series' driver does.
        "refused": re.findall(r"(command 0x\w+/\d refused|SAVE_VHCA_STATE failed): (.*)", said),
        "undelivered": re.findall(
            r"(command 0x\w+/\d not delivered|SAVE_VHCA_STATE was not executed): (-\d+)", said
        ),
        "counters": firmware.figures(SOURCE)["counters"].splitlines(),
    }
    restore = [f"{knob.partition('=')[0]}={before[knob.partition('=')[0]]}" for knob in case.knobs]
    firmware.apply(case.device, [*restore, *(["fault=clear"] if case.rule else [])])
    if "disable_vf" in case.rule:
        rebind(SOURCE)
    after = migrate()
    result["after"] = {"status": after.returncode, "stderr": after.stderr}
    return result


def main() -> None:
    """Run all cases, or those named."""
    firmware.apply(PF, ["timeout_ms=1500"])
    names = sys.argv[2:] or [*CASES, "cleanup"]
    precopy = has_precopy()
    results: dict[str, Any] = {
        name: run(name, CASES[name] if precopy else without_precopy(CASES[name]))
        for name in names
        if name in CASES
    }
    if "cleanup" in names and precopy:
        firmware.apply(SOURCE, ["fault=save_cleanup status=5 syndrome=0xabc00b"])
        said = cancel()
        results["cleanup"] = {"said": said, "hits": hits(SOURCE), "after": {"stderr": ""}}
        firmware.apply(SOURCE, ["fault=clear"])
        results["cleanup"]["after"]["status"] = migrate().returncode
    results["objects"] = firmware.figures(PF)["objects"].splitlines()
    Path(sys.argv[1]).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
