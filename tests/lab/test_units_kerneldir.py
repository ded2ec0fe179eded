# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel that the user built: what is checked before anything is built against it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from genbindings.errors import Error
from mlxlab import kerneldir, needs, table, tree
from mlxlab.errors import NOT_STARTED
from mlxpatch import headers, kernels
from mlxpatch.progress import Progress
from tests.lab.conftest import REPOSITORY

SCRIPT = str(Path(sys.executable).parent / "mlxlab")
QUIET = Progress("tests", quiet=True)
CONFIG = "".join(f"CONFIG_{need.option}=y\n" for need in needs.NEEDS) + (
    "CONFIG_BPF_SYSCALL=y\nCONFIG_PERF_EVENTS=y\nCONFIG_KPROBE_EVENTS=y\nCONFIG_BPF_EVENTS=y\n"
)
ORDER = "drivers/vfio/vfio.ko\ndrivers/vfio/pci/vfio-pci-core.ko\n"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Return a build tree with all that is looked for, and nothing that works."""
    folder = tmp_path / "linux"
    for name in (
        *("Makefile", "Module.symvers", "modules.builtin", "modules.builtin.modinfo"),
        *("arch/x86/boot/bzImage", *ORDER.split()),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "modules.order").write_text(ORDER)
    (folder / ".config").write_text(CONFIG)
    (folder / "include/config").mkdir(parents=True)
    (folder / "include/config/auto.conf").write_text(CONFIG)
    (folder / "include/config/kernel.release").write_text("6.1.99-mine\n")
    return folder


def test_a_build_tree_says_what_it_is(built: Path) -> None:
    kernel = kerneldir.look(built)
    assert (kernel.release, kernel.source) == ("6.1.99-mine", built)
    assert kernel.modules == tuple(ORDER.split())


def test_the_sources_of_a_build_elsewhere_are_found(built: Path, tmp_path: Path) -> None:
    source = tmp_path / "source-of-it"
    source.mkdir()
    (built / "source").symlink_to(source)
    assert kerneldir.look(built).source == source


def test_object_files_in_modules_order_are_modules(built: Path) -> None:
    """As Linux 6.3 and later write it."""
    (built / "modules.order").write_text(ORDER.replace(".ko", ".o"))
    assert kerneldir.look(built).modules == tuple(ORDER.split())


@pytest.mark.parametrize(
    ("gone", "said", "hint"),
    [
        (["Makefile"], "is not a kernel's build tree: it has no Makefile", "O="),
        ([".config"], "it has no .config", "O="),
        (["arch/x86/boot/bzImage"], "no arch/x86/boot/bzImage", "bzImage"),
        (["drivers/vfio/vfio.ko"], "no drivers/vfio/vfio.ko", "-j$(nproc) modules"),
        (
            ["arch/x86/boot/bzImage", "Module.symvers", "modules.order"],
            "no arch/x86/boot/bzImage, Module.symvers, modules.order",
            "bzImage modules",
        ),
    ],
)
def test_what_is_not_built_is_said_at_once(
    built: Path, gone: list[str], said: str, hint: str
) -> None:
    for name in gone:
        (built / name).unlink()
    with pytest.raises(Error, match=re.escape(said)) as caught:
        kerneldir.look(built)
    assert hint in caught.value.hint


def test_a_kernel_without_the_driver_is_told_which_has_it(built: Path) -> None:
    with pytest.raises(Error, match=r"has no drivers/vfio/pci/mlx5") as caught:
        kerneldir.prepare(built, QUIET)
    assert "5.18" in caught.value.hint


def test_all_missing_options_are_named_at_once(built: Path) -> None:
    gone = ("PCI_IOV", "VFIO_PCI_CORE", "IRQ_REMAP", "XXHASH")
    config = "".join(
        line
        for line in CONFIG.splitlines(keepends=True)
        if line.removeprefix("CONFIG_").partition("=")[0] not in gone
    )
    (built / "include/config/auto.conf").write_text(
        config.replace("CONFIG_DEBUG_FS=y", "# CONFIG_DEBUG_FS is not set").replace(
            "CONFIG_TMPFS=y", "CONFIG_TMPFS=m"
        )
    )
    with pytest.raises(Error) as caught:
        kerneldir.prepare(built, QUIET)
    text = str(caught.value)
    assert str(built) in text
    for option in (*gone, "DEBUG_FS"):
        assert re.search(rf"^  CONFIG_{option}=y.* is missing: ", text, re.MULTILINE), option
    assert "switch on CONFIG_VFIO_PCI)" in text
    assert "switch on CONFIG_CRYPTO_XXHASH)" in text
    assert "CONFIG_TMPFS is a module and must be built in" in text
    assert len(text.splitlines()) == 1 + len(gone) + 2


def test_a_module_that_was_not_built_is_missing() -> None:
    config = {need.option: "m" if need.module else "y" for need in needs.NEEDS}
    modules = {need.module for need in needs.NEEDS if need.module}
    assert needs.missing(config, modules) == []
    (line,) = needs.missing(config, modules - {"overlay"})
    assert "module overlay (CONFIG_OVERLAY_FS=m) is missing" in line


@pytest.mark.parametrize("option", ["MODULE_SIG_FORCE", "MLX5_CORE", "TRIM_UNUSED_KSYMS"])
def test_what_must_not_be_set_is_named(option: str) -> None:
    config = needs.parse(CONFIG + f"CONFIG_{option}=y\n")
    (line,) = needs.missing(config, set())
    assert f"CONFIG_{option}=y must not be set" in line
    assert needs.missing(config | {"MLX5_CORE": "m", option: "m"}, set()) == []


def test_what_only_tracing_needs_is_a_note(capsys: pytest.CaptureFixture[str], built: Path) -> None:
    config = CONFIG.replace("CONFIG_BPF_EVENTS=y\n", "").replace("CONFIG_BPF_SYSCALL=y\n", "")
    needs.check(f"the kernel in {built}", config, set(), QUIET, "")
    said = capsys.readouterr().err
    assert "has no CONFIG_BPF_SYSCALL and CONFIG_BPF_EVENTS" in said


def test_the_debug_kernel_and_the_check_agree() -> None:
    """What the fragment switches on is all that the check wants and that is no side effect."""
    config = needs.parse((REPOSITORY / "lab/debug-6.1.config").read_text())
    implied = {"X86_64", "XXHASH", "VFIO_PCI_CORE", "VFIO_IOMMU_TYPE1"}
    assert {need.option for need in needs.NEEDS} - set(config) == implied
    assert not any(config.get(option) == "y" for option in ("MODULE_SIG_FORCE", "MLX5_CORE"))


def test_modules_are_linked_and_nothing_is_written(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("mlxlab.boot.subprocess.run", lambda *_, **__: Done())
    driver = "drivers/vfio/pci/mlx5/mlx5-vfio-pci.ko"
    (built / "modules.order").write_text(f"{ORDER}{driver}\n")
    (built / driver).parent.mkdir()
    (built / driver).write_text("the kernel's own")
    ours = tmp_path / "mlx5-vfio-pci.ko"
    ours.write_text("ours")
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}

    kernel = kerneldir.look(built)
    boot = kerneldir.assemble(kernel, [ours], QUIET)
    assert boot.image.read_text() == "arch/x86/boot/bzImage"
    assert (boot.modules / "kernel/drivers/vfio/vfio.ko").read_text() == "drivers/vfio/vfio.ko"
    assert not (boot.modules / "kernel" / driver).exists()
    assert (boot.modules / "updates/mlx5-vfio-pci.ko").read_text() == "ours"
    assert (boot.modules / "build").resolve() == built
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before

    assert kerneldir.assemble(kernel, [ours], QUIET).modules == boot.modules
    (built / "drivers/vfio/vfio.ko").unlink()
    (built / "drivers/vfio/vfio.ko").write_text("built again")
    again = kerneldir.assemble(kernel, [ours], QUIET)
    assert again.modules != boot.modules
    assert (again.modules / "kernel/drivers/vfio/vfio.ko").read_text() == "built again"


class Done:
    """What subprocess.run returns."""

    returncode = 0
    stderr = ""


def test_a_changed_header_builds_the_modules_anew(built: Path) -> None:
    header = built / "include/linux/vfio.h"
    header.parent.mkdir()
    header.write_text("one")
    first = headers.inspect(built).identity()
    assert headers.inspect(built).identity() == first
    header.write_text("another")
    assert headers.inspect(built).identity() != first


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('CONFIG_CC_VERSION_TEXT="gcc (Debian 12.2.0-14) 12.2.0"', ()),
        ('CONFIG_CC_VERSION_TEXT="gcc-13 (Debian 13.2.0-1) 13.2.0"', ("CC=gcc-13",)),
        ("\nCONFIG_CC_IS_CLANG=y\nCONFIG_LD_IS_LLD=y", ("LLVM=1",)),
        ("\nCONFIG_CC_IS_CLANG=y\nCONFIG_LD_IS_BFD=y", ("CC=clang",)),
    ],
)
def test_modules_are_built_by_the_kernels_compiler(
    built: Path, monkeypatch: pytest.MonkeyPatch, lines: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr("mlxpatch.headers._version", lambda compiler: compiler)
    (built / ".config").write_text(f"#\n{lines}\n")
    assert headers.inspect(built).words == words


def test_a_distribution_kernel_is_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A series whose driver does not exist, then an image that lacks something."""
    kernel = kernels.Kernel("5.10.0-30-amd64", "5.10", tmp_path / "kernel")
    source = kernels.Source("5.10", "5.10", tmp_path / "source")
    (source.root / "drivers/vfio/pci").mkdir(parents=True)
    monkeypatch.setattr(kernels, "ensure", lambda *_, **__: (kernel, source))
    entry = table.Entry("old", "", "5.10", "stock")
    with pytest.raises(Error, match=r"Linux 5\.10 \(linux-source-5\.10\) has no mlx5-vfio-pci"):
        tree.prepare(entry, QUIET)
    (source.root / "drivers/vfio/pci/mlx5").mkdir()
    (source.root / "drivers/vfio/pci/mlx5/Makefile").write_text("")
    kernel.modules.mkdir(parents=True)
    (kernel.modules / "modules.order").write_text("kernel/fs/9p/9p.ko\n")
    (kernel.root / "boot").mkdir()
    (kernel.root / f"boot/config-{kernel.release}").write_text(
        CONFIG.replace("CONFIG_OVERLAY_FS=y", "CONFIG_OVERLAY_FS=m")
    )
    with pytest.raises(Error, match=r"linux-image-5\.10\.0-30-amd64\) cannot be") as caught:
        tree.prepare(entry, QUIET)
    assert "module overlay (CONFIG_OVERLAY_FS=m) is missing" in str(caught.value)


def test_the_command_says_it_in_one_go(built: Path, tmp_path: Path) -> None:
    (built / "include/config/auto.conf").write_text("CONFIG_MODULES=y\n")
    result = subprocess.run(
        [SCRIPT, "run", "--kernel-dir", built, "--", "true"], capture_output=True, text=True
    )
    assert result.returncode == NOT_STARTED
    assert "Traceback" not in result.stderr
    assert "CONFIG_PCI_IOV=y is missing" in result.stderr
    assert "CONFIG_MODULES" not in result.stderr
    result = subprocess.run(
        [SCRIPT, "run", "--kernel-dir", tmp_path / "nowhere", "--", "true"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
