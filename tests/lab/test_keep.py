# SPDX-License-Identifier: GPL-2.0-or-later
"""A lab that is kept: commands in one boot, each with its own verdict, and every way to its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from mlxlab import kept
from tests.lab.conftest import KERNEL, REPOSITORY, lab_run, mlxlab
from tests.lab.test_vm import qemus, wait_until_gone

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.conftest import Lab

pytestmark = pytest.mark.lab

_BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def test_commands_share_a_boot_and_nothing_else(lab: Lab) -> None:
    first = lab.run("first", "sh", "-c", f"{_BOOT_ID}; echo err >&2; export A=1; cd /; exit 7")
    second = lab.run("second", "sh", "-c", f'{_BOOT_ID}; echo "${{A-unset}}"; pwd; cat')
    assert first.returncode == 7
    assert "err\n" in first.stderr
    assert second.returncode == 0
    assert second.stdout == f"{first.stdout}unset\n{REPOSITORY}\n"


def test_a_file_that_changes_on_the_host_is_seen(lab: Lab, tmp_path: Path) -> None:
    for text in ("one", "another"):
        (tmp_path / "file").write_text(text)
        assert lab.run(f"sees-{text}", "cat", tmp_path / "file").stdout == text


def test_what_one_command_breaks_is_not_held_against_the_next(lab: Lab) -> None:
    splat = lab.run("splat", "sh", "-c", "echo 'WARNING: CPU: 0 PID: 1 at x' >/dev/kmsg")
    assert splat.returncode == 120
    assert "WARNING: CPU: 0 PID: 1 at x" in splat.stderr
    clean = lab.run("clean", "true")
    assert clean.returncode == 0, clean.stderr


def test_what_one_command_leaves_behind_does_not_disturb_the_next(lab: Lab) -> None:
    # Processes that end every few milliseconds from now on.
    leaves = (
        "import os, time\n"
        "for i in range(400):\n"
        " if not os.fork(): time.sleep(i / 80); os._exit(0)\n"
    )
    words = ("sh", "-c", 'python3 -c "$1" >/dev/null 2>&1', "sh", leaves)
    assert lab.run("leaves", *words).returncode == 0
    for number in range(2):
        after = lab.run(f"after-leaving-{number}", "sh", "-c", "echo up; exit 7")
        assert (after.stdout, after.returncode) == ("up\n", 7)


def test_a_timeout_ends_the_command_and_keeps_the_lab(lab: Lab) -> None:
    before = lab.run("before-timeout", "sh", "-c", _BOOT_ID).stdout
    # Its child ignores SIGTERM, and its grandchild has left its process group.
    script = "trap '' TERM; setsid sleep 500 & sleep 500"
    late = lab.run("timeout", "sh", "-c", script, timeout_s=2)
    assert late.returncode == 124
    after = lab.run("after-timeout", "sh", "-c", f"{_BOOT_ID}; pgrep -f 'sleep 50[0]'")
    assert after.stdout == before


def started(*command: str) -> subprocess.Popen[str]:
    """Return an `mlxlab exec` whose command in the guest has said `up`."""
    child = subprocess.Popen(
        mlxlab("exec", "--", *command),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    return child


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_goes_away_is_ended_in_the_guest(lab: Lab, number: signal.Signals) -> None:
    before = lab.run(f"before-{number.name}", "sh", "-c", _BOOT_ID).stdout
    child = started("sh", "-c", "echo up; sleep 500; echo over")
    child.send_signal(number)
    assert "over" not in child.communicate(timeout=120)[0]
    after = lab.run(f"after-{number.name}", "sh", "-c", f"{_BOOT_ID}; pgrep -f 'sleep 50[0]'")
    assert after.stdout == before


def test_commands_wait_for_each_other(lab: Lab) -> None:
    child = started("sh", "-c", "echo up; sleep 3; echo over")
    second = lab.run("waits", "sh", "-c", "pgrep -f 'sleep [3]$' || echo alone")
    assert second.stdout == "alone\n"
    assert "waiting for another command in the kept lab" in second.stderr
    assert child.communicate()[0] == "over\n"


def test_a_run_beside_a_kept_lab_says_how_to_end_it(lab: Lab) -> None:
    with subprocess.Popen(
        mlxlab("run", "--kernel", lab.kernel, "--", "true"), stderr=subprocess.PIPE, text=True
    ) as beside:
        assert beside.stderr is not None
        said = beside.stderr.readline()
        beside.terminate()
    assert "kept lab" in said
    assert "10 idle minutes" in said
    assert "mlxlab stop" in said


@pytest.mark.usefixtures("no_lab")
def test_without_a_lab_the_message_says_how_to_make_one() -> None:
    for words in (["exec", "--", "true"], ["stop"]):
        done = subprocess.run(mlxlab(*words), capture_output=True, text=True)
        assert done.returncode == 125
        assert "no lab is kept" in done.stderr
        assert "mlxlab run --keep" in done.stderr


@pytest.mark.usefixtures("no_lab")
def test_another_run_of_the_tests_waits_for_a_kept_lab_and_does_not_use_it(tmp_path: Path) -> None:
    assert keep(tmp_path, "true").returncode == 0
    name = test_without_a_lab_the_message_says_how_to_make_one.__name__
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    others = {key: value for key, value in os.environ.items() if key != "MLXLAB_KEPT"}
    with subprocess.Popen(
        [*words, f"{__file__}::{name}"],
        cwd=REPOSITORY,
        env=others,
        stdout=subprocess.PIPE,
        text=True,
    ) as tests:
        assert tests.stdout
        said = next(line for line in tests.stdout if line.startswith("waiting"))
        assert "the kept lab" in said
        # The command has to name the lab of these tests.
        assert said.rstrip().endswith(f"MLXLAB_KEPT={kept.note()} mlxlab stop")
        subprocess.run(mlxlab("stop"), check=True, capture_output=True)
        assert "1 passed" in tests.communicate()[0]


def keep(out: Path, *command: str, idle: str = "10") -> subprocess.CompletedProcess[str]:
    words = mlxlab("run", "--keep", "--idle", idle, "--kernel", KERNEL, "--out", out, "--")
    return subprocess.run([*words, *command], capture_output=True, text=True)


@pytest.mark.usefixtures("no_lab")
def test_a_kept_lab_ends_by_itself(tmp_path: Path) -> None:
    done = keep(tmp_path, "sh", "-c", "echo first; exit 4", idle="0.05")
    assert (done.returncode, done.stdout) == (4, "first\n")
    assert not wait_until_gone(60)
    end = time.monotonic() + 10
    while kept.note().exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not kept.note().exists()


@pytest.mark.usefixtures("no_lab")
def test_every_other_end_of_a_kept_lab(tmp_path: Path) -> None:
    assert keep(tmp_path, "true").returncode == 0
    # A panic ends it, and a killed keeper leaves no VM, no lock and no trace of itself.
    panic = subprocess.run(
        mlxlab("exec", "--", "sh", "-c", "echo c >/proc/sysrq-trigger"),
        capture_output=True,
        text=True,
    )
    assert panic.returncode == 120
    assert not wait_until_gone()
    assert keep(tmp_path, "true").returncode == 0
    keeper = json.loads(kept.note().read_text())["keeper_pid"]
    subprocess.run(["kill", "-KILL", str(keeper)], check=True)
    assert not wait_until_gone()
    gone = subprocess.run(mlxlab("exec", "--", "true"), capture_output=True, text=True)
    assert gone.returncode == 125
    assert not kept.note().exists()
    # `stop` while a command runs.
    assert keep(tmp_path, "true").returncode == 0
    child = started("sh", "-c", "echo up; sleep 500")
    stopped = subprocess.run(mlxlab("stop"), capture_output=True, text=True)
    assert stopped.returncode == 0
    assert "a command was running" in stopped.stderr
    assert not qemus()
    assert child.wait(60) == 126
    assert lab_run(tmp_path, "true").returncode == 0
