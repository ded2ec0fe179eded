# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of kernels, the VM's command line, and what is said when something is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from genbindings.errors import Error, UsageError
from mlxlab import table, vm
from mlxlab.errors import NOT_STARTED, NotStartedError
from mlxlab.tree import Boot

SCRIPT = str(Path(sys.executable).parent / "mlxlab")

VIRTME = [
    "qemu-system-x86_64",
    *("-m", "2048M"),
    *("-chardev", "stdio,id=console,signal=off,mux=on"),
    *("-kernel", "/boot/vmlinuz"),
    *("-append", "root=x init=/bin/init"),
    *("-initrd", "/tmp/initramfs"),
]
MINIMAL = '[a]\nsummary="s"\nseries="6"\ndriver="stock"\n'


def run(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {"PATH": path} if path is not None else None
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, env=env)


def test_the_shipped_table() -> None:
    entries = table.load()
    assert {"upstream-6.12", "stock-6.1", "carried-6.1"} <= set(entries)
    assert entries["upstream-6.12"].obstacle == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a", "at end of document"),
        ('[a]\nsummary="s"\nseries="6"', "no driver"),
        ('[a]\nsummary="s"\nseries="6"\ndriver="stock"\ncolour="red"', "unknown key colour"),
        ('[a]\nsummary="s"\nseries="6"\ndriver="best"', "driver is none of"),
        ('[a]\nsummary="s"\nseries="6"\ndriver="series"', "patches and driver"),
        ('[a]\nsummary="s"\nseries=6\ndriver="stock"', "series is not a string"),
        ("a = 1", "a is not a table"),
        (f'{MINIMAL}config="c"', "only one of config and steps"),
        (f'{MINIMAL}config="c"\nsteps="3"', "steps is not a number"),
        (f"{MINIMAL}config=1\nsteps=3", "config is not a string"),
    ],
)
def test_a_bad_table_is_refused_with_its_name(text: str, said: str) -> None:
    with pytest.raises(Error, match=said) as caught:
        table.parse(text, "kernels.toml")
    assert str(caught.value).startswith("kernels.toml: ")


def test_an_unknown_kernel_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"no kernel 'upstream-9'"):
        table.pick("upstream-9")


def test_a_kernel_without_its_series_is_listed_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = '[a]\nsummary="s"\nseries="6"\ndriver="series"\npatches="kernel-patches/none"\n'
    monkeypatch.setattr(table, "load", lambda: table.parse(text, "kernels.toml"))
    assert table.listed()["a"].obstacle == "no series yet"
    with pytest.raises(UsageError, match="no series yet"):
        table.pick("a")


def test_the_console_and_the_command_line_are_replaced() -> None:
    adapted = vm.adapt(VIRTME, "file,path=/run/console.log", "init=/mlxlab")
    assert "file,id=console,path=/run/console.log" in adapted
    assert adapted[adapted.index("-append") + 1] == "init=/mlxlab"
    assert len(adapted) == len(VIRTME)


def test_another_virtme_is_refused_rather_than_guessed() -> None:
    with pytest.raises(NotStartedError, match="virtme-ng"):
        vm.adapt([word for word in VIRTME if word != "-append"], "stdio", "init=/mlxlab")


def test_the_device_has_a_queue_for_each_vf() -> None:
    words = " ".join(vm.devices(vm.Machine(vfs=5)))
    assert "sriov_max_vfs=5" in words
    assert "sriov_vq_flexible=10" in words
    assert "intel-iommu" in words
    assert "tcg,thread=single" in words


def test_paths_with_commas_reach_qemu() -> None:
    assert "path=/a,,b," in " ".join(vm.share("tag", Path("/a,b"), writable=True))


def test_a_kernel_parameter_with_a_space_is_refused() -> None:
    boot = Boot("6.12", Path("/boot/vmlinuz"), Path("/lib/modules/a b"))
    with pytest.raises(NotStartedError, match="white space"):
        vm.kernel_command_line(boot, Path("/run"))


def test_without_qemu_it_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda tool, **_: None if "qemu" in tool else "/bin/true")
    with pytest.raises(NotStartedError, match="qemu-system-x86_64 is missing") as caught:
        vm.check_tools()
    assert "qemu-system-x86" in caught.value.hint
    assert caught.value.status == NOT_STARTED
    assert tmp_path.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "Missing argument"),
        (["run", "--kernel", "nope", "--", "true"], "no kernel 'nope'"),
        (["run", "--series", "x", "--", "true"], "No such option '--series'"),
        (["exec", "--kernel", "x", "true"], "No such option '--kernel'"),
        (["run", "--vfs", "0", "--", "true"], "--vfs"),
        (["run", "--kernel", "stock-6.1", "--kernel-dir", ".", "--", "true"], "only one of them"),
        (["kernel", "build", "stock-6.1"], "one of debug-6.1"),
        (["demo", "--vfs", "1"], "needs two VFs"),
        (["run", "--env", "1=2", "--", "true"], "not NAME=VALUE"),
        (["matrix"], "nothing to compare"),
        (["run", "--profile", "nope", "--", "true"], "no profile 'nope'"),
        (["run", "--fw", "latency", "--", "true"], "not KEY=VALUE"),
        (["run", "--timeout", "inf", "--", "true"], "'inf' is not a finite number"),
        (["run", "--keep", "--idle", "nan", "--", "true"], "'nan' is not a finite number"),
        (["matrix", "--timeout", "inf"], "'inf' is not a finite number"),
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_shell_without_a_terminal_is_refused() -> None:
    result = subprocess.run(
        [SCRIPT, "shell"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert result.returncode == NOT_STARTED
    assert "terminal" in result.stderr


def test_the_kernels_are_listed() -> None:
    result = run("kernels")
    assert result.returncode == 0
    for name in table.load():
        assert name in result.stdout
