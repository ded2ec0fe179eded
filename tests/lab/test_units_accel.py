# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM is used where a kernel was seen to boot with it, and the answer is asked for once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlxlab import accel, vm
from mlxlab.errors import NotStartedError
from mlxpatch.progress import Progress

_BOOTS = """echo "Linux version 6.12"
echo "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"
"""
_DIES = "echo 'KVM internal error. Suberror: 1'; exit 1\n"
_HANGS = "echo 'Linux version 6.12'; sleep 60\n"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in the PATH, with a cache of its own, and a /dev/kvm that can be opened."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accel, "DEVICE", device)
    return tools


def qemu(folder: Path, text: str) -> Path:
    """Put a QEMU into ``folder`` that says ``text`` and notes how it was called."""
    script = folder / accel.QEMU
    script.write_text(f'#!/bin/sh\necho "$*" >>{folder}/calls\n{text}')
    script.chmod(0o755)
    return folder / "calls"


def choose(wanted: str) -> str:
    return accel.choose(wanted, Path("/boot/vmlinuz"), Progress("test", quiet=True))


def test_kvm_is_taken_if_the_kernel_boots_and_asked_once(machine: Path) -> None:
    calls = qemu(machine, _BOOTS)
    assert [choose("auto"), choose("kvm"), choose("tcg")] == ["kvm", "kvm", "tcg"]
    (call,) = calls.read_text().splitlines()
    assert "-accel kvm" in call
    assert "-kernel /boot/vmlinuz" in call


def test_another_qemu_is_tried_anew(machine: Path) -> None:
    qemu(machine, _DIES)
    assert choose("auto") == "tcg"
    qemu(machine, _BOOTS)
    assert choose("auto") == "kvm"


def test_a_kvm_that_does_not_work_is_left_alone(machine: Path) -> None:
    qemu(machine, _DIES)
    assert choose("auto") == "tcg"
    with pytest.raises(NotStartedError, match="KVM internal error"):
        choose("kvm")


def test_a_kernel_that_stands_still_is_not_waited_for(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accel, "_PROBE_S", 0.5)
    qemu(machine, _HANGS)
    with pytest.raises(NotStartedError, match="had not come up after"):
        choose("kvm")


def test_no_device_needs_no_probe(machine: Path) -> None:
    calls = qemu(machine, _BOOTS)
    accel.DEVICE.unlink()
    assert choose("auto") == "tcg"
    with pytest.raises(NotStartedError, match="does not exist"):
        choose("kvm")
    assert not calls.exists()


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
def test_the_choice_reaches_qemu(accelerator: str) -> None:
    words = vm.devices(vm.Machine(accelerator=accelerator))
    assert words[words.index("-accel") + 1].split(",")[0] == accelerator
