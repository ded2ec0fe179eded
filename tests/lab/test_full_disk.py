# SPDX-License-Identifier: GPL-2.0-or-later
"""A full disk: one line says so, and neither a VM, a lock nor a half-written cache is left."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from genbindings import locate
from mlxlab import table, tree
from mlxpatch.progress import Progress
from tests.lab.conftest import KERNEL, REPOSITORY, mlxlab
from tests.lab.test_vm import qemus

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("no_lab")]


@pytest.fixture(autouse=True)
def may_mount(pytestconfig: pytest.Config) -> None:
    """Skip where a container forbids what makes a small disk; --all insists."""
    done = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"])
    if done.returncode != 0 and not pytestconfig.getoption("--all"):
        pytest.skip("this container may not mount a small file system; --all tries it")


def with_little_space(cache: Path, size: str, linked: tuple[str, ...]) -> str:
    """Run mlxlab with a cache on a disk of ``size``, to which ``linked`` parts of ours are linked.

    Returns what it printed, its exit status, and the cache's content.
    """
    real = locate.cache().absolute()
    links = "\n".join(f"ln -s {real / part} {cache}/mlxtrace/{part}" for part in linked)
    script = f"""
    set -e
    mount -t tmpfs -o size={size} none {cache}
    mkdir {cache}/mlxtrace
    {links}
    export XDG_CACHE_HOME={cache}
    set +e
    {" ".join(mlxlab("run", "--offline", "--accel", "tcg", "--kernel", KERNEL, "--", "true"))}
    echo "status $?"
    cd {cache}/mlxtrace && find . -path "*/locks" -prune -o -type f -print
    """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert "status" in done.stdout, done.stdout
    return done.stdout


@pytest.mark.parametrize(
    ("size", "linked"),
    [
        pytest.param("64k", ("kernels", "sources"), id="while-building"),
        pytest.param("64k", ("kernels", "sources", "builds"), id="while-assembling"),
        pytest.param("256k", ("kernels", "sources", "builds", "trees"), id="while-booting"),
    ],
)
def test_a_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, size: str, linked: tuple[str, ...]
) -> None:
    tree.prepare(table.pick(KERNEL), Progress("tests"))
    before = qemus()
    said = with_little_space(tmp_path, size, linked)
    assert "status 125" in said
    assert "no space left" in said.lower()
    assert "Traceback" not in said
    assert ".partial-" not in said.partition("status 125")[2]
    assert qemus() <= before
