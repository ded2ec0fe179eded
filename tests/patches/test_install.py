# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules are installed, preferred, and taken away again, in the file system of a made-up host."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genbindings.errors import Error
from mlxpatch import install, modinfo
from mlxpatch.host import Host
from tests.patches import fake_module
from tests.patches.fake_module import RELEASE

SCRIPT = str(Path(sys.executable).parent / "mlxpatch")


def mlxpatch(root: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [SCRIPT, *map(str, words), "--root", str(root), "--kernel", RELEASE]
    return subprocess.run(command, capture_output=True, text=True)


def status(root: Path) -> dict[str, dict[str, Any]]:
    done = mlxpatch(root, "status", "--json")
    assert done.returncode == 0, done.stderr
    return {module["name"]: module for module in json.loads(done.stdout)["modules"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host whose kernel has a vfio of its own, and no driver."""
    root = tmp_path / "root"
    kernel = root / "lib/modules" / RELEASE
    fake_module.make(kernel / "kernel/drivers/vfio/vfio.ko", "int stock;")
    (kernel / "modules.order").write_text("kernel/drivers/vfio/vfio.ko\n")
    (kernel / "modules.builtin").write_text("")
    subprocess.run(["/sbin/depmod", "-b", root, RELEASE], check=True)
    return root


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """What mlxpatch build made."""
    folder = tmp_path / "built"
    fake_module.make(folder / "vfio.ko", "int patched;")
    fake_module.make(folder / "mlx5-vfio-pci.ko", "int driver;", depends="vfio")
    return folder


def files(root: Path) -> dict[str, bytes]:
    folder = root / "lib/modules" / RELEASE
    names = ("kernel", "updates")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in names
        for path in sorted((folder / name).rglob("*"))
        if path.is_file()
    }


def pretend_loaded(root: Path, module: Path, refcnt: int = 0) -> None:
    folder = root / "sys/module" / modinfo.read(module).name
    (folder / "notes").mkdir(parents=True)
    (folder / "initstate").write_text("live\n")
    (folder / "refcnt").write_text(f"{refcnt}\n")
    note = bytes.fromhex(modinfo.read(module).build_id)
    data = struct.pack("<III4s", 4, len(note), 3, b"GNU\0") + note
    (folder / "notes/.note.gnu.build-id").write_bytes(data)


def pretend_open(root: Path, what: str) -> None:
    driver = root / "sys/bus/pci/drivers/mlx5_vfio_pci"
    driver.mkdir(parents=True)
    (driver / "0000:01:00.1").symlink_to("../../../../devices/0000:01:00.1")
    (driver / "bind").write_text("")
    process = root / "proc/4711"
    (process / "fd").mkdir(parents=True)
    (process / "comm").write_text("qemu-system-x86\n")
    (process / "fd/0").symlink_to("/dev/null")
    (process / "fd/9").symlink_to(what)


def test_there_and_back(root: Path, built: Path) -> None:
    before = files(root)
    done = mlxpatch(root, "install", built)
    assert done.returncode == 0, done.stderr
    place = root / "lib/modules" / RELEASE / "updates/mlxtrace"
    assert done.stdout.split() == [str(place / "mlx5-vfio-pci.ko"), str(place / "vfio.ko")]
    found = status(root)
    assert set(found) == {"mlx5_vfio_pci", "vfio"}
    assert all(module["ours"] for module in found.values())
    for name in found:
        asked = ["/sbin/modprobe", "-d", str(root), "-S", RELEASE, "--show-depends", name]
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        assert f"/updates/mlxtrace/{name.replace('mlx5_vfio_', 'mlx5-vfio-')}.ko" in said
    done = mlxpatch(root, "uninstall")
    assert done.returncode == 0, done.stderr
    assert "mlx5_vfio_pci: this kernel has none of its own" in done.stdout
    assert files(root) == before
    assert not status(root)["vfio"]["ours"]
    again = mlxpatch(root, "uninstall")
    assert (again.returncode, again.stdout) == (0, "")
    assert "nothing of mlxpatch is installed" in again.stderr


def test_a_second_installation_replaces_the_first(root: Path, built: Path) -> None:
    assert mlxpatch(root, "install", built).returncode == 0
    (built / "vfio.ko").unlink()
    assert mlxpatch(root, "install", built).returncode == 0
    assert [name for name, module in status(root).items() if module["ours"]] == ["mlx5_vfio_pci"]


@pytest.mark.parametrize(
    "what",
    ["/dev/vfio/7", "/dev/vfio/devices/vfio0", "anon_inode:[vfio-device]", "/dev/vfio/noiommu-0"],
)
def test_an_open_vf_is_left_alone(root: Path, built: Path, what: str) -> None:
    assert mlxpatch(root, "install", built).returncode == 0
    before = files(root)
    pretend_open(root, what)
    for words in (["install", built], ["uninstall"]):
        done = mlxpatch(root, *words)
        assert done.returncode == 1
        assert f"qemu-system-x86 (process 4711) has {what} open" in done.stderr
        assert "0000:01:00.1" in done.stderr
    assert files(root) == before
    said = mlxpatch(root, "status").stdout
    assert f"in use: qemu-system-x86 (4711) has {what} open" in said


def test_the_container_alone_is_no_vf(root: Path, built: Path) -> None:
    pretend_open(root, "/dev/vfio/vfio")
    assert mlxpatch(root, "install", built).returncode == 0


def test_a_driver_with_references_is_left_alone(root: Path, built: Path) -> None:
    pretend_loaded(root, built / "mlx5-vfio-pci.ko", refcnt=2)
    done = mlxpatch(root, "install", built)
    assert done.returncode == 1
    assert "mlx5_vfio_pci is in use (2 references)" in done.stderr
    assert "updates" not in " ".join(files(root))


def test_status_tells_a_loaded_module_from_the_file(root: Path, built: Path) -> None:
    stock = root / "lib/modules" / RELEASE / "kernel/drivers/vfio/vfio.ko"
    pretend_loaded(root, stock)
    assert status(root)["vfio"]["current"] is True
    done = mlxpatch(root, "install", built)
    assert "loaded are still the earlier ones of vfio: reboot, or" in done.stderr
    assert status(root)["vfio"]["current"] is False
    assert status(root)["mlx5_vfio_pci"]["loaded"] is False


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            lambda root, _: fake_module.make(
                root / "lib/modules" / RELEASE / "updates/dkms/vfio.ko", "int dkms;"
            ),
            "",
        ),
        (
            lambda root, _: (
                (root / "etc/depmod.d").mkdir(parents=True),
                (root / "etc/depmod.d/local.conf").write_text("search built-in updates\n"),
            ),
            "modprobe would not load the new vfio",
        ),
        (
            lambda _, built: fake_module.make(built / "old.ko", release="5.10.0-1"),
            "old.ko is for kernel 5.10.0-1, not 6.1.0-test",
        ),
        (lambda _, built: (built / "junk.ko").write_text("junk"), "junk.ko is not a kernel module"),
    ],
    ids=["dkms", "search", "release", "junk"],
)
def test_what_would_not_be_loaded_is_refused_and_undone(
    root: Path, built: Path, break_it: Any, said: str
) -> None:
    break_it(root, built)
    before = files(root)
    done = mlxpatch(root, "install", built)
    if done.returncode == 0:
        # depmod may prefer ours to another one in updates: then they must all be ours.
        assert not said
        assert all(module["ours"] for module in status(root).values())
        return
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert files(root) == before


def test_hints_for_secure_boot_and_initramfs(root: Path, built: Path) -> None:
    variables = root / "sys/firmware/efi/efivars"
    variables.mkdir(parents=True)
    (variables / "SecureBoot-8be4df61").write_bytes(b"\6\0\0\0\1")
    (root / "boot").mkdir()
    (root / f"boot/initrd.img-{RELEASE}").write_text("")
    done = mlxpatch(root, "install", built)
    assert done.returncode == 0, done.stderr
    assert "Secure Boot is on, and 2 modules are not signed" in done.stderr
    assert "mokutil --import" in done.stderr
    assert f"update-initramfs -u -k {RELEASE}" in done.stderr
    (variables / "SecureBoot-8be4df61").write_bytes(b"\6\0\0\0\0")
    assert "Secure Boot" not in mlxpatch(root, "install", built).stderr


def test_a_kernel_that_is_not_there(tmp_path: Path, built: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words in (["install", built], ["uninstall"], ["status"]):
        done = mlxpatch(tmp_path / "empty", *words)
        assert done.returncode == 1
        assert f"lib/modules/{RELEASE} does not exist" in done.stderr


def test_a_folder_without_modules(root: Path, tmp_path: Path) -> None:
    done = mlxpatch(root, "install", tmp_path / "root/lib")
    assert (done.returncode, "there are no modules to install" in done.stderr) == (1, True)


def test_who_may_not_write_is_told_so(
    root: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mlxpatch(root, "install", built).returncode == 0
    before = files(root)
    # Root may write everywhere, so the answer is given here.
    monkeypatch.setattr("os.access", lambda *_: False)
    host = Host(root)
    with pytest.raises(Error, match="cannot be written") as caught:
        install.install(host, RELEASE, sorted(built.glob("*.ko")))
    assert caught.value.hint == "run it as root"
    with pytest.raises(Error, match="cannot be written"):
        install.uninstall(host, RELEASE)
    assert files(root) == before
