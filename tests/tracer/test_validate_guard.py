# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices are refused, or borrowed and given back as they were found."""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error, UsageError
from mlxtrace.validate import guard, simulated
from mlxtrace.validate.guard import RefusedError
from mlxtrace.vfio import Device, MigrationFlags, VfioError
from mlxuapi import vfio as uapi

from .fake_kernel import BDF, OTHER_BDF
from .fake_sysfs import DRIVERS, NAMES, Host

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def refused(*, bind: bool = False, destructive: bool = False) -> RefusedError:
    with (
        pytest.raises(RefusedError) as caught,
        guard.borrowed(guard.look_up(NAMES, destructive=destructive), bind=bind),
    ):
        pass
    assert caught.value.status == 3
    return caught.value


def test_devices_that_are_free_are_left_as_they_are(host: Host) -> None:
    with guard.borrowed(guard.look_up(NAMES, destructive=True), bind=True) as loan:
        pass
    assert (host.written, loan.troubles) == ([], [])


def test_what_is_not_there_or_no_vf_is_refused(host: Host) -> None:
    (host.path(BDF) / "physfn").unlink()
    assert "not a virtual function" in str(refused())
    with pytest.raises(RefusedError, match="there is no such device"):
        guard.look_up(["0000:09:00.1"])
    with pytest.raises(UsageError):
        guard.look_up(["eth0"])


def test_a_device_in_use_is_refused_and_its_user_named(host: Host) -> None:
    process = host.root / "proc/4711"
    (process / "fd").mkdir(parents=True)
    (process / "comm").write_text("qemu-system-x86\n")
    (process / "fd/9").symlink_to(host.dev / "vfio/8")
    assert f"{OTHER_BDF}: in use by qemu-system-x86 (4711)" in str(refused())


def test_another_driver_is_refused_unless_it_may_be_taken(host: Host) -> None:
    host.bind(BDF, "mlx5_core")
    error = refused()
    assert "bound to mlx5_core" in str(error)
    assert "--bind" in error.hint
    assert host.written == []


def test_a_device_that_was_taken_is_given_back(host: Host) -> None:
    host.bind(BDF, "mlx5_core")
    host.bind(OTHER_BDF, None)
    (host.path(BDF) / "driver_override").write_text("mlx5_core\n")
    with guard.borrowed(guard.look_up(NAMES), bind=True) as loan:
        assert [host.driver(name) for name in NAMES] == ["mlx5_vfio_pci"] * 2
    assert [host.driver(name) for name in NAMES] == ["mlx5_core", None]
    overrides = [(host.path(name) / "driver_override").read_text() for name in NAMES]
    assert overrides == ["mlx5_core\n", "(null)\n"]
    assert loan.troubles == []


def test_one_that_was_taken_is_given_back_when_the_other_is_refused(host: Host) -> None:
    host.bind(BDF, "mlx5_core")
    host.bind(OTHER_BDF, "mlx5_core")
    interface = host.path(OTHER_BDF) / "net/eth4"
    interface.mkdir(parents=True)
    (interface / "flags").write_text("0x1003\n")
    error = refused(bind=True)
    assert "network interface eth4 is up" in str(error)
    assert "ip link set eth4 down" in error.hint
    assert [host.driver(name) for name in NAMES] == ["mlx5_core"] * 2


def test_a_refusal_tells_what_was_not_given_back(host: Host) -> None:
    def run() -> None:
        with guard.borrowed(guard.look_up(NAMES), bind=False):
            (host.path(BDF)).rename(host.root / "gone")
            raise RefusedError("it will not open", "look at dmesg")

    with pytest.raises(RefusedError) as caught:
        run()
    assert str(caught.value).startswith(f"it will not open; {BDF} is not as it was found")
    assert caught.value.hint == "look at dmesg"


def test_without_the_module_nothing_is_taken(host: Host) -> None:
    for name in NAMES:
        host.bind(name, "mlx5_core")
    (host.sysfs / DRIVERS / "mlx5_vfio_pci").rmdir()
    assert refused(bind=True).hint == "modprobe mlx5_vfio_pci"
    assert host.written == []


def test_a_device_that_a_check_left_without_driver_gets_it_back(host: Host) -> None:
    with guard.borrowed(guard.look_up(NAMES), bind=False) as loan:
        host.bind(BDF, None)
    assert host.driver(BDF) == "mlx5_vfio_pci"
    assert loan.troubles == []
    with guard.borrowed(guard.look_up(NAMES), bind=False) as loan:
        host.bind(BDF, "mlx5_core")
    assert host.driver(BDF) == "mlx5_vfio_pci"
    assert loan.troubles == []


def test_vfs_whose_override_was_cleared_are_given_back_to_a_driver_that_wants_one(
    host: Host,
) -> None:
    """As dpdk-devbind leaves them: vfio-pci keeps what it has, and takes nothing by its ID."""
    for name in NAMES:
        host.bind(name, "vfio-pci")
    (host.sysfs / DRIVERS / "mlx5_core").mkdir()
    with guard.borrowed(guard.look_up(NAMES), bind=True) as loan:
        assert [host.driver(name) for name in NAMES] == ["mlx5_vfio_pci"] * 2
    assert [host.driver(name) for name in NAMES] == ["vfio-pci"] * 2
    assert [host.override(name) for name in NAMES] == ["(null)"] * 2
    assert loan.troubles == []


def test_a_driver_that_does_not_take_a_device_back_is_named(host: Host) -> None:
    with guard.borrowed(guard.look_up(NAMES), bind=False) as loan:
        host.bind(BDF, None)
        host.refusing.add("mlx5_vfio_pci")
    assert loan.troubles == [
        f"{BDF} is not as it was found: {BDF}: the driver mlx5_vfio_pci did not take it"
    ]
    assert host.override(BDF) == "(null)"


def test_vfs_that_a_check_left_removed_are_made_again(host: Host) -> None:
    host.sriov(2, 1)
    (host.path(BDF) / "driver_override").write_text("mlx5_vfio_pci\n")
    with guard.borrowed(guard.look_up(NAMES), bind=False) as loan:
        (host.pf / "sriov_numvfs").write_text("0\n")
        host.bind(BDF, "mlx5_core")
        (host.path(BDF) / "driver_override").write_text("(null)\n")
    assert host.written[0] == "sriov_numvfs 2"
    assert host.driver(BDF) == "mlx5_vfio_pci"
    assert (host.path(BDF) / "driver_override").read_text() == "mlx5_vfio_pci\n"
    assert loan.troubles == []


@pytest.mark.parametrize(("found", "left"), [(1, 0), (1, 1), (0, 0)])
def test_vfs_that_are_made_later_get_drivers_as_before(host: Host, found: int, left: int) -> None:
    """A check that is ended as it makes VFs leaves it so that they get none."""
    host.sriov(2, found)
    (host.sysfs / DRIVERS / "mlx5_core").mkdir()
    with guard.borrowed(guard.look_up(NAMES), bind=False) as loan:
        host.sriov(0, left)
        for name in NAMES:
            host.bind(name, None)
    assert (host.pf / "sriov_numvfs").read_text() == "2\n"
    assert (host.pf / "sriov_drivers_autoprobe").read_text() == f"{found}\n"
    assert [host.driver(name) for name in NAMES] == ["mlx5_vfio_pci"] * 2
    assert loan.troubles == []
    assert ("sriov_drivers_autoprobe 1" in host.written) is (found != left)


def test_a_setting_that_cannot_be_put_back_is_named(host: Host) -> None:
    host.sriov(2, 1)
    with guard.borrowed(guard.look_up(NAMES), bind=False) as loan:
        host.sriov(2, 0)
        host.unwritable.add("sriov_drivers_autoprobe")
    (trouble,) = loan.troubles
    assert trouble.startswith("sriov_drivers_autoprobe of 0000:01:00.0 is not as it was: cannot")


def test_what_is_stuck_in_the_kernel_is_not_touched(host: Host) -> None:
    host.bind(BDF, "mlx5_core")
    with guard.borrowed(guard.look_up(NAMES), bind=True) as loan:
        host.written.clear()
        loan.hold = True
    assert host.written == []
    assert BDF in loan.troubles[0]


def test_destructive_checks_are_refused_beside_vfs_that_were_not_named(host: Host) -> None:
    host.add("0000:01:00.3", 9, "mlx5_core", None)
    host.adopt("0000:01:00.3", 2)
    assert "VFs that were not named: 0000:01:00.3" in str(refused(destructive=True))
    with guard.borrowed(guard.look_up(NAMES), bind=False):
        pass


@pytest.mark.usefixtures("host")
def test_what_the_driver_offers_is_asked_in_another_process() -> None:
    offer = guard.probe(NAMES)
    assert offer.driver == "mlx5_vfio_pci"
    assert MigrationFlags.PRE_COPY in offer.flags


@pytest.mark.usefixtures("host")
def test_how_large_a_state_is_is_asked_too_and_need_not_be_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Device, "stop_copy_bytes", lambda _: 12345)
    assert guard.probe(NAMES).state_bytes == 12345

    def refuse(device: Device) -> int:
        raise VfioError(device.name, "asking for its data size", errno.ENOTTY)

    def oops(_: Device) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 1

    for answer in (refuse, oops):
        monkeypatch.setattr(Device, "stop_copy_bytes", answer)
        assert guard.probe(NAMES).state_bytes == 0
    monkeypatch.setattr(Device, "stop_copy_bytes", lambda _: time.sleep(60))
    monkeypatch.setattr(guard, "_OPEN_S", 0.5)
    with pytest.raises(RefusedError, match=f"asking {BDF} for its data size: no answer"):
        guard.probe(NAMES)


def test_a_device_that_will_not_open_is_refused(host: Host) -> None:
    host.errors[int(uapi.VFIO_GROUP_GET_DEVICE_FD)] = errno.ENODEV
    with pytest.raises(RefusedError, match=f"{BDF}: opening it through"):
        guard.probe(NAMES)


def test_two_drivers_are_refused(host: Host) -> None:
    host.bind(OTHER_BDF, "vfio_pci")
    with pytest.raises(RefusedError, match="different drivers: mlx5_vfio_pci, vfio_pci"):
        guard.probe(NAMES)


def test_the_labs_firmware_is_found_used_and_left_as_it_was(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    debugfs = host.root / "mlx5_lab"
    monkeypatch.setattr(simulated, "DEBUGFS", debugfs)
    with simulated.borrowed(NAMES) as loan:
        assert loan.firmware is None
    for name in (*NAMES, host.pf.name):
        (debugfs / name).mkdir(parents=True)
    for name in NAMES:
        (debugfs / name / "dirty_bytes_per_s").write_text("4096\n")
        (debugfs / name / "faults").write_text("")
    (debugfs / BDF / "status").write_text("state RUNNING\ntracked 1\n")
    (debugfs / host.pf.name / "objects").write_text("pd 2\nmkey 3\n")
    rate, faults = debugfs / BDF / "dirty_bytes_per_s", debugfs / BDF / "faults"
    with simulated.borrowed(NAMES) as loan:
        firmware = loan.firmware
        assert firmware
        assert firmware.tracks(BDF)
        assert firmware.objects() == {"pd": 2, "mkey": 3}
        firmware.set_busy(BDF, busy=False)
        assert rate.read_text() == "0\n"
        firmware.set_busy(BDF, busy=True)
        assert int(rate.read_text()) > 4096
        firmware.write(BDF, 4096)
        assert (debugfs / BDF / "dma").read_text() == "4096\n"
        with firmware.slow_saves(BDF, 0.02):
            assert faults.read_text() == "save delay_us=20000\n"
        assert faults.read_text() == "clear\n"
        # As one that was killed leaves it.
        faults.write_text("save delay_us=20000\n")
    assert faults.read_text() == "clear\n"
    assert (rate.read_text(), loan.trouble) == ("4096\n", "")
    faults.write_text("save_final status=5 # seen 1, hit 0\n")
    with simulated.borrowed(NAMES) as loan:
        assert loan.firmware
        with loan.firmware.slow_saves(BDF, 0.02):
            assert faults.read_text().startswith("save_final")
    assert faults.read_text().startswith("save_final")
    with simulated.borrowed(NAMES) as loan:
        rate.unlink()
        rate.mkdir()
    assert "cannot write" in loan.trouble
    (debugfs / BDF / "status").unlink()
    with pytest.raises(Error, match="cannot read"):
        firmware.tracks(BDF)
