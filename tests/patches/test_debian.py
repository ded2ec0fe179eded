# SPDX-License-Identifier: GPL-2.0-or-later
"""What apt is asked, and how its answers and refusals are taken; scripts play apt."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error
from mlxpatch import cache, debian, kernels
from mlxpatch.debian import Package
from mlxpatch.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

RELEASE = "6.12.117+deb12-amd64"
SEARCH = """\
linux-image-6.12.9+deb12-amd64-unsigned - Linux 6.12 for 64-bit PCs
linux-image-6.12.117+deb12-amd64-unsigned - Linux 6.12 for 64-bit PCs
linux-image-6.12.117+deb12-cloud-amd64-unsigned - Linux 6.12 for x86-64 cloud
"""
SHOW = f"""\
Package: linux-image-{RELEASE}-unsigned
Version: 6.12.117-1~deb12u1
Depends: kmod, initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool
Size: 107

Package: linux-headers-{RELEASE}
Version: 6.12.117-1~deb12u1
Depends: linux-headers-6.12.117+deb12-common (= 1), linux-kbuild-6.12.117+deb12, gcc-12
Size: 3

Package: linux-headers-6.12.117+deb12-common
Version: 6.12.117-1~deb12u1
Size: 11

Package: linux-kbuild-6.12.117+deb12
Version: 6.12.117-1~deb12u1
Size: 2
"""


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an apt before the real one; its answers are files in the returned folder."""
    folder = tmp_path / "apt"
    folder.mkdir()
    for name, body in {
        "apt-cache": 'case $1 in search) cat "$0.search" ;; show) cat "$0.show" ;; esac',
        "apt-get": 'cat "$0.said" >&2; exit "$(cat "$0.status")"',
    }.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    (folder / "apt-cache.search").write_text(SEARCH)
    (folder / "apt-cache.show").write_text(SHOW)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def refuse(apt: Path, said: str) -> None:
    (apt / "apt-get.said").write_text(said)
    (apt / "apt-get.status").write_text("100")


def put_in_the_cache(release: str, version: str, series: str = "6.12") -> None:
    for place, info in (
        (f"kernels/{release}", {"series": series, "release": release, "version": version}),
        (
            f"sources/linux-source-{series}",
            {"series": series, "version": version, "parts": kernels._PARTS},
        ),
    ):
        folder = cache.root() / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mlxtrace.json").write_text(json.dumps(info))


@pytest.mark.usefixtures("apt")
def test_a_kernel_is_four_packages_of_the_newest_release() -> None:
    packages = debian.kernel_packages("6.12")
    assert packages.release == RELEASE
    assert packages.version == "6.12.117-1~deb12u1"
    assert [package.name for package in packages.all] == [
        f"linux-image-{RELEASE}-unsigned",
        f"linux-headers-{RELEASE}",
        "linux-headers-6.12.117+deb12-common",
        "linux-kbuild-6.12.117+deb12",
    ]
    assert sum(package.size_bytes for package in packages.all) == 123


def test_empty_lists_say_what_to_run(apt: Path) -> None:
    (apt / "apt-cache.search").write_text("")
    with pytest.raises(Error, match=r"apt knows no Linux 6\.12 image package") as caught:
        debian.kernel_packages("6.12")
    assert "apt-get update" in caught.value.hint


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        ("E: Failed to fetch x  404  Not Found\n", "lists are out of date", "apt-get update"),
        ("E: Unable to locate package x\n", "lists are out of date", "apt-get update"),
        ("E: Could not resolve 'host'\n", "Could not resolve", "network"),
        ("W: odd\nE: You don't have enough free space in x.\n", "enough free space", ""),
        ("", "it said nothing", ""),
    ],
)
def test_a_failed_download_says_why(
    apt: Path, tmp_path: Path, said: str, message: str, hint: str
) -> None:
    refuse(apt, said)
    with pytest.raises(Error, match=message) as caught:
        debian.download([Package("x", "1", 10, ())], tmp_path, Progress("t", quiet=True))
    assert hint in caught.value.hint


def test_what_is_cached_is_used_when_apt_cannot_deliver(
    apt: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refuse(apt, "E: Could not resolve 'host'\n")
    put_in_the_cache("6.12.9+deb12-amd64", "6.12.9-1")
    kernel, source = kernels.ensure("6.12", Progress("t", quiet=True))
    assert kernel.release == "6.12.9+deb12-amd64"
    assert source.version == "6.12.9-1"
    said = capfd.readouterr().err
    assert "Could not resolve" in said
    assert "using 6.12.9+deb12-amd64 from the cache" in said
    assert not list((cache.root() / "kernels").glob(".partial*"))


def test_nothing_cached_and_no_network_is_an_error(apt: Path) -> None:
    refuse(apt, "E: Could not resolve 'host'\n")
    with pytest.raises(Error, match="Could not resolve"):
        kernels.ensure("6.12", Progress("t", quiet=True))
    assert [path.name for path in cache.root().rglob("*") if path.is_file()] == ["kernel-6.12.lock"]


def test_apt_is_asked_again_only_when_its_lists_have_changed(
    apt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_the_cache(RELEASE, "6.12.117-1~deb12u1")
    source = "Package: linux-source-6.12\nVersion: 6.12.117-1~deb12u1\nSize: 1\n"
    (apt / "apt-cache.show").write_text(f"{SHOW}\n{source}")
    monkeypatch.setattr(debian, "lists_stamp", lambda: 1)
    quiet = Progress("t", quiet=True)
    assert kernels.ensure("6.12", quiet)[0].release == RELEASE
    (apt / "apt-cache").unlink()
    (apt / "apt-cache").symlink_to("/bin/false")
    assert kernels.ensure("6.12", quiet)[0].release == RELEASE
    monkeypatch.setattr(debian, "lists_stamp", lambda: 2)
    put_in_the_cache("6.12.9+deb12-amd64", "6.12.9-1")
    (apt / "apt-cache").unlink()
    (apt / "apt-cache").write_text("#!/bin/sh\nexit 0\n")
    (apt / "apt-cache").chmod(0o755)
    assert kernels.ensure("6.12", quiet)[0].release == RELEASE


def test_unpacked_headers_work_wherever_they_are(tmp_path: Path) -> None:
    headers = tmp_path / f"usr/src/linux-headers-{RELEASE}"
    modules = tmp_path / f"lib/modules/{RELEASE}"
    common = tmp_path / "usr/src/linux-headers-6.12.117+deb12-common"
    for folder in (headers, modules, common):
        folder.mkdir(parents=True)
    (headers / "Makefile").write_text(f"include /usr/src/{common.name}/Makefile\n")
    (common / "Makefile").write_text("all:\n\t@echo it works\n")
    (modules / "build").symlink_to(f"/usr/src/{headers.name}")
    (modules / "source").symlink_to(f"/usr/src/{common.name}")
    kernels._make_relocatable(tmp_path, RELEASE)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    build = moved / f"lib/modules/{RELEASE}/build"
    assert build.resolve() == moved / f"usr/src/{headers.name}"
    said = os.popen(f"make -s -C {build}").read()
    assert said == "it works\n"


def test_the_newest_cached_source_package_will_do(
    apt: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refuse(apt, "E: Could not resolve 'host'\n")
    quiet = Progress("t", quiet=True)
    with pytest.raises(Error, match=r"has no source package of Linux 6\.12") as caught:
        kernels.ensure_archive("6.12", quiet, offline=True)
    assert "leave out --offline" in caught.value.hint
    for series, version in (("6.12", "6.12.9-1"), ("6.12", "6.12.99-1"), ("6.1", "6.1.200-1")):
        folder = cache.root() / "packages" / f"linux-source-{series}_{version}"
        folder.mkdir(parents=True)
        (folder / "x.deb").write_text("")
    newest = cache.root() / "packages/linux-source-6.12_6.12.99-1/x.deb"
    assert kernels.ensure_archive("6.12", quiet, offline=True) == ("6.12.99-1", newest)
    assert capfd.readouterr().err == ""
    assert kernels.ensure_archive("6.12", quiet) == ("6.12.99-1", newest)
    assert "using the sources 6.12.99-1 from the cache" in capfd.readouterr().err
