# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's command line, what a QEMU that ends says, and the command's own usage errors."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error
from mlxlab.vmm import scenarios
from mlxlab.vmm.process import Installation, Vmm, command_line
from tests.lab.conftest import mlxlab

if TYPE_CHECKING:
    from pathlib import Path

VF = "0000:01:00.1"


@pytest.fixture
def fake(tmp_path: Path) -> Installation:
    """Return a QEMU that complains and ends."""
    program = tmp_path / "usr/bin/qemu-system-x86_64"
    program.parent.mkdir(parents=True)
    program.write_text(
        "#!/bin/sh\n"
        "echo '2026-11-25T13:01:10.5Z qemu: warning: no dirty tracking' >&2\n"
        "echo 'qemu: vfio 0000:01:00.1: group 10 is not viable' >&2\n"
        "exit 1\n"
    )
    program.chmod(0o755)
    return Installation(tmp_path, (10, 0, 2))


def test_the_target_waits_for_a_migration_and_does_not_start(fake: Installation) -> None:
    source = command_line(fake, "source", VF, fake.root)
    target = command_line(fake, "target", VF, fake.root)
    assert "-incoming" not in source
    assert target[-3:] == ["-S", "-incoming", "defer"]
    (device,) = (word for word in source if word.startswith("vfio-pci"))
    assert f"host={VF}" in device
    assert "enable-migration=on" in device
    assert source[source.index("-D") + 1] == f"{fake.root}/source.log"


def test_the_vf_uses_multifd_only_when_asked_to(fake: Installation) -> None:
    wanted = "x-migration-multifd-transfer=on"
    assert wanted not in " ".join(command_line(fake, "source", VF, fake.root))
    assert wanted in " ".join(command_line(fake, "source", VF, fake.root, ("multifd",)))


def test_a_qemu_that_ends_is_told_with_its_last_words(fake: Installation) -> None:
    vmm = Vmm(fake, "source", VF, fake.root, ())
    with pytest.raises(Error, match=r"the source QEMU: .*: qemu: vfio .* is not viable"):
        vmm.connect()
    assert vmm.quit() == 1
    kept = fake.root / "kept"
    kept.mkdir()
    vmm.keep(kept)
    assert "not viable" in (kept / "source.stderr").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scenario", "pre-copy"], "no scenario 'pre-copy'"),
        (["--kernel", "nope"], "no kernel 'nope'"),
        (["--qemu-version", "7.2"], "10.0 or newer"),
        (["--qemu-version", "newest"], "no version number"),
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], said: str) -> None:
    done = subprocess.run(mlxlab("qemu", *arguments), capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_scenarios_are_listed_with_what_they_are_about() -> None:
    done = subprocess.run(mlxlab("qemu", "--list"), capture_output=True, text=True)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(scenarios.by_name())
    # Each phase of a migration has its faults.
    for phase in ("setup:", "pre-copy:", "stopping:", "target:"):
        assert phase in done.stdout
