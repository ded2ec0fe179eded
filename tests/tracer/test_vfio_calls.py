# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls are counted by the names that a tracer has for them, in all threads and children."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from mlxtrace import vfio_calls
from mlxtrace.checks import Context, all_checks, run
from mlxtrace.checks.child import Child
from mlxtrace.vfio import Device, State, VfioError
from mlxuapi import vfio as uapi

from .fake_driver import SOURCE, TARGET, FakeDriver
from .fake_kernel import BDF, FakeKernel

if TYPE_CHECKING:
    from pathlib import Path

_STATE = uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
_SIZE = uapi.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE


@pytest.fixture(autouse=True)
def _from_nothing() -> None:
    vfio_calls.take()


def taken() -> dict[str, int]:
    """Return what was counted, without zeros."""
    return {kind: number for kind, number in vfio_calls.take().items() if number}


def test_what_the_library_asks_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeKernel(tmp_path, monkeypatch)
    with Device.open(BDF) as device:
        assert device.migration_flags()
        assert device.state() is State.RUNNING
        assert device.offers(_STATE, uapi.VFIO_DEVICE_FEATURE_SET)
        assert taken() == {}
        with pytest.raises(VfioError):
            device.change_state(77)
        stream = device.save(State.PRE_COPY)
        stream.precopy_info()
        assert device.stop_copy_bytes()
        kernel.reads.extend([b"four", errno.EAGAIN, errno.ENOMSG, b"", errno.ENODEV])
        for _ in range(4):
            stream.read(100)
        with pytest.raises(VfioError):
            stream.read(100)
        device.reset()
        kernel.errors[uapi.VFIO_DEVICE_RESET] = errno.EAGAIN
        with pytest.raises(VfioError):
            device.reset()
        kernel.errors[uapi.VFIO_MIG_GET_PRECOPY_INFO] = errno.EINVAL
        with pytest.raises(VfioError):
            stream.precopy_info()
        device.resume().write_all(b"12345")
    assert taken() == {
        "state_changes": 3,
        "failed_state_changes": 1,
        "ioctls": 2,
        "failed_ioctls": 1,
        "estimates": 1,
        "read_calls": 1,
        "read_bytes": 4,
        "again_ends": 1,
        "temporary_ends": 1,
        "final_ends": 1,
        "stream_errors": 1,
        "write_calls": 1,
        "written_bytes": 5,
        "resets": 1,
    }


@pytest.mark.parametrize(
    ("request_", "number", "feature", "counted"),
    [
        (uapi.VFIO_MIG_GET_PRECOPY_INFO, errno.ENOTTY, 0, {}),
        (uapi.VFIO_MIG_GET_PRECOPY_INFO, errno.EBADF, 0, {}),
        (uapi.VFIO_MIG_GET_PRECOPY_INFO, errno.EINTR, 0, {"ioctls": 1, "failed_ioctls": 1}),
        (uapi.VFIO_DEVICE_FEATURE, errno.ENOTTY, uapi.VFIO_DEVICE_FEATURE_GET | _SIZE, {}),
        (uapi.VFIO_DEVICE_FEATURE, 0, uapi.VFIO_DEVICE_FEATURE_GET | _SIZE, {"estimates": 1}),
        (uapi.VFIO_DEVICE_FEATURE, 0, uapi.VFIO_DEVICE_FEATURE_GET | _STATE, {}),
        (uapi.VFIO_DEVICE_FEATURE, 0, uapi.VFIO_DEVICE_FEATURE_SET | _STATE, {"state_changes": 1}),
    ],
)
def test_only_what_gets_to_the_driver_is_counted(
    request_: int, number: int, feature: int, counted: dict[str, int]
) -> None:
    vfio_calls.made_ioctl(request_, number, feature)
    assert taken() == counted


def test_a_file_that_was_not_opened_for_it_is_not_the_drivers_answer() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        vfio_calls.read(-1, 10)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        vfio_calls.write(-1, b"x")
    assert taken() == {}


def test_what_threads_and_children_count_is_added() -> None:
    def reads() -> None:
        for _ in range(1000):
            vfio_calls.made_read(3)

    threads = [threading.Thread(target=reads) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def counts() -> str:
        vfio_calls.made_read(0)
        return "done"

    assert Child(counts).result(10) == "done"
    assert taken() == {"read_calls": 4000, "read_bytes": 12000, "final_ends": 1}


def test_a_check_and_what_it_does_go_around_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver(tmp_path, monkeypatch)
    context = Context(SOURCE, TARGET, firmware=driver.firmware, dma=driver.dma, cycles=8)
    (chosen,) = (check for check in all_checks() if check.id == "C21")
    run(chosen, context)
    assert {kind: number for kind, number in taken().items() if "ioctl" in kind} == {
        "ioctls": 6,
        "failed_ioctls": 6,
    }
