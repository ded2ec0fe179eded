# SPDX-License-Identifier: GPL-2.0-or-later
"""`mlxtrace validate --bind` on VFs that the driver does not have: they are given back as found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab.conftest import CARRIED, GUEST, UNLOAD
from tests.lab.test_suite import VF0, VF1, one_line

if TYPE_CHECKING:
    from tests.lab.conftest import Labs

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("kernel", [CARRIED])
def test_vfs_of_other_drivers_are_bound_and_given_back(labs: Labs, kernel: str) -> None:
    lab = labs.on(kernel)
    done = lab.run("bind", "sh", "-c", f"sh {GUEST}/bind.sh && {UNLOAD}")
    assert done.returncode == 0, done.stdout + done.stderr
    said = {file.name: file.read_text() for file in (lab.out / "bind").iterdir()}
    assert said["before"].split("\n")[:2] == [f"{VF0}  (null)", f"{VF1} vfio-pci vfio-pci"]
    assert said["refused.status"] == "3\n"
    assert "--bind" in said["refused.stderr"]
    assert VF0 in one_line(said["refused.stderr"])
    assert said["bound.status"] == "0\n", said["bound.stdout"] + said["bound.stderr"]
    assert " 0 failed" in said["bound.stdout"].splitlines()[-1]
    assert said["after"] == said["before"]
    assert [line.split()[1] for line in said["end"].splitlines()] == ["mlx5_vfio_pci"] * 2
