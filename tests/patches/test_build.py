# SPDX-License-Identifier: GPL-2.0-or-later
"""Out-of-tree builds: cached by their inputs, with debug info, and clear when they fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from genbindings.dwarf import struct_layouts
from genbindings.errors import Error
from mlxpatch import build, headers, kernels
from mlxpatch.build import Recipe
from mlxpatch.progress import Progress

SCRIPT = str(Path(sys.executable).parent / "mlxpatch")
KBUILD = "obj-m := probe.o\n"
SOURCE = """\
// SPDX-License-Identifier: GPL-2.0-only
#include <linux/module.h>

struct probe_layout {
	u8 first;
	u64 second;
};

struct probe_layout probe_layout = { .second = %d };
MODULE_DESCRIPTION("probe");
MODULE_LICENSE("GPL");
"""


@pytest.fixture(scope="module")
def kernel() -> kernels.Kernel:
    """Return the 6.12 kernel, fetched if it is not cached."""
    return kernels.ensure("6.12", Progress("tests"))[0]


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """Return the source of a module that nobody has built before."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "Kbuild").write_text(KBUILD)
    (folder / "probe.c").write_text(SOURCE % 1)
    return folder


@pytest.fixture(autouse=True)
def own_builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernel: kernels.Kernel) -> None:
    """Keep this test's builds out of the user's cache; the kernel stays where it is."""
    assert kernel.headers.is_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make(module: Path, kernel: kernels.Kernel) -> build.Built:
    recipe = Recipe("probe", {"probe": module})
    return build.build(recipe, kernel.headers, Progress("tests", quiet=True))


def test_a_build_is_reused_until_an_input_changes(module: Path, kernel: kernels.Kernel) -> None:
    first = make(module, kernel)
    assert first.fresh
    again = make(module, kernel)
    assert (again.fresh, again.folder) == (False, first.folder)
    (module / "probe.c").write_text(SOURCE % 2)
    changed = make(module, kernel)
    assert changed.fresh
    assert changed.folder != first.folder


def test_modules_have_dwarf_and_btf(module: Path, kernel: kernels.Kernel) -> None:
    (built,) = make(module, kernel).modules
    layout = struct_layouts(built, ["probe_layout"])["probe_layout"]
    assert (layout.size, layout.fields["second"].offset) == (16, 8)
    sections = subprocess.run(["readelf", "-SW", built], capture_output=True, text=True, check=True)
    assert ".BTF" in sections.stdout


def test_the_build_leaves_the_source_alone(module: Path, kernel: kernels.Kernel) -> None:
    make(module, kernel)
    assert sorted(path.name for path in module.iterdir()) == ["Kbuild", "probe.c"]


def test_what_does_not_build_shows_the_compilers_line_and_leaves_nothing(
    module: Path, kernel: kernels.Kernel
) -> None:
    (module / "probe.c").write_text(SOURCE % 1 + "int broken(void) { return undeclared; }\n")
    with pytest.raises(Error, match="probe does not build") as caught:
        make(module, kernel)
    assert "probe.c:12" in str(caught.value)
    assert "undeclared" in str(caught.value)
    (module / "probe.c").write_text(SOURCE % 1)
    assert make(module, kernel).fresh


def test_headers_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Error, match="it has no Makefile"):
        headers.inspect(tmp_path)
    with pytest.raises(Error, match=r"no headers of kernel 9\.9\.9"):
        headers.find("9.9.9")


def test_build_stock_makes_the_driver_and_prints_it(tmp_path: Path, kernel: kernels.Kernel) -> None:
    _, source = kernels.ensure("6.12", Progress("tests"))
    out = tmp_path / "out"
    firmware = build.build(build.lab_firmware(), kernel.headers, Progress("tests"))
    done = subprocess.run(
        [
            SCRIPT,
            "build",
            "--stock",
            "--headers",
            kernel.headers,
            "--source",
            source.root,
            "--symvers",
            firmware.symvers,
            "-o",
            out,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, *report = done.stdout.splitlines()
    assert first == str(out / "mlx5-vfio-pci.ko")
    states = {row[0]: row[2] for row in (line.split() for line in report) if len(row) > 2}
    assert (states["set-state"], states["cmd-exec"]) == ("present", "elsewhere")
    assert struct_layouts(out / "mlx5-vfio-pci.ko", ["mlx5_vf_migration_file"])


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["build", "-o", "out"], 2, "give SERIES or --stock"),
        (["build", "series", "--stock", "-o", "out"], 2, "not both"),
        (["build", "--stock", "--kernel", "9.9.9", "-o", "out"], 1, "no headers of kernel 9.9.9"),
        (["build", "--stock"], 2, "Missing option"),
        (["build", "series", "--kernel", "9.9.9", "-o", "o"], 1, "no headers of kernel 9.9.9"),
        (["dkms", "--kernel", "9.9.9", "-o", "out"], 1, "no headers of kernel 9.9.9"),
        (["compare", "old", "--kernel", "9.9.9"], 2, "Missing argument"),
        (["install", "nowhere"], 2, "does not exist"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, arguments: list[str], status: int, said: str) -> None:
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr
