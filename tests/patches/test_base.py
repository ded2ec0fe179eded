# SPDX-License-Identifier: GPL-2.0-or-later
"""A base is exactly what the series names, or it is said that it is not."""

from __future__ import annotations

import hashlib
import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error, UsageError
from mlxpatch import base, kernels, series
from mlxpatch.gitrepo import Repository
from tests.patches import carried

if TYPE_CHECKING:
    from pathlib import Path


def pin(folder: Path, version: str, digest: str) -> None:
    (folder / "BASE").write_text(
        f"# the base\npackage: linux-source-6.1\nversion: {version}\nsha256: {digest}\n"
    )


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a source package of one small module in the place of Debian's 6.1."""
    _, tree = carried.tiny(tmp_path)
    deb = tmp_path / "linux-source-6.1_6.1.500-1_all.deb"
    root = tmp_path / "package"
    (root / "usr/src").mkdir(parents=True)
    with tarfile.open(root / "usr/src/linux-source-6.1.tar.xz", "w:xz", preset=0) as tar:
        tar.add(tree, "linux-source-6.1")
    (root / "control").write_text("Package: linux-source-6.1\nVersion: 6.1.500-1\n")
    # An ar archive: what dpkg-deb reads.
    data, control = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add(root / "usr", "./usr")
    with tarfile.open(fileobj=control, mode="w") as tar:
        tar.add(root / "control", "./control")
    members = {
        "debian-binary": b"2.0\n",
        "control.tar": control.getvalue(),
        "data.tar": data.getvalue(),
    }
    text = b"!<arch>\n"
    for name, content in members.items():
        text += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        text += content + b"\n" * (len(content) % 2)
    deb.write_bytes(text)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels, "ensure_archive", lambda *_: ("6.1.500-1", deb))
    return deb


def test_the_pinned_package_is_exact(tmp_path: Path, archive: Path) -> None:
    folder = tmp_path / "series-v1"
    pin(folder, "6.1.500-1", hashlib.sha256(archive.read_bytes()).hexdigest())
    found = series.load(folder)
    with base.opened(found, None, folder, carried.PROGRESS) as opened:
        assert (opened.exact, opened.note, opened.kernel_series) == (True, "", "6.1")
        series.applied(found, opened.tree, exact=True)


def test_another_content_is_refused(tmp_path: Path, archive: Path) -> None:
    folder = tmp_path / "series-v1"
    pin(folder, "6.1.500-1", "0" * 64)
    with (
        pytest.raises(Error, match=f"{archive.name} is not the package that BASE names") as caught,
        base.opened(series.load(folder), None, folder, carried.PROGRESS),
    ):
        pass
    assert "correct BASE" in caught.value.hint


def test_a_dropped_version_gives_the_newest_and_says_so(tmp_path: Path, archive: Path) -> None:
    assert archive.is_file()
    folder = tmp_path / "series-v1"
    pin(folder, "6.1.1-1", "0" * 64)
    with base.opened(series.load(folder), None, folder, carried.PROGRESS) as opened:
        assert not opened.exact
        assert "has dropped linux-source-6.1 6.1.1-1: 6.1.500-1 is used" in opened.note


def test_a_package_a_tarball_and_a_tree_are_the_same(tmp_path: Path, archive: Path) -> None:
    folder, tree = tmp_path / "series-v1", tmp_path / "linux"
    tarball = tmp_path / "linux-6.1.tar.gz"
    with tarfile.open(tarball, "w:gz") as tar:
        tar.add(tree, "linux-6.1")
    found = series.load(folder)
    for given in (str(tree), str(tarball), str(archive), "linux-source-6.1"):
        with base.opened(found, given, None, carried.PROGRESS) as opened:
            assert (opened.tree / carried.TINY).read_bytes() == (tree / carried.TINY).read_bytes()
            assert (opened.tree / "scripts/checkpatch.pl").is_file()
            assert not opened.exact


def test_the_commit_of_a_foreign_series_is_found_in_a_clone(tmp_path: Path) -> None:
    folder, _ = carried.tiny(tmp_path)
    (folder / "series").unlink()
    found = series.load(folder)
    assert found.foreign
    with (
        pytest.raises(UsageError, match=f"for the commit {found.base_commit[:12]}; where is it"),
        base.opened(found, None, None, carried.PROGRESS),
    ):
        pass
    clone = tmp_path / "repository-v1"
    with base.opened(found, str(clone), None, carried.PROGRESS) as opened:
        assert opened.exact
        # The clone itself is at the last patch already.
        series.applied(found, opened.tree, exact=True)
    by_range = series.load(f"{clone}:{found.base_commit}..HEAD")
    with base.opened(by_range, None, None, carried.PROGRESS) as opened:
        series.applied(by_range, opened.tree, exact=True)
    assert Repository(clone).git("status", "--porcelain") == b""


def test_a_hostile_tarball_stays_inside(tmp_path: Path) -> None:
    folder, _ = carried.tiny(tmp_path)
    evil = tmp_path / "evil.tar"
    with tarfile.open(evil, "w") as tar:
        member = tarfile.TarInfo("linux/include/../../../evil.h")
        tar.addfile(member)
    with (
        pytest.raises(Error, match="is refused: it leads out of the tree"),
        base.opened(series.load(folder), str(evil), None, carried.PROGRESS),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("package linux-source-6.1\n", "line 1: not 'key: value'"),
        ("package: linux-source-6.1\nversion: 1\n", "has no 'sha256'"),
        ("package: bash\nversion: 1\nsha256: 0\n", "bash is no kernel source package"),
        ("package: linux-source-6.1\nversion: 1\nsha256: 0\n", "64 hexadecimal digits"),
    ],
)
def test_a_bad_pin_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "BASE").write_text(text)
    with pytest.raises(Error, match=said):
        base.read_pin(tmp_path)
