# SPDX-License-Identifier: GPL-2.0-or-later
"""The debug kernel: built, booted, traced, and seen to notice what is wrong. All of it is slow."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from mlxlab import debugkernel, table, tree
from mlxpatch import build, cache, kernels
from mlxpatch.progress import Progress
from mlxtrace import agreement
from tests.lab.conftest import GUEST, REPOSITORY, mlxlab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.usefixtures("no_lab")]

NAME = "debug-6.1"
VFIO = "drivers/vfio/vfio_main.c"
MIGRATE = "mlxtrace migrate --source $MLXLAB_VF0 --target $MLXLAB_VF1 --no-precopy"
Run = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def built() -> debugkernel.Built:
    """Return the debug kernel; the first time takes ten minutes."""
    return debugkernel.build(table.load()[NAME], None, Progress("tests"))


@pytest.fixture(scope="module")
def provoke(built: debugkernel.Built) -> Path:
    """Return the module that does one wrong thing when it is loaded."""
    progress = Progress("tests")
    firmware = build.build(build.lab_firmware(), built.tree, progress)
    recipe = build.Recipe("provoke", {"provoke": GUEST / "provoke"})
    return build.build(recipe, built.tree, progress, symvers=[firmware.symvers]).modules[0]


def lab(out: Path, script: str, *kernel: str | Path) -> Run:
    """Run a shell script in the guest."""
    words = mlxlab("run", *(kernel or ("--kernel", NAME)), "--timeout", "500", "--out", out)
    return subprocess.run(
        [*words, "--", "sh", "-c", script], cwd=REPOSITORY, capture_output=True, text=True
    )


@pytest.mark.usefixtures("built")
def test_a_traced_migration_has_no_splat(tmp_path: Path) -> None:
    """KASAN, lockdep and the rest find nothing in the stand-in and in Debian's driver."""
    result = lab(
        tmp_path,
        "mlxtrace precopy -d $MLXLAB_VF0 -d $MLXLAB_VF1 -w $MLXLAB_OUT/trace.mlxrec "
        f'-c "{MIGRATE} --json $MLXLAB_OUT/client.json"',
    )
    assert result.returncode == 0, result.stdout + result.stderr
    client = json.loads((tmp_path / "client.json").read_text())
    assert client["state_hashes_equal"] is True
    events = list(agreement.traced_events(tmp_path / "trace.mlxrec"))
    assert [row for row in agreement.compare(client, events) if not row.agrees] == []


def test_what_is_wrong_is_noticed_as_what_it_is(tmp_path: Path, provoke: Path) -> None:
    """One boot. Lockdep first: it is off after a report of KASAN's."""
    script = "\n".join(
        f"insmod {provoke} what={what} && rmmod provoke"
        for what in ("deadlock", "leak", "out_of_bounds", "use_after_free")
    )
    result = lab(tmp_path, script)
    assert result.returncode == 120
    for kind, headline in (
        ("lockdep", "WARNING: possible circular locking dependency detected"),
        ("UBSAN", "UBSAN: array-index-out-of-bounds in .*provoke.c"),
        ("KASAN", r"BUG: KASAN: use-after-free in use_after_free"),
        ("kmemleak", "kmemleak: .* new suspected memory leaks"),
        ("kmemleak", "unreferenced object 0x"),
    ):
        pattern = rf"kernel {kind} in the guest:\n(.*\n){{0,3}}.*{headline}"
        assert re.search(pattern, result.stderr), (kind, result.stderr)


@pytest.mark.parametrize(("what", "kind"), [("leak", "kmemleak"), ("use_after_free", "KASAN")])
def test_one_wrong_is_enough(tmp_path: Path, provoke: Path, what: str, kind: str) -> None:
    result = lab(tmp_path, f"insmod {provoke} what={what} && rmmod provoke")
    assert result.returncode == 120
    kinds = set(re.findall(r"kernel (\w+) in the guest:", result.stderr))
    assert kinds == {kind}, result.stderr


@pytest.mark.usefixtures("built")
def test_faults_can_be_injected(tmp_path: Path) -> None:
    """A command's allocations fail, and the kernel survives it."""
    result = lab(
        tmp_path,
        """
        cd /sys/kernel/debug
        ls -d fail_page_alloc fail_usercopy fail_function || exit 3
        cd failslab
        echo 100 >probability
        echo 1 >times
        echo Y >task-filter
        echo N >ignore-gfp-wait
        sh -c 'echo 1 >/proc/self/make-it-fail; exec cat /proc/self/status' >/dev/null
        cat times
        """,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "0"


def test_its_tree_is_one_for_kernel_dir(tmp_path: Path, built: debugkernel.Built) -> None:
    """As a user's own is; nothing is written into it."""

    def state() -> dict[Path, tuple[int, int]]:
        paths = [path for path in built.tree.rglob("*") if not path.is_symlink()]
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}

    before = state()
    result = lab(tmp_path, f"uname -r; {MIGRATE} >&2", "--kernel-dir", built.tree)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{built.release}\n"
    assert state() == before


@pytest.mark.usefixtures("built")
def test_a_series_is_built_and_run(tmp_path: Path, series: Callable[[str], Path]) -> None:
    """Only modules, since nothing of the kernel itself changes; the guest loads them."""
    folder = series("patched-by-a-test")
    done = subprocess.run(
        mlxlab("kernel", "build", NAME, "--series", folder), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "building the vfio modules" in done.stderr
    name = f"{NAME}+{folder.name}"
    assert f"--kernel {name}" in done.stdout
    result = lab(tmp_path, f"dmesg | grep 'VFIO - '; {MIGRATE} >&2", "--kernel", name)
    assert result.returncode == 0, result.stderr
    assert "patched by a test" in result.stdout


@pytest.fixture
def series(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Yield a function that makes a series that changes what the vfio module says at its start."""
    made = []

    def make(name: str) -> Path:
        source = kernels.ensure_source("6.1", Progress("tests")).root
        lines = (source / VFIO).read_text().splitlines()
        number, line = next(
            (number, line) for number, line in enumerate(lines, 1) if "#define DRIVER_DESC" in line
        )
        folder = tmp_path / name
        folder.mkdir()
        made.append(name)
        (folder / "series").write_text("only.patch\n")
        changed = line.replace("User Level meta-driver", "patched by a test")
        assert changed != line
        (folder / "only.patch").write_text(
            f"--- a/{VFIO}\n+++ b/{VFIO}\n@@ -{number},1 +{number},1 @@\n-{line}\n+{changed}\n"
        )
        return folder

    yield make
    for name in made:
        shutil.rmtree(cache.root() / "debug" / f"{NAME}+{name}", ignore_errors=True)


def test_its_modules_are_those_of_its_release(built: debugkernel.Built) -> None:
    boot = tree.prepare(table.pick(NAME), Progress("tests"))
    assert boot.release == built.release
    assert {path.name for path in (boot.modules / "updates").iterdir()} == {
        "mlx5_lab.ko",
        "mlx5-vfio-pci.ko",
    }
