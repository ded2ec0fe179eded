# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxtrace migrate`` from the outside: usage, one-line errors, output, signals."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace import devices, netaddress
from mlxtrace.migrate import migrate_to_device, nothing
from mlxtrace.migrate_peer import migrate_to_peer
from mlxtrace.migrate_policy import StopReason
from mlxtrace.migrate_progress import shown_on_terminal
from mlxtrace.migrate_receive import migrate_from_peer
from mlxtrace.netaddress import Address
from mlxtrace.stream import Kind
from mlxtrace.vfio import State
from mlxtrace.wire import Peer

from .fake_device import FakeDevice
from .fake_faults import Faults
from .fake_kernel import BDF, OTHER_BDF, FakeKernel
from .migrate_pair import QUICK

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlxtrace.migrate_model import Result


def test_a_device_that_does_not_exist(run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = run("--source", "ffff:ff:1f.7", "--target", BDF)
    assert (status, out) == (1, "")
    assert err.splitlines()[0] == "mlxtrace: error: ffff:ff:1f.7: there is no such device"


def test_a_vf_that_is_not_bound(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "module_available", lambda _: True)
    kernel = FakeKernel(tmp_path, monkeypatch)
    kernel.add("0000:03:00.1", 9, None, None)
    status, _, err = run("--source", BDF, "--target", "0000:03:00.1")
    assert status == 1
    assert kernel.requests == [], "opening the source would have reset it"
    first, hint = err.splitlines()
    assert first == "mlxtrace: error: 0000:03:00.1: no driver is bound to it"
    assert hint.startswith("  hint: echo mlx5_vfio_pci > ")


@pytest.mark.skipif(os.geteuid() != 0, reason="drops root's privileges")
def test_no_root(tmp_path: Path) -> None:
    """A user who may not open the group is told so, by the real open(2)."""
    script = """
import pathlib, sys
import pytest
from fake_kernel import FakeKernel
from genbindings import console
from mlxtrace.cli_migrate import command
kernel = FakeKernel(pathlib.Path(sys.argv.pop(1)), pytest.MonkeyPatch())
for path in (kernel.dev / "vfio").iterdir():
    path.chmod(0)
console.run(command, "mlxtrace")
"""
    from .fake_kernel import __file__ as beside

    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    tmp_path.chmod(0o777)
    # The one capability lets the user read a checkout in root's home, and write nothing.
    unprivileged = [
        "setpriv",
        *("--reuid=65534", "--regid=65534", "--clear-groups"),
        *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
    ]
    python = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(
        [*unprivileged, *python, "--source", BDF, "--target", OTHER_BDF],
        env={**os.environ, "PYTHONPATH": os.path.dirname(beside or "")},  # noqa: PTH120
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    first, hint = done.stderr.splitlines()
    assert first.endswith("vfio/vfio: EACCES: permission denied")
    assert hint.startswith("  hint: run it as root")


def test_a_damaged_byte_is_one_line_with_the_image(
    run: Callable[..., tuple[int, str, str]], vfs: dict[str, FakeDevice]
) -> None:
    status, out, err = run("--source", BDF, "--target", OTHER_BDF, "--flip-byte", "200")
    assert status == 1
    assert err.splitlines()[0].startswith(
        f"mlxtrace: error: {OTHER_BDF}: writing migration data: EINVAL (Invalid argument), in "
        "image 1 (initial), stream offset 24, "
    )
    assert f"source    {BDF}: RUNNING again (from PRE_COPY)" in out
    assert f"target    {OTHER_BDF}: reset (RUNNING)" in out
    assert "damaged   the byte at stream offset 200" in out
    assert vfs[OTHER_BDF].resets == 1


@pytest.mark.parametrize(
    ("policy", "middle", "reason"),
    [
        (["immediate"], 0, StopReason.IMMEDIATE),
        (["rounds", "0"], 0, StopReason.ROUNDS),
        (["rounds", "5"], 5, StopReason.ROUNDS),
        (["qemu", "--switchover-bandwidth", "1G"], 0, StopReason.CONVERGED),
        (
            ["qemu", "--switchover-bandwidth", "1G", "--min-rounds", "1"],
            1,
            StopReason.CONVERGED,
        ),
        (["qemu", "--downtime-limit", "0", "--max-rounds", "3"], 3, StopReason.MAX_ROUNDS),
    ],
)
def test_policies(
    run: Callable[..., tuple[int, str, str]],
    vfs: dict[str, FakeDevice],
    policy: list[str],
    middle: int,
    reason: StopReason,
) -> None:
    words = ["--source", BDF, "--target", OTHER_BDF, "--json", "-", "--policy", *policy]
    status, out, _ = run(*words)
    line = json.loads(out)
    assert status == 0
    assert (line["policy"], line["middle_images"]) == (policy[0], middle)
    assert (line["initial_images"], line["final_images"]) == (1, 1)
    assert line["stop_reason"] == reason
    assert vfs[BDF].hash() == vfs[OTHER_BDF].hash()


def test_the_numbers_of_a_decision_are_shown(
    run: Callable[..., tuple[int, str, str]], vfs: dict[str, FakeDevice]
) -> None:
    words = ["--source", BDF, "--target", OTHER_BDF]
    _, out, _ = run(*words, "--policy", "qemu", "--switchover-bandwidth", "1M")
    size = len(vfs[BDF].memory) * 64
    assert f"policy    qemu: {size / 1024:.1f} KiB to send, 307.2 KiB fit in 300.0 ms" in out
    assert out.splitlines()[-1].startswith("target")


def test_a_bandwidth_limit_is_kept(
    run: Callable[..., tuple[int, str, str]], vfs: dict[str, FakeDevice]
) -> None:
    _, out, _ = run(
        *("--source", BDF, "--target", OTHER_BDF, "--no-precopy"),
        *("--bandwidth-limit", "20K", "--json", "-"),
    )
    line = json.loads(out)
    assert line["bandwidth_limit_bytes_per_s"] == 20 << 10
    # Of the last part nobody waits for the end.
    assert line["total_ns"] >= (line["read_bytes"] / (20 << 10) - 1 / 20) * 1e9
    assert vfs[BDF].hash() == vfs[OTHER_BDF].hash()


def test_a_bar_on_a_terminal(vfs: dict[str, FakeDevice], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    with shown_on_terminal() as tell:
        migrate_to_device(vfs[BDF], vfs[OTHER_BDF], QUICK, tell=tell)
        tell("middle", 2 << 20, 1 << 20)
    assert "2.0 MiB of 1.0 MiB" in shown.getvalue()
    assert "━" in shown.getvalue()


def test_through_a_file(
    run: Callable[..., tuple[int, str, str]], vfs: dict[str, FakeDevice], tmp_path: Path
) -> None:
    path = tmp_path / "vf.mlxstream"
    status, out, _ = run("--source", BDF, "--to", str(path))
    assert status == 0
    assert f"target    {path}: complete" in out
    status, out, _ = run("--from", str(path), "--target", OTHER_BDF)
    assert status == 0
    assert out.startswith(f"migrated: {path} -> {OTHER_BDF}")
    assert vfs[BDF].hash() == vfs[OTHER_BDF].hash()


def test_between_two_hosts_the_source_connects(
    run: Callable[..., tuple[int, str, str]], vfs: dict[str, FakeDevice]
) -> None:
    ends: list[Result] = []
    with netaddress.listen(Address("127.0.0.1", 0)) as listener:
        target = threading.Thread(
            target=lambda: ends.append(migrate_from_peer(listener, vfs[OTHER_BDF], 5))
        )
        target.start()
        where = str(netaddress.bound_to(listener))
        status, out, err = run("--source", BDF, "--connect", where)
        target.join()
    assert (status, err) == (0, "")
    assert out.startswith(f"migrated: {BDF} -> {OTHER_BDF} at {where}\n")
    assert f"target    {OTHER_BDF} at {where}: RUNNING" in out
    assert ends[0].error is None
    assert vfs[BDF].hash() == vfs[OTHER_BDF].hash()


def test_between_two_hosts_the_target_listens(
    run: Callable[..., tuple[int, str, str]], vfs: dict[str, FakeDevice]
) -> None:
    with netaddress.listen(Address("127.0.0.1", 0)) as free:
        where = netaddress.bound_to(free)
    ends: list[Result] = []

    def send() -> None:
        connection = netaddress.connect(where, nothing)
        with contextlib.closing(Peer(connection, "target", 5, nothing)) as peer:
            ends.append(migrate_to_peer(vfs[BDF], peer, QUICK))

    source = threading.Thread(target=send)
    source.start()
    status, out, err = run("--listen", str(where), "--target", OTHER_BDF)
    source.join()
    assert (status, err) == (0, f"listening at {where}\n")
    assert out.startswith(f"migrated: {BDF} at 127.0.0.1:")
    assert ends[0].error is None
    assert f"target    {OTHER_BDF}: RUNNING" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_waiting_for_a_source_ends_with_a_signal(
    run: Callable[..., tuple[int, str, str]], vfs: dict[str, FakeDevice], number: signal.Signals
) -> None:
    inherited = signal.signal(number, signal.default_int_handler)
    accept = netaddress.accept

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(number)
        return accept(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(netaddress, "accept", interrupted)
        status, out, err = run("--listen", "127.0.0.1:0", "--target", OTHER_BDF)
    signal.signal(number, inherited)
    assert (status, out) == (1, "")
    first, last = err.splitlines()
    assert first.startswith("listening at 127.0.0.1:")
    assert last == f"mlxtrace: error: cancelled by {number.name}"
    assert vfs[OTHER_BDF].log == [State.RUNNING]


def test_nobody_listens(
    run: Callable[..., tuple[int, str, str]],
    vfs: dict[str, FakeDevice],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(netaddress, "CONNECT_S", 0.1)
    with netaddress.listen(Address("127.0.0.1", 0)) as free:
        where = netaddress.bound_to(free)
    status, _, err = run("--source", BDF, "--connect", str(where))
    assert status == 1
    assert f"cannot connect to {where}: Connection refused" in err
    assert vfs[BDF].closed is False, "it was not opened: that would have reset it"


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_bad_file_is_refused_before_a_device_is_opened(
    run: Callable[..., tuple[int, str, str]],
    vfs: dict[str, FakeDevice],
    tmp_path: Path,
    damage: str,
) -> None:
    path = tmp_path / "vf.mlxstream"
    run("--source", BDF, "--to", str(path))
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)
    status, _, err = run("--from", str(path), "--target", OTHER_BDF)
    assert status == 1
    assert ("cut off" if damage == "cut" else "damaged") in err.splitlines()[0]
    assert vfs[OTHER_BDF].log == [State.RUNNING]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels(
    run: Callable[..., tuple[int, str, str]],
    vfs: dict[str, FakeDevice],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    real = FakeDevice.tick

    def tick(self: FakeDevice) -> None:
        if self.current is State.STOP_COPY:
            signal.raise_signal(number)
        real(self)

    monkeypatch.setattr(FakeDevice, "tick", tick)
    # Whoever runs the tests, in the background or under nohup, may have it ignored.
    inherited = signal.signal(number, signal.default_int_handler)
    try:
        status, out, err = run("--source", BDF, "--target", OTHER_BDF)
        after = signal.getsignal(number)
    finally:
        signal.signal(number, inherited)
    assert status == 1
    assert err == f"mlxtrace: error: cancelled by {number.name}\n"
    assert "RUNNING again (from STOP_COPY)" in out
    assert [each.current for each in vfs.values()] == [State.RUNNING] * 2
    assert after is signal.default_int_handler


def test_an_ignored_signal_stays_ignored(
    run: Callable[..., tuple[int, str, str]],
    vfs: dict[str, FakeDevice],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As nohup wants it."""
    real = FakeDevice.tick

    def tick(self: FakeDevice) -> None:
        signal.raise_signal(signal.SIGHUP)
        real(self)

    monkeypatch.setattr(FakeDevice, "tick", tick)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        status, _, _ = run("--source", BDF, "--target", OTHER_BDF)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert status == 0
    assert vfs[OTHER_BDF].current is State.RUNNING


def test_a_failing_source_names_the_image(
    run: Callable[..., tuple[int, str, str]],
    vfs: dict[str, FakeDevice],
) -> None:
    vfs[BDF].faults = Faults(read_error_at=1000)
    status, _, err = run("--source", BDF, "--target", OTHER_BDF)
    assert status == 1
    assert f"{BDF}: reading migration data: ENODEV (No such device), in image 1 (initial)" in err


def test_kinds_are_those_that_the_summary_counts() -> None:
    assert [kind.value for kind in Kind] == ["initial", "middle", "final"]
