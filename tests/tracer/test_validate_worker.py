# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that runs the checks, and those that it makes: whether they have gone."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlxtrace.checks.child import Child
from mlxtrace.validate import worker
from mlxtrace.validate.results import Verdict

from .fake_checks import holds, is_hung, make, run, verdicts

if TYPE_CHECKING:
    from mlxtrace.checks import Context


def closes_its_files(context: Context) -> None:
    """Be as a process that ends, and waits for a device to be closed."""
    context.note("to STOP_COPY")
    os.closerange(3, 1000)
    time.sleep(20)


def test_a_process_that_takes_long_to_end_is_not_waited_for_without_an_end() -> None:
    done = run(make("C1", closes_its_files), make("C2", holds))
    assert verdicts(done) == {"C1": Verdict.FAILED, "C2": Verdict.NOT_RUN}
    assert done.stopped == "the process that ran the checks ended with signal SIGKILL"
    assert not done.stuck


def has_a_child_that_hangs(context: Context) -> None:
    """Be as a check whose call hangs in the kernel, in a process of its own."""
    Child(lambda: time.sleep(60))
    is_hung(context)


def test_a_process_of_a_check_that_hangs_in_the_kernel_is_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That of the checks itself has ended: no process of the test's hangs in a kernel."""
    monkeypatch.setattr(worker, "group_members", lambda _: [4711])
    monkeypatch.setattr(worker, "GONE_S", 0.1)
    monkeypatch.setattr(worker, "_PATIENCE_S", 0)
    told: list[str] = []
    done = run(make("C6", is_hung), waiting=told.append)
    assert done.stuck
    (line,) = told
    assert line.startswith("waiting up to 0.1 s for killed processes to go: ")
    assert line.endswith("4711") or "4711," in line


def test_processes_that_take_long_to_go_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those in whose last call a SAVE has to end first."""
    left = [[4712]] * 5 + [[4711, 4712]] * 20
    monkeypatch.setattr(worker, "group_members", lambda _: left.pop() if left else [])
    done = run(make("C1", holds))
    assert (done.stuck, left) == (False, [])


def test_all_processes_of_a_check_have_gone_when_the_run_ends() -> None:
    groups: list[int] = []
    real = worker.group_members

    def members(group: int) -> list[int]:
        groups.append(group)
        return real(group)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "group_members", members)
        done = run(make("C6", has_a_child_that_hangs))
    assert not done.stuck
    assert real(groups[0]) == []


def _exit_thread() -> None:
    """End the calling thread alone, behind Python's back."""
    ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="a number of exit(2)")
def test_a_process_goes_on_as_long_as_one_of_its_threads() -> None:
    """Its first thread may end, and another hang in a call of the device."""

    def tell_and_wait() -> None:
        os.write(writing, b"x")
        time.sleep(60)

    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        threading.Thread(target=tell_and_wait).start()
        _exit_thread()
    try:
        os.read(reading, 1)
        stat = Path(f"/proc/{pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        assert worker.group_members(pid) == [pid]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)
    assert worker.group_members(pid) == []
