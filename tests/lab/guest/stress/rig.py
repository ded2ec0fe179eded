# SPDX-License-Identifier: GPL-2.0-or-later
"""What the parts of the stress run share: the VFs, their knobs, and the note of what was wrong."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlxlab import firmware
from mlxtrace.migrate import migrate_to_device
from mlxtrace.migrate_model import Options, summary
from mlxtrace.vfio import Device, End, SavingStream, State, VfioError, errno_name
from mlxtrace.vfio_ioctl import ioctl
from mlxuapi import vfio as uapi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PF = os.environ["MLXLAB_PF"]
SOURCE, TARGET = os.environ["MLXLAB_VF0"], os.environ["MLXLAB_VF1"]
# Small, so that much happens in little time; a command without an answer is soon given up.
_VF_KNOBS = ("size_bytes=1048576", "working_set_bytes=262144", "latency_us=200")
_PF_KNOBS = ("timeout_ms=400",)
# How long something may take that must come: many times a command's time on a slow machine.
PATIENCE_S = 20.0
_AT_REST = {"initiator_suspended": 0, "responder_suspended": 0, "tracked": 0}


@dataclass
class Tally:
    """How often a part did what, and what was not as it must be."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def check(self, good: object, what: str) -> None:
        """Note ``what`` unless ``good``."""
        if not good:
            self.wrong.append(what)
            print(f"stress: {self.name}: WRONG: {what}", flush=True)

    def at_rest(self, vf: Device, when: str) -> None:
        """Check that ``vf`` runs, in both directions, and that its changes are not tracked."""
        state, found = vf.state(), status(vf.name)
        self.check(state is State.RUNNING, f"{when}: {state.name}, not RUNNING")
        self.check(found == _AT_REST, f"{when}: RUNNING, but the firmware has {found}")

    def migration(self, when: str) -> None:
        """Check that an undisturbed migration goes well."""
        self.counts["migrations"] += 1
        with Device.open(SOURCE) as source, Device.open(TARGET) as target:
            result = migrate_to_device(source, target, Options(min_rounds=1, max_rounds=2))
        self.check(result.error is None, f"{when}: the next migration fails: {result.error}")
        if result.error is None:
            equal = summary(result)["state_hashes_equal"]
            self.check(equal, f"{when}: the next migration's state is another one")

    def nothing_left(self, when: str) -> None:
        """Check that the driver has no PD, mkey or command when it has no session."""
        found = objects()
        self.check(not any(found.values()), f"{when}: left behind: {found}")


def settle() -> None:
    """Set the knobs, as after every loading of the firmware."""
    firmware.apply(PF, [*_PF_KNOBS, "fault=clear"])
    for vf in (SOURCE, TARGET):
        firmware.apply(vf, ["fault=clear", *_VF_KNOBS])


def _figures(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def status(vf: str) -> dict[str, int]:
    """Return what the firmware has suspended, and whether it tracks changes."""
    found = _figures((firmware.ROOT / vf / "status").read_text())
    return {name: found[name] for name in _AT_REST}


def counter(vf: str, name: str) -> int:
    """Return one counter of the firmware's."""
    return _figures((firmware.ROOT / vf / "counters").read_text())[name]


def objects() -> dict[str, int]:
    """Return the PDs, mkeys and asynchronous commands that the driver has."""
    return _figures((firmware.ROOT / PF / "objects").read_text())


@contextlib.contextmanager
def faulty(device: str, *rules: str) -> Iterator[None]:
    """Have the firmware of ``device`` fail by ``rules`` until the block ends."""
    file = firmware.ROOT / device / "faults"
    for rule in rules:
        file.write_text(rule)
    try:
        yield
    finally:
        file.write_text("clear")


def faults(device: str) -> list[tuple[int, int]]:
    """Return, for each rule of ``device``, how often its command came and how often it struck."""
    text = (firmware.ROOT / device / "faults").read_text()
    return [(int(seen), int(hit)) for seen, hit in re.findall(r"seen (\d+), hit (\d+)", text)]


def rebind(vf: str) -> None:
    """Take ``vf`` from its driver and give it back."""
    Path("/sys/bus/pci/drivers/mlx5_vfio_pci/unbind").write_text(vf)
    bind(vf)


def bind(vf: str) -> None:
    """Give ``vf`` to the driver that it is set aside for."""
    Path("/sys/bus/pci/drivers_probe").write_text(vf)


def drain(
    stream: SavingStream, take: Callable[[bytes], None] | None = None, size: int = 1 << 20
) -> End:
    """Read to the temporary or the final end, and return which it was.

    Raises:
        VfioError: as :meth:`SavingStream.read`; ETIME when nothing comes.
    """
    while True:
        answer = stream.read(size)
        if isinstance(answer, bytes):
            if take:
                take(answer)
        elif answer is not End.NOT_YET:
            return answer
        elif not stream.wait(PATIENCE_S):
            # Whoever was told to wait is told, too, when no data comes.
            raise VfioError(stream.device, "waiting for data", errno.ETIME)


def answer_of(call: Callable[[], object]) -> str:
    """Return the name of the errno that ``call`` fails with, or ``ok``."""
    try:
        call()
    except OSError as error:
        return errno_name(error.errno or errno.EIO)
    except VfioError as error:
        return errno_name(error.errno)
    return "ok"


def precopy_info(fd: int) -> int:
    """Ask the data file ``fd`` what there is (VFIO_MIG_GET_PRECOPY_INFO); return the bytes.

    Raises:
        OSError: what the kernel answered; EBADF when there is no file (-1).
    """
    if fd < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    info = uapi.vfio_precopy_info()
    ioctl(fd, uapi.VFIO_MIG_GET_PRECOPY_INFO, info, again=False)
    return int(info.initial_bytes) + int(info.dirty_bytes)


def patiently(holds: Callable[[], bool]) -> bool:
    """Wait until ``holds`` does; return whether it did in time."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.01)
    return False


def poll_now(fd: int) -> int:
    """Return what poll says of ``fd`` at once."""
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLOUT | select.POLLRDHUP)
    return dict(poll.poll(0)).get(fd, 0)
