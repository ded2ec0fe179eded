# SPDX-License-Identifier: GPL-2.0-or-later
"""Which QEMU is chosen, and how it comes into the cache; scripts play apt."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error, UsageError
from mlxlab.vmm import archive
from mlxpatch import cache, debian, suite
from mlxpatch.progress import Progress
from mlxpatch.suite import Archive

if TYPE_CHECKING:
    from pathlib import Path

QUIET = Progress("t", quiet=True)
BACKPORT = "1:10.0.2+ds-2+deb13u1~bpo12+1"
TARGETS = """\
http://other.invalid/debian/|bookworm|Other|Other|main|$(SIGNED_BY)
http://mirror.invalid/debian-security/|bookworm-security|Debian|Debian-Security|main|$(SIGNED_BY)
http://mirror.invalid/debian/|bookworm-updates|Debian|Debian|main|$(SIGNED_BY)
http://mirror.invalid/debian/|bookworm|Debian|Debian|contrib|$(SIGNED_BY)
http://mirror.invalid/debian/|bookworm|Debian|Debian|main|$(SIGNED_BY)
"""
# Plays the system's apt, and the one that is configured for the backports.
APT_CACHE = """
shift 2
for name; do
	cat "$0.${APT_CONFIG:+backports.}$name" 2>/dev/null && echo
done
"""
APT_GET = """
echo "$*" >>"$0.calls"
for word; do
	case $word in
	indextargets) cat "$0.targets"; exit ;;
	update) cat "$0.refusal" 2>/dev/null >&2 && exit 100; exit 0 ;;
	download) cat "$0.refusal" 2>/dev/null >&2 && exit 100; cp "$0".debs/*.deb .; exit ;;
	esac
done
"""


def package(folder: Path, name: str, version: str) -> None:
    """Build a package whose only file tells its name."""
    tree = folder / "tree"
    place = tree / ("usr/bin" if name == "qemu-system-x86" else f"usr/share/{name}")
    place.mkdir(parents=True)
    (place / "qemu-system-x86_64").write_text(name)
    (tree / "DEBIAN").mkdir()
    control = (
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: t <t@t.invalid>\n"
    )
    (tree / "DEBIAN/control").write_text(f"{control}Description: t\n")
    file = folder / f"{name}_{version.replace(':', '%3a')}_all.deb"
    subprocess.run(["dpkg-deb", "-b", tree, file], check=True, capture_output=True)
    subprocess.run(["rm", "-r", tree], check=True)


def offer(apt: Path, where: str, version: str, depends: str = "libc6") -> None:
    for name in archive._PACKAGES:
        (apt / f"apt-cache.{where}{name}").write_text(
            f"Package: {name}\nVersion: {version}\nSize: 10\nDepends: {depends}\n"
        )


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an apt before the real one that knows QEMU 7.2, and 10.0.2 in the backports."""
    folder = tmp_path / "apt"
    debs = folder / "apt-get.debs"
    debs.mkdir(parents=True)
    for name, body in {
        "apt-cache": APT_CACHE,
        "apt-get": APT_GET,
        "apt-config": 'printf \'Acquire::http::Proxy "p";\\nAPT::Update::Post-Invoke "rm";\\n\'',
        "ldd": 'cat "$0.said" 2>/dev/null',
    }.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    (folder / "apt-get.targets").write_text(TARGETS)
    offer(folder, "", "1:7.2+dfsg-7+deb12u18+b3")
    offer(folder, "backports.", BACKPORT)
    for name in archive._PACKAGES:
        package(debs, name, BACKPORT)
    release = tmp_path / "os-release"
    release.write_text('NAME="Debian GNU/Linux"\nVERSION_CODENAME=bookworm\n')
    monkeypatch.setattr(debian, "RELEASE", release)
    monkeypatch.setattr(debian, "LISTS", tmp_path)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def calls(apt: Path) -> str:
    path = apt / "apt-get.calls"
    return path.read_text() if path.exists() else ""


def test_the_backports_are_asked_when_the_release_has_none(apt: Path) -> None:
    found = archive.ensure("10", QUIET)
    assert found.version == (10, 0, 2)
    assert (found.root / "usr/bin/qemu-system-x86_64").read_text() == "qemu-system-x86"
    assert (found.root / "usr/share/seabios").is_dir()
    assert f"qemu-system-x86={BACKPORT}" in calls(apt)


@pytest.mark.usefixtures("apt")
def test_the_source_is_the_systems_own_mirror_and_its_hooks_are_left_out() -> None:
    archive.ensure("10", QUIET)
    folder = cache.root() / "apt/bookworm-backports"
    sources = (folder / "sources.list").read_text()
    assert sources == "deb http://mirror.invalid/debian/ bookworm-backports main\n"
    settings = (folder / "apt.conf").read_text()
    assert 'Acquire::http::Proxy "p";' in settings
    assert "Post-Invoke" not in settings
    assert f'Dir::State::Lists "{folder}/lists";' in settings


def test_what_is_in_the_cache_needs_no_apt(apt: Path) -> None:
    first = archive.ensure("10", QUIET)
    before = calls(apt)
    assert archive.ensure("10", QUIET) == first
    assert calls(apt) == before


def test_without_a_network_the_cache_is_used_and_said(
    apt: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = archive.ensure("10", QUIET)
    (apt / "apt-get.refusal").write_text("E: Could not resolve 'mirror.invalid'\n")
    # apt-get update has run since: what it brought is looked at.
    os.utime(tmp_path, ns=(1, 1))
    assert archive.ensure("10", QUIET) == first
    assert "using QEMU 10.0.2 from the cache" in capfd.readouterr().err


def test_offline_asks_nobody(apt: Path) -> None:
    with pytest.raises(Error, match="has no QEMU 10") as caught:
        archive.ensure("10", QUIET, offline=True)
    assert "--offline" in caught.value.hint
    assert calls(apt) == ""
    fetched = archive.ensure("10", QUIET)
    before = calls(apt)
    # A version that was never asked for by that name is found as well.
    assert archive.ensure("10.0", QUIET, offline=True) == fetched
    assert calls(apt) == before


def test_without_a_network_and_a_cache_it_says_what_failed(apt: Path) -> None:
    (apt / "apt-get.refusal").write_text("E: Could not resolve 'mirror.invalid'\n")
    with pytest.raises(Error, match="cannot read the suite bookworm-backports") as caught:
        archive.ensure("10", QUIET)
    assert "network" in caught.value.hint
    assert list((cache.root() / "qemu").glob("*")) == []


@pytest.mark.usefixtures("apt")
def test_a_version_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(Error, match=r"no QEMU 11: it has 7\.2, 10\.0\.2") as caught:
        archive.ensure("11", QUIET)
    assert caught.value.hint == "use --qemu-version 10"


def test_a_release_with_a_new_qemu_needs_no_backports(apt: Path) -> None:
    offer(apt, "", BACKPORT)
    assert archive.ensure("10", QUIET).version == (10, 0, 2)
    assert "update" not in calls(apt)


def test_no_mirror_of_the_release_is_told(apt: Path) -> None:
    (apt / "apt-get.targets").write_text(TARGETS.replace("|bookworm|", "|trixie|"))
    with pytest.raises(Error, match="no archive with Debian's bookworm"):
        archive.ensure("10", QUIET)


def test_libraries_that_are_missing_are_told_with_their_packages(apt: Path) -> None:
    offer(apt, "backports.", BACKPORT, "libc6 (>= 2.34), libnowhere4 (>= 1) | liblacking2, seabios")
    (apt / "ldd.said").write_text(
        "\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\tlibnowhere.so.4 => not found\n"
    )
    with pytest.raises(Error, match=r"QEMU 10\.0\.2 needs .* lacks: libnowhere\.so\.4$") as caught:
        archive.ensure("10", QUIET)
    assert caught.value.hint == "run: apt-get install libnowhere4 liblacking2 (as root)"


@pytest.mark.parametrize(
    ("version", "wanted", "result"),
    [
        ("10.0.2", "10", True),
        ("10.0.2", "10.0", True),
        ("10.0.2", "10.0.2", True),
        ("10.0.2", "10.1", False),
        ("10.0.2", "1", False),
        ("7.2", "7", False),
        ("11.0.0", "10", False),
    ],
)
def test_a_version_fits_what_it_begins_with(version: str, wanted: str, result: bool) -> None:
    assert archive.fits(version, wanted) is result


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("7.2", "10.0 or newer"),
        ("9", "10.0 or newer"),
        ("newest", "no version"),
        ("", "no version"),
    ],
)
def test_a_version_that_cannot_be_is_a_usage_error(wanted: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        archive.check(wanted)
    assert said in f"{caught.value} {caught.value.hint}"


def test_upstream_versions_are_found_in_debian_ones() -> None:
    assert archive.upstream(BACKPORT) == "10.0.2"
    assert archive.upstream("1:7.2+dfsg-7+deb12u18+b3") == "7.2"
    archive.check("10")


def test_a_key_ring_of_the_source_is_kept() -> None:
    lines = TARGETS.replace("$(SIGNED_BY)", "/keys/debian.gpg").splitlines()
    assert suite.system_archive(lines, "bookworm") == Archive(
        "http://mirror.invalid/debian/", "bookworm", "/keys/debian.gpg"
    )
    assert suite.system_archive(lines, "trixie") is None
