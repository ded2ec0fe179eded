# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: the checks of mlxtrace.checks on drivers that make one mistake each.

The modules in MODULES, which have all mistakes, take the place of the lab's while this runs. Prints
a line of JSON for each mistake and check: both names, status, reason, seconds. The name of no
mistake is -: the checks have to hold then.

usage: broken.py MODULES MISTAKE[=ID,...]...   (without IDs: all of ASKED that cannot hang, and its
own)
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.broken.table import ASKED, FAILS
from tests.lab.guest.contract import SOURCE, TARGET, LabFirmware
from tests.lab.guest.faulty import FAULTS

from mlxlab import firmware
from mlxtrace.checks import Context, all_checks, readers, run
from mlxtrace.checks.limits import SHARE, limits

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

NONE = "-"
PARAMETER = Path("/sys/module/vfio/parameters/broken")
UPDATES = Path("/lib/modules") / os.uname().release / "updates"
# What vfs leaves loaded, since it is needed by others as well.
CORE = ("vfio_iommu_type1", "vfio_pci_core", "vfio", "vfio_virqfd")
# Each check makes few and small images here: there are many drivers to ask.
SIZE_BYTES = 256 << 10
CYCLES = 8
RACES = 6
# What does not come within that is not going to.
PATIENCE_S = 3.0


@contextlib.contextmanager
def modules_of(folder: Path) -> Iterator[None]:
    """Have the modules in ``folder`` loaded for a while."""
    own = Path("/run/own-modules")
    shutil.copytree(UPDATES, own)
    try:
        _load(folder)
        yield
    finally:
        _load(own)
        shutil.rmtree(own)


def _load(folder: Path) -> None:
    vfs = ["sh", f"{os.environ['MLXLAB_GUEST']}/vfs"]
    subprocess.run([*vfs, "down"], check=True)
    for module in CORE:
        if Path("/sys/module", module).exists():
            subprocess.run(["/sbin/modprobe", "-r", module], check=True)
    for file in folder.glob("*.ko"):
        shutil.copy(file, UPDATES / file.name)
    subprocess.run([*vfs, "up"], check=True)


def ask(mistake: str, wanted: Collection[str]) -> None:
    """Run the checks ``wanted``, or all, on a driver that makes ``mistake``, and print the rest."""
    for vf in (SOURCE, TARGET):
        firmware.apply(vf, [f"size_bytes={SIZE_BYTES}"])
    context = Context(SOURCE, TARGET, firmware=LabFirmware(), cycles=CYCLES)
    concerned = FAILS.get(mistake, set())
    checks = {check.id: check for check in all_checks()}
    safe = {name for name in ASKED if not checks[name].may_hang}
    for identifier, check in checks.items():
        if identifier in (wanted or safe | concerned):
            line = {"mistake": mistake, "id": identifier}
            began = time.monotonic()
            try:
                outcome = run(check, context)
            except Exception:  # noqa: BLE001 - what is wrong with a check is the test's to say
                line |= {"status": "broken", "reason": traceback.format_exc()}
                print(json.dumps(line), flush=True)
                continue
            line |= {"status": outcome.status, "reason": outcome.reason}
            print(json.dumps(line | {"seconds": round(time.monotonic() - began, 2)}), flush=True)
            if outcome.hung:
                raise SystemExit(1)
    for name in () if wanted else concerned & FAULTS.keys():
        firmware.apply(SOURCE, [f"fault={FAULTS[name].rule}"])
        outcome = run(checks[FAULTS[name].check], context)
        firmware.apply(SOURCE, ["fault=clear"])
        line = {"mistake": mistake, "id": name}
        print(json.dumps(line | {"status": outcome.status, "reason": outcome.reason}), flush=True)


def main() -> int:
    """Ask about each mistake that is named."""
    limits.check_s = PATIENCE_S * SHARE
    readers.REPEATED, readers.RACES = 1, RACES
    first_free = os.dup(0)
    os.close(first_free)
    with modules_of(Path(sys.argv[1])):
        for word in sys.argv[2:]:
            mistake, _, names = word.partition("=")
            PARAMETER.write_text(mistake, encoding="ascii")
            try:
                ask(mistake, [name for name in names.split(",") if name])
            finally:
                PARAMETER.write_text(NONE, encoding="ascii")
                # A mistake may leave data files open, which keep the modules.
                os.closerange(first_free, os.sysconf("SC_OPEN_MAX"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
