# SPDX-License-Identifier: GPL-2.0-or-later
"""mlxlab as a program: exit statuses, streams, splats, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlxlab import table, tree
from mlxpatch import build, kernels
from mlxpatch.progress import Progress
from tests.lab.conftest import (
    CARRIED,
    GUEST,
    KERNEL,
    REPOSITORY,
    STOCK,
    UNLOAD,
    lab_run,
    mlxlab,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import Lab, Labs

pytestmark = pytest.mark.lab


_RESET = "echo 1 >/sys/bus/pci/devices/$MLXLAB_VF0/reset"


def qemus() -> set[int]:
    """Return the process ids of the lab's VMs."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and b"mlxlab.control" in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
    return found


def wait_until_gone(seconds: float = 20) -> set[int]:
    """Return the VMs that are still there after a while."""
    end = time.monotonic() + seconds
    while qemus() and time.monotonic() < end:
        time.sleep(0.1)
    return qemus()


def provoke_on(kernel_name: str) -> Path:
    """Return a module that does one wrong thing when it is loaded."""
    progress = Progress("tests")
    kernel, _ = kernels.ensure(table.pick(kernel_name).series, progress)
    firmware = build.build(build.lab_firmware(), kernel.headers, progress)
    recipe = build.Recipe("provoke", {"provoke": GUEST / "provoke"})
    built = build.build(recipe, kernel.headers, progress, symvers=[firmware.symvers])
    return next(module for module in built.modules if module.name == "provoke.ko")


@pytest.fixture(scope="module")
def provoke() -> Path:
    """Return the provoking module for the lab's usual kernel."""
    return provoke_on(KERNEL)


@contextlib.contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Start ``mlxlab run`` and hand it over once the command in the guest has spoken."""
    lab = subprocess.Popen(
        mlxlab("run", "--kernel", KERNEL, "--", *command),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert lab.stdout is not None
        assert lab.stdout.readline() == "up\n"
        assert qemus()
        yield lab
    finally:
        lab.kill()
        lab.communicate()


@pytest.mark.usefixtures("no_lab")
def test_status_and_streams_are_the_commands_own(tmp_path: Path) -> None:
    script = 'echo "out $MLXLAB_VFS"; echo err >&2; echo kept >"$MLXLAB_OUT/file"; exit 23'
    result = lab_run(tmp_path, "sh", "-c", script)
    assert result.returncode == 23
    assert result.stdout == "out 0000:01:00.1 0000:01:00.2\n"
    assert "err\n" in result.stderr
    assert (tmp_path / "file").read_text() == "kept\n"
    assert not wait_until_gone()


def test_a_kernel_warning_fails_the_run_and_is_printed(lab: Lab, provoke: Path) -> None:
    result = lab.run("warning", "insmod", provoke, "what=warn")
    assert result.returncode == 120
    assert "provoked by a test" in result.stderr
    assert "provoke_init" in result.stderr
    assert lab.run("after-warning", "rmmod", "provoke").returncode == 0


def test_a_firmware_assertion_fails_the_run_and_is_named(lab: Lab, provoke: Path) -> None:
    script = f"insmod {provoke} what=wrong_order; rmmod provoke; {_RESET}"
    result = lab.run("assertion", "sh", "-c", script)
    assert result.returncode == 120
    assert "firmware assertion wrong_order fired 1 times" in result.stderr


# They are the firmware's, whatever the kernel.
@pytest.mark.parametrize(
    "kernel",
    [
        KERNEL,
        pytest.param(STOCK, marks=pytest.mark.slow),
        pytest.param(CARRIED, marks=pytest.mark.slow),
    ],
)
def test_every_assertion_of_the_firmware_can_fire(labs: Labs, kernel: str) -> None:
    """Each misuse is noticed as what it is, and an expected one fails no run."""
    lab, provoke = labs.on(kernel), provoke_on(kernel)
    names = [
        *("two_saves", "suspend_during_save", "save_untracked", "track_suspended"),
        *("beyond_mkey", "mkey_destroyed_busy", "pd_busy", "unmapped", "load_running"),
        *("resume_incomplete", "wrong_order", "left_at_exit"),
    ]
    script = f"""
    fw=/sys/kernel/debug/mlx5_lab
    mlxlab fw $MLXLAB_VF0 size_bytes=65536 latency_us=300000
    cp $fw/assertions $MLXLAB_OUT/before
    for name in {" ".join(names)}; do
        insmod {provoke} what=$name || exit 1
        rmmod provoke
        if [ $name = left_at_exit ]; then
            echo 0 >/sys/bus/pci/devices/$MLXLAB_PF/sriov_numvfs
            echo $MLXLAB_PF >/sys/bus/pci/drivers/mlx5_lab/unbind
        else
            {_RESET}
        fi
        cat $fw/assertions >$MLXLAB_OUT/$name
    done
    {UNLOAD}
    """
    expected = [word for name in names for word in ("--expect", name)]
    result = lab.run("assertions", "sh", "-c", script, options=expected)
    assert result.returncode == 0, result.stdout + result.stderr

    def counts(name: str) -> dict[str, int]:
        lines = (lab.out / "assertions" / name).read_text().splitlines()
        return {key: int(value) for key, value in (line.split() for line in lines)}

    before = counts("before")
    assert set(before) == set(names)
    for name in names:
        after = counts(name)
        fired = {key for key, value in after.items() if value != before[key]}
        # A key that is gone takes its memory's mapping with it.
        also = {"unmapped"} if name == "mkey_destroyed_busy" else set()
        assert fired == {name} | also, name
        before = after


@pytest.mark.usefixtures("no_lab")
def test_a_panic_is_a_splat_not_the_commands_failure(tmp_path: Path) -> None:
    result = lab_run(tmp_path, "sh", "-c", "echo c >/proc/sysrq-trigger")
    assert result.returncode == 120
    assert "panic" in result.stderr.lower()


@pytest.mark.usefixtures("no_lab")
def test_a_vm_that_goes_away_is_lost(tmp_path: Path) -> None:
    result = lab_run(tmp_path, "sh", "-c", "echo b >/proc/sysrq-trigger; sleep 60")
    assert result.returncode == 126
    assert "lost" in result.stderr


@pytest.mark.usefixtures("no_lab")
def test_a_timeout_is_told_apart(tmp_path: Path) -> None:
    result = lab_run(tmp_path, "sleep", "600", timeout_s=20)
    assert result.returncode == 124
    assert not wait_until_gone()


@pytest.mark.usefixtures("no_lab")
def test_an_interrupt_leaves_no_vm() -> None:
    with started("sh", "-c", "echo up; sleep 600") as lab:
        lab.send_signal(signal.SIGINT)
        lab.communicate(timeout=120)
        assert lab.returncode in (130, 128 + signal.SIGINT)
        assert not wait_until_gone()


@pytest.mark.usefixtures("no_lab")
def test_a_killed_mlxlab_leaves_no_vm_and_no_lock(tmp_path: Path) -> None:
    with started("sh", "-c", "echo up; sleep 600") as lab:
        os.kill(lab.pid, signal.SIGKILL)
        lab.wait(60)
        assert not wait_until_gone()
    assert lab_run(tmp_path, "true").returncode == 0


@pytest.mark.parametrize("kernel", [KERNEL, STOCK, CARRIED])
def test_modules_have_dwarf_and_btf(kernel: str) -> None:
    boot = tree.prepare(table.pick(kernel), Progress("tests"))
    module = boot.modules / "updates/mlx5-vfio-pci.ko"
    sections = subprocess.run(
        ["readelf", "-S", "-W", module], capture_output=True, text=True, check=True
    ).stdout
    assert ".debug_info" in sections
    assert ".BTF" in sections
