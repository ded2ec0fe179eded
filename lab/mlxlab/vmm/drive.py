# SPDX-License-Identifier: GPL-2.0-or-later
"""Drive one migration between two QEMUs over QMP, and note what each witness must explain."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from genbindings.errors import Error
from mlxlab import firmware
from mlxlab.vmm.process import Installation, Vmm
from mlxlab.vmm.scenarios import COMPLETED
from mlxtrace.vfio import Device, State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlxlab.vmm.scenarios import Fault, Scenario

_DIRTY = "dirty_bytes_per_s"
_POLL_S = 0.02
# MIG_EVENT_PRECOPY_DONE and _FAILED.
_TOLD = re.compile(r"vfio_migration_state_notifier .* state [12]\b")
# Emulated in an emulated machine, a migration takes 2 to 4 s.
_LIMIT_S = 120.0
# A VF that runs changes its state within milliseconds.
_CHANGE_LIMIT_S = 5.0
_TERMINAL = {"completed", "failed", "cancelled"}
# Milliseconds: QEMU's smallest and largest. With no dirty tracking QEMU sends all memory in every
# round and would never converge: the first keeps it in pre-copy, the second lets it stop.
_STAY, _STOP = 1, 2_000_000
# Bytes per second that QEMU is told it has for the last part, so that nothing is too much for it.
_BANDWIDTH = 1 << 40
# Gives the time to arm a fault for what comes after SUSPEND RESPONDER.
_ARMING = "suspend_responder nth=1 delay_us=3000000"


class Migration:
    """One scenario between two VFs."""

    def __init__(
        self,
        scenario: Scenario,
        installation: Installation,
        vfs: dict[str, str],
        files: Path,
    ) -> None:
        """``vfs`` are the VFs by side; sockets and logs go to the folder ``files``."""
        self._scenario = scenario
        self._vfs = vfs
        self._files = files
        self._installation = installation
        self._before: dict[str, dict[str, int]] = {}
        self._raised = False

    def run(self, folder: Path) -> dict[str, Any]:
        """Run it; the logs of both QEMUs are left in ``folder``.

        Returns:
            What happened, as plain data (docs/lab.md, "What is kept").

        Raises:
            Error: a QEMU does not start, or the migration does not end.
        """
        rate = _read(self._vfs["target"], _DIRTY).strip()
        sides = {
            side: Vmm(self._installation, side, vf, self._files, self._scenario.capabilities)
            for side, vf in self._vfs.items()
        }
        try:
            for vmm in sides.values():
                vmm.connect()
            result = self._migrate(sides["source"], sides["target"])
        finally:
            for vmm in sides.values():
                vmm.quit()
                vmm.keep(folder)
            for vf in self._vfs.values():
                firmware.apply(vf, ["fault=clear"])
            firmware.apply(self._vfs["target"], [f"{_DIRTY}={rate}"])
        for side, vmm in sides.items():
            result[side]["exit_status"] = vmm.exit_status
        if result["target"]["vm"] == "ended":
            _flush(self._vfs["target"])
        result["flushed"] = _clocks()
        return result

    def _migrate(self, source: Vmm, target: Vmm) -> dict[str, Any]:
        if self._scenario.stopped:
            source.qmp.command("stop")
        firmware.apply(self._vfs["target"], [f"{_DIRTY}=0"])
        self._before = {side: counters(vf) for side, vf in self._vfs.items()}
        self._arm()
        begin = _clocks()
        self._start(source, target)
        with self._arming():
            info = self._until_ended(source)
            self._until_told(source)
        target_state = self._settle(target, info)
        result: dict[str, Any] = {
            "scenario": self._scenario.name,
            "begin": begin,
            "migration": info.get("status"),
            "error": info.get("error-desc", ""),
            "transferred_bytes": info.get("vfio", {}).get("transferred"),
            "source": {"vm": source.qmp.command("query-status")["status"]},
            "target": {"vm": target_state},
        }
        # What the firmware has now is what the migration did: the target has not started yet, and
        # when it has, its state still is the source's, since its guest changes nothing.
        for side, vf in self._vfs.items():
            result[side] |= {"vf": vf, "state_hash": _read(vf, "state_hash")}
        if info.get("status") == COMPLETED and target.alive():
            target.qmp.command("cont")
            result["target"]["vm"] = target.qmp.command("query-status")["status"]
        result["end"] = _clocks()
        for side, vf in self._vfs.items():
            result[side] |= {
                "state_hash_at_end": _read(vf, "state_hash"),
                "status": _values(_read(vf, "status")),
                "faults": _read(vf, "faults").splitlines(),
                "counters": _difference(counters(vf), self._before[side]),
            }
        if info.get("status") != COMPLETED:
            result["source"]["changing"] = _changes(self._vfs["source"])
        result["events"] = {
            vmm.side: [
                {**event.get("data", {}), "event": event["event"]} for event in vmm.qmp.events
            ]
            for vmm in (source, target)
        }
        return result

    def _start(self, source: Vmm, target: Vmm) -> None:
        for vmm in (source, target):
            capabilities = [
                {"capability": name, "state": True}
                for name in ("events", *self._scenario.capabilities)
            ]
            vmm.qmp.command("migrate-set-capabilities", capabilities=capabilities)
        source.qmp.command("migrate-set-parameters", downtime_limit=_STAY)
        uri = f"unix:{self._files}/stream"
        target.qmp.command("migrate-incoming", uri=uri)
        source.qmp.command("migrate", uri=uri)

    def _until_ended(self, source: Vmm) -> dict[str, Any]:
        deadline = time.monotonic() + _LIMIT_S
        while True:
            info: dict[str, Any] = source.qmp.command("query-migrate")
            if info.get("status") in _TERMINAL:
                return info
            if time.monotonic() > deadline:
                raise Error(
                    f"scenario {self._scenario.name}: the migration was still "
                    f"{info.get('status')} after {_LIMIT_S:.0f} s"
                )
            if not self._raised and self._ripe():
                self._raised = True
                self._end_precopy(source)
            time.sleep(_POLL_S)

    def _end_precopy(self, source: Vmm) -> None:
        if self._scenario.cancel:
            source.qmp.command("migrate_cancel")
            return
        source.qmp.command(
            "migrate-set-parameters",
            downtime_limit=_STOP,
            avail_switchover_bandwidth=_BANDWIDTH,
        )

    def _ripe(self) -> bool:
        """Whether the source has saved enough to stop now."""
        now = _difference(counters(self._vfs["source"]), self._before["source"])
        return now["save_middle"] + now["save_failed"] >= self._scenario.images

    def _arm(self) -> None:
        for fault in self._scenario.faults:
            rule = _ARMING if fault.stopping else fault.rule
            firmware.apply(self._vfs[fault.side], [f"fault={rule}"])

    @contextlib.contextmanager
    def _arming(self) -> Iterator[None]:
        """Arm the late faults, during the block, once the source is being stopped.

        In a thread: QEMU answers nothing while it waits for the driver.
        """
        late = [fault for fault in self._scenario.faults if fault.stopping]
        over = threading.Event()
        thread = threading.Thread(target=self._arm_late, args=(late, over))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _arm_late(self, late: list[Fault], over: threading.Event) -> None:
        while late and not over.wait(_POLL_S):
            if "hit 1" in _read(self._vfs["source"], "faults"):
                for fault in late:
                    firmware.apply(self._vfs[fault.side], [f"fault={fault.rule}"])
                return

    def _until_told(self, source: Vmm) -> None:
        """Wait until QEMU has told its devices how the migration ended.

        It says so in query-migrate before; what the VF is told comes after, in the main loop, and
        so before the next command is answered.
        """
        deadline = time.monotonic() + _LIMIT_S
        while not _TOLD.search(source.log()):
            if time.monotonic() > deadline:
                raise Error(
                    f"scenario {self._scenario.name}: QEMU did not tell {source.vf} "
                    "that the migration is over"
                )
            time.sleep(_POLL_S)

    def _settle(self, target: Vmm, info: dict[str, Any]) -> str:
        """Wait until the target has finished as well, or ended; return its VM's state."""
        deadline = time.monotonic() + _LIMIT_S
        if info.get("status") != COMPLETED:
            # A QEMU that a migration to it fails ends with an error.
            return "ended" if target.wait(_LIMIT_S) else "stuck"
        while target.alive():
            try:
                state = str(target.qmp.command("query-status")["status"])
            except Error:
                break
            if state not in ("inmigrate", "finish-migrate") or time.monotonic() > deadline:
                return state
            time.sleep(_POLL_S)
        target.wait(_LIMIT_S)
        return "ended"


def counters(vf: str) -> dict[str, int]:
    """Return the firmware's counters of a VF."""
    return _values(_read(vf, "counters"))


def _read(vf: str, name: str) -> str:
    # One file, not all: the firmware hashes a VF's whole state for each look at state_hash.
    return (firmware.ROOT / vf / name).read_text()


def _changes(vf: str) -> bool:
    """Return whether the guest of ``vf`` goes on changing its state, as one that runs does."""
    before = _read(vf, "state_hash")
    deadline = time.monotonic() + _CHANGE_LIMIT_S
    while time.monotonic() < deadline:
        if _read(vf, "state_hash") != before:
            return True
        time.sleep(_POLL_S)
    return False


def _values(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def _difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: value - before[name] for name, value in after.items()}


def _flush(vf: str) -> None:
    """Make the tracer report what flowed last: it tells that when something else happens.

    A target that ended by itself did nothing more with its VF; all others did.
    """
    with Device.open(vf) as device:
        device.set_state(State.STOP)


def _clocks() -> dict[str, int]:
    """The tracer's clock and QEMU's, now."""
    return {
        "boot_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        "realtime_ns": time.clock_gettime_ns(time.CLOCK_REALTIME),
    }
