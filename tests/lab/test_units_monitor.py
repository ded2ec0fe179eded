# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side of a run, against a stand-in for QEMU that says what a guest would say."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mlxlab import errors, monitor, runs, verdict, vm
from mlxlab.errors import NotStartedError
from mlxlab.monitor import Limits, Monitor, Outcome, Sockets
from mlxlab.runs import Run
from mlxpatch.progress import Progress

# Gets QEMU's ends of the ports as numbers, and a script: what to do with them.
QEMU = """
import os, socket, sys, time
control, stdout, stderr = (socket.socket(fileno=int(n)) for n in sys.argv[1:4])
console = open(sys.argv[4], "w", buffering=1)
exec(sys.argv[5])
"""
START = """
console.write("booting\\n")
control.sendall(b"stage boot 1.5\\nstage command 4.0\\n")
"""
END = "control.sendall(b'exit 7\\ntaint 12288\\nend\\n'); time.sleep(60)\n"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, tmp_path / "out")


def see(
    run: Run, script: str, limits: Limits | None = None, stages: list[str] | None = None
) -> Outcome:
    """Run a stand-in that does ``script`` and return how it ended."""
    said = [] if stages is None else stages
    with contextlib.closing(Sockets()) as sockets:
        command = [sys.executable, "-c", QEMU]
        command += [str(number) for number in sockets.descriptors.values()]
        command += [str(run.console), script]
        watcher = Monitor(run, limits or Limits(), lambda name, _: said.append(name))
        return watcher.see_through(command, sockets)


def status(outcome: Outcome, run: Run) -> int:
    return verdict.tell(outcome, run, Progress("mlxlab", quiet=True))


def test_streams_are_apart_and_whole(run: Run, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    talk = "stdout.sendall(b'out\\xff' * 50000); stderr.sendall(b'err')\n"
    stages: list[str] = []
    outcome = see(run, START + talk + END, stages=stages)
    said = capfdbinary.readouterr()
    assert said.out == b"out\xff" * 50000
    assert said.err == b"err"
    assert stages == ["boot", "command"]
    assert status(outcome, run) == 7


def test_lines_may_arrive_in_pieces(run: Run) -> None:
    pieces = "for b in b'exit 9\\nend\\n': control.sendall(bytes([b])); time.sleep(0.01)\n"
    outcome = see(run, START + pieces + "time.sleep(60)")
    assert outcome.report.status == 9


def test_a_guest_that_is_gone_is_lost_even_after_its_status(run: Run) -> None:
    outcome = see(run, START + "control.sendall(b'exit 0\\n')")
    assert "before it had reported" in outcome.lost
    assert status(outcome, run) == errors.LOST


def test_a_silent_guest_is_lost_and_said_where(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(monitor, "BOOT_SILENCE_S", 1.0)
    hang = "console.write('stuck here\\n'); control.sendall(b'stage boot 1.5\\n'); time.sleep(60)"
    outcome = see(run, hang)
    assert "stage 'boot'" in outcome.lost
    assert status(outcome, run) == errors.LOST
    assert "stuck here" in capfd.readouterr().err


def test_a_console_that_grows_is_progress(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "BOOT_SILENCE_S", 2.0)
    slow = "for n in range(12): console.write('.'); console.flush(); time.sleep(0.3)\n"
    assert status(see(run, slow + START + END), run) == 7


def test_a_slow_machine_gets_more_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "BOOT_SILENCE_S", 0.5)
    outcome = see(run, "time.sleep(2)\n" + START + END, Limits(scale=10))
    assert status(outcome, run) == 7


def test_at_the_limit_the_guest_is_asked_for_its_last_words(run: Run) -> None:
    answer = "assert control.recv(99) == b'stop\\n'; control.sendall(b'exit 143\\nend\\n')\n"
    outcome = see(run, START + answer + "time.sleep(60)", Limits(total_s=1))
    assert outcome.report.ended
    assert status(outcome, run) == errors.TIMEOUT


def test_a_guest_that_has_none_is_ended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_LAST_WORDS_S", 0.5)
    outcome = see(run, START + "time.sleep(60)", Limits(total_s=1))
    assert status(outcome, run) == errors.TIMEOUT


@pytest.mark.parametrize(("presses", "expected"), [(1, 130), (2, errors.INTERRUPTED)])
def test_an_interrupt_is_for_the_command_and_a_second_for_the_vm(
    run: Run, presses: int, expected: int
) -> None:
    def press() -> None:
        for _ in range(presses):
            time.sleep(1.5)
            os.kill(os.getpid(), signal.SIGINT)

    hear = "assert control.recv(99) == b'interrupt\\n'\n"
    react = "control.sendall(b'exit 130\\nend\\n')\n" if presses == 1 else ""
    threading.Thread(target=press).start()
    outcome = see(run, START + hear + react + "time.sleep(60)")
    assert status(outcome, run) == expected


def test_an_assertion_and_a_splat_outweigh_the_status(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = "control.sendall(b'exit 0\\nassertion two_saves 3\\ntaint 512\\nend\\n')\n"
    outcome = see(run, START + bad)
    assert status(outcome, run) == errors.SPLAT
    said = capfd.readouterr().err
    assert "two_saves fired 3 times" in said
    assert "kernel warning" in said
    assert json.loads((run.path / "result.json").read_text())["assertions"] == {"two_saves": 3}


def test_what_qemu_refuses_is_repeated(run: Run) -> None:
    refuse = "os.write(2, b'qemu: no such device\\n'); sys.exit(1)"
    with pytest.raises(NotStartedError, match="QEMU did not start: qemu: no such device"):
        see(run, refuse)


@pytest.mark.parametrize("delay_s", [0.0, 0.001, 0.005, 0.2])
def test_qemu_dies_with_its_parent_at_any_moment(delay_s: float) -> None:
    parent = (
        "import subprocess, time; from mlxlab import vm;"
        "child = subprocess.Popen([*vm.dies_with_us(), 'sleep', '600']);"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as lab:
        assert lab.stdout is not None
        child = Path("/proc", lab.stdout.readline().strip())
        time.sleep(delay_s)
        lab.kill()
    end = time.monotonic() + 10
    while child.exists() and time.monotonic() < end:
        time.sleep(0.05)
    # Where nobody reaps orphans, it stays as a zombie.
    assert not child.exists() or "\nState:\tZ" in (child / "status").read_text()


def test_the_guests_settings_survive_every_character(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    odd = tmp_path / "it's $(odd)"
    odd.mkdir()
    monkeypatch.chdir(odd)
    runs.write_settings(
        run,
        vm.Machine(vfs=3),
        modules=["a", "b"],
        pf_driver="pf",
        vf_driver="vf",
        mode="run",
    )
    words = ["sh", "-c", 'pwd; printf "%s|" "$ODD" "$@"', "sh", "a b", "'", "$HOME", ""]
    runs.write_command(run, words, ['ODD=`x` "y"'], 3)
    show = 'printf "%s\\n" "$cwd" "$vfs" "$modules"'
    shell = f". {run.path}/settings; {show}; cd /; . {run.path}/command-3"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    expected = [str(odd), "3", "a b", str(odd), '`x` "y"|a b|\'|$HOME||']
    assert done.stdout.splitlines() == expected
