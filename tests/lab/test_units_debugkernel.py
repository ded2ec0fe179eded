# SPDX-License-Identifier: GPL-2.0-or-later
"""How a debug kernel is built, with a source package whose kernel is a few lines."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error, UsageError
from mlxlab import debugkernel, kernelbuild, table
from mlxpatch import kernels
from mlxpatch.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

QUIET = Progress("tests", quiet=True)
FRAGMENT = "# what is on\nCONFIG_KASAN=y\nCONFIG_VFIO=m\n"
# What it makes holds what it was made from. Each build of the kernel itself is counted.
MAKEFILE = r"""
ifdef M
modules:
	cat include/linux/vfio.h $(M)/vfio.c >$(M)/vfio.ko
	printf '$(M)/vfio.ko\n' >$(M)/modules.order
	printf '0x1\tvfio_new\t$(M)/vfio\tEXPORT_SYMBOL_GPL\t\n' >$(M)/Module.symvers
	touch $(M)/vfio.o
else
allnoconfig:
	grep -v "$(REFUSED)" $(KCONFIG_ALLCONFIG) >.config

init/main.o: init/main.c include/linux/core.h
	cat $^ >$@
	printf 'source_$@ := init/main.c\n\ndeps_$@ := \\\n  include/linux/core.h \\\n' \
		>init/.main.o.cmd
	@echo "  CC      $@"
	echo one >>"$(COUNT)"

bzImage: init/main.o
	$(FAIL)
	mkdir -p arch/x86/boot arch/x86/include tools/objtool include/config
	cp init/main.o arch/x86/boot/bzImage
	echo 6.1.99-debug >include/config/kernel.release
	touch include/config/auto.conf include/config/KASAN
	touch System.map arch/x86/Makefile arch/x86/Makefile_32.cpu tools/objtool/objtool

modules: bzImage
	cat include/linux/vfio.h drivers/vfio/vfio.c >drivers/vfio/vfio.ko
	printf 'source_vfio.o := drivers/vfio/vfio.c\n\ndeps_vfio.o := \\\n  linux/vfio.h \\\n' \
		>drivers/vfio/.vfio.o.cmd
	mkdir -p virt/lib
	echo irqbypass >virt/lib/irqbypass.ko
	printf 'drivers/vfio/vfio.ko\nvirt/lib/irqbypass.ko\n' >modules.order
	printf '0x0\tcore\tvmlinux\tEXPORT_SYMBOL\t\n0x0\tvfio\tdrivers/vfio/vfio\tEXPORT_SYMBOL\t\n' \
		>Module.symvers
	touch modules.builtin modules.builtin.modinfo
endif
"""
SOURCES = {
    "Makefile": MAKEFILE,
    "init/main.c": "main 1\n",
    "include/linux/core.h": "core 1\n",
    "include/linux/vfio.h": "header 1\n",
    "drivers/vfio/vfio.c": "driver 1\n",
    "drivers/vfio/Kconfig": "config 1\n",
    "drivers/net/net.c": "net 1\n",
    "scripts/build.sh": "script 1\n",
}


class Lab:
    """A debug kernel of its own: where it is, and how often its kernel was compiled."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.count = root / "count"
        self.fragment = root / "debug.config"
        self.fragment.write_text(FRAGMENT)
        self.entry = table.Entry("debug", "", "6.1", "stock", config="lab/debug.config", steps=3)
        self.version = "6.1.99-1"
        self.deb = package(root)
        monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        monkeypatch.setenv("COUNT", str(self.count))
        monkeypatch.setenv("REFUSED", "nothing")
        monkeypatch.setenv("FAIL", "true")
        monkeypatch.setattr(kernelbuild, "check_tools", lambda: None)
        monkeypatch.setattr(kernels, "ensure_archive", lambda *_, **__: (self.version, self.deb))
        monkeypatch.setattr("genbindings.resources.find", lambda _: self.fragment)

    def build(self, series: Path | None = None) -> debugkernel.Built:
        return debugkernel.build(self.entry, series, QUIET)

    def compiled(self) -> int:
        return len(self.count.read_text().split()) if self.count.exists() else 0

    def work(self) -> list[str]:
        return sorted(path.name for path in (self.root / "cache/mlxtrace/work").glob("*"))

    def series(self, *names: str) -> Path:
        """Return a series that changes these files: their 1 becomes 2."""
        folder = self.root / "mine"
        folder.mkdir(exist_ok=True)
        (folder / "series").write_text("".join(f"{number}.patch\n" for number in range(len(names))))
        for number, name in enumerate(names):
            old = SOURCES[name].strip()
            (folder / f"{number}.patch").write_text(
                f"--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-{old}\n+{old.replace('1', '2')}\n"
            )
        return folder


def package(root: Path) -> Path:
    """Return a source package as Debian's is."""
    top = root / "linux-source-6.1"
    for name, text in SOURCES.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    content = root / "package"
    (content / "usr/src").mkdir(parents=True)
    archive = content / "usr/src/linux-source-6.1.tar.xz"
    subprocess.run(["tar", "-cJf", archive, "-C", root, top.name], check=True)
    (content / "DEBIAN").mkdir()
    (content / "DEBIAN/control").write_text(
        "Package: linux-source-6.1\nVersion: 6.1.99-1\nArchitecture: all\n"
        "Maintainer: nobody <nobody@example.invalid>\nDescription: a kernel of a few lines\n"
    )
    deb = root / "linux-source.deb"
    command = ["dpkg-deb", "--root-owner-group", "-b", str(content), str(deb)]
    subprocess.run(command, check=True, capture_output=True)
    return deb


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, monkeypatch)


def test_what_is_kept_is_what_a_guest_and_a_module_need(lab: Lab) -> None:
    built = lab.build()
    assert (built.name, built.version, built.release) == ("debug", "6.1.99-1", "6.1.99-debug")
    tree = built.tree
    assert (tree / "arch/x86/boot/bzImage").read_text() == "main 1\ncore 1\n"
    assert (tree / "drivers/vfio/vfio.c").exists()
    assert (tree / "virt/lib/irqbypass.ko").exists()
    assert (tree / "include/config/auto.conf").exists()
    for gone in ("init", "drivers/net", "include/config/KASAN", "drivers/vfio/.vfio.o.cmd"):
        assert not (tree / gone).exists(), gone
    inputs = (tree.parent / "inputs").read_text().split()
    assert inputs == ["include/linux/core.h", "init/main.c"]
    assert lab.work() == []


def test_what_is_built_is_not_built_again_until_something_changes(lab: Lab) -> None:
    first = lab.build()
    assert lab.build() == first
    assert lab.compiled() == 1
    lab.fragment.write_text(FRAGMENT + "CONFIG_UBSAN=y\n")
    assert "older configuration" in debugkernel.news(first, lab.entry)
    second = lab.build()
    assert debugkernel.news(second, lab.entry) == ""
    lab.version = "6.1.100-1"
    assert lab.build().version == "6.1.100-1"
    assert lab.compiled() == 3


def test_a_build_that_failed_goes_on_where_it_stopped(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAIL", "echo 'init/main.c:1:1: error: no such thing'; exit 1")
    with pytest.raises(Error, match="make bzImage modules failed") as caught:
        lab.build()
    assert "init/main.c:1:1: error: no such thing" in str(caught.value)
    assert "the same command goes on" in capsys.readouterr().err
    assert debugkernel.find("debug") is None
    assert lab.work() == ["debug"]
    monkeypatch.setenv("FAIL", "true")
    assert lab.build().release == "6.1.99-debug"
    assert lab.compiled() == 1
    assert lab.work() == []


def test_an_option_that_is_not_taken_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUSED", "KASAN")
    with pytest.raises(Error, match="does not take CONFIG_KASAN=y of"):
        lab.build()


@pytest.mark.parametrize(
    ("names", "kernels_", "driver", "image"),
    [
        (("drivers/vfio/vfio.c",), 1, "header 1\ndriver 2\n", "main 1\ncore 1\n"),
        (("include/linux/vfio.h",), 1, "header 2\ndriver 1\n", "main 1\ncore 1\n"),
        (("drivers/net/net.c",), 1, "header 1\ndriver 1\n", "main 1\ncore 1\n"),
        (("drivers/vfio/Kconfig",), 2, "header 1\ndriver 1\n", "main 1\ncore 1\n"),
        (("include/linux/core.h",), 2, "header 1\ndriver 1\n", "main 1\ncore 2\n"),
        (
            ("drivers/vfio/vfio.c", "init/main.c"),
            2,
            "header 1\ndriver 2\n",
            "main 2\ncore 1\n",
        ),
    ],
)
def test_a_series_builds_no_more_than_it_changes(
    lab: Lab, names: tuple[str, ...], kernels_: int, driver: str, image: str
) -> None:
    plain = lab.build()
    built = lab.build(lab.series(*names))
    assert built.name == "debug+mine"
    assert lab.compiled() == kernels_
    assert (built.tree / "drivers/vfio/vfio.ko").read_text() == driver
    assert (built.tree / "arch/x86/boot/bzImage").read_text() == image
    assert "drivers/vfio/vfio.ko" in (built.tree / "modules.order").read_text().split()
    assert "virt/lib/irqbypass.ko" in (built.tree / "modules.order").read_text().split()
    # The kernel without the series is what it was.
    assert (plain.tree / "drivers/vfio/vfio.ko").read_text() == "header 1\ndriver 1\n"
    assert "vfio_new" not in (plain.tree / "Module.symvers").read_text()
    assert lab.build(lab.series(*names)) == built
    assert lab.compiled() == kernels_
    assert lab.work() == []


def test_symbols_of_rebuilt_modules_replace_the_old_ones(lab: Lab) -> None:
    lab.build()
    built = lab.build(lab.series("drivers/vfio/vfio.c"))
    symbols = [line.split("\t")[1] for line in (built.tree / "Module.symvers").open()]
    assert symbols == ["core", "vfio_new"]
    assert not list((built.tree / "drivers/vfio").glob("*.o"))


def test_a_series_builds_the_kernel_itself_first_if_need_be(lab: Lab) -> None:
    built = lab.build(lab.series("drivers/vfio/vfio.c"))
    assert debugkernel.find("debug") is not None
    assert [variant.name for variant in debugkernel.variants("debug")] == [built.name]


def test_a_series_that_changed_is_noticed(lab: Lab) -> None:
    built = lab.build(lab.series("drivers/vfio/vfio.c"))
    entry = replace(lab.entry, name=built.name)
    assert debugkernel.news(built, entry) == ""
    folder = lab.series("include/linux/vfio.h")
    note = debugkernel.news(built, entry)
    assert f"{folder} has changed" in note
    assert f"mlxlab kernel build debug --series {folder}" in note


def test_a_patch_that_does_not_apply_leaves_nothing(lab: Lab) -> None:
    folder = lab.series("drivers/vfio/vfio.c")
    (folder / "0.patch").write_text((folder / "0.patch").read_text().replace("driver 1", "other"))
    with pytest.raises(Error, match=r"0\.patch does not apply: drivers/vfio/vfio\.c, hunk #1"):
        lab.build(folder)
    assert lab.work() == []
    assert lab.compiled() == 0


def test_a_folder_whose_name_cannot_be_a_kernels_is_refused(lab: Lab) -> None:
    folder = lab.series("drivers/vfio/vfio.c")
    with pytest.raises(UsageError, match="becomes part of the kernel's"):
        lab.build(folder.rename(folder.with_name("my patches")))


def test_all_missing_tools_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"make", "gcc", "bc", "setpriv"}
    monkeypatch.setattr("shutil.which", lambda tool: tool if tool in there else None)
    monkeypatch.setattr(kernelbuild, "_compiles", lambda _: False)
    with pytest.raises(Error, match="needs bison, flex, libelf-dev") as caught:
        kernelbuild.check_tools()
    assert "apt-get install bison flex libelf-dev" in caught.value.hint


def test_the_shipped_entry_is_refused_until_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"not built: mlxlab kernel build debug-6\.1"):
        table.pick("debug-6.1")
