# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache: nothing half-written is ever seen, whoever is killed; versions are ordered right."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error
from mlxpatch import cache, debian, kernels
from mlxpatch.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

KILLED = """
import os, sys
from pathlib import Path
from mlxpatch import cache
target = Path(sys.argv[1])
with cache.locked("test"), cache.publish(target) as partial:
    (partial / "half").write_text("half")
    print("half", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_killed_writer_leaves_neither_a_result_nor_a_lock(tmp_path: Path) -> None:
    target = tmp_path / "place/result"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, target],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half\n"
        os.kill(writer.pid, signal.SIGKILL)
    assert not target.exists()
    with cache.locked("test", lambda: pytest.fail("the lock outlived its holder")):
        with cache.publish(target) as partial:
            (partial / "whole").write_text("whole")
        assert [path.name for path in target.parent.iterdir()] == ["result"]
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_a_failure_keeps_the_older_result(tmp_path: Path) -> None:
    target = tmp_path / "result"
    with cache.publish(target) as partial:
        (partial / "first").touch()

    def fail() -> None:
        with cache.publish(target) as partial:
            (partial / "second").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in target.iterdir()] == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_a_cache_that_make_cannot_use_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "with space"))
    with pytest.raises(Error, match="' ' in a path"):
        cache.root()


def test_the_newest_kernel_is_the_newest_by_number() -> None:
    names = [
        "linux-image-6.12.99+deb12-amd64-unsigned",
        "linux-image-6.12.117+deb12-amd64-unsigned",
        "linux-image-6.12.118+deb12-cloud-amd64-unsigned",
        "linux-image-6.12.119+deb12-rt-amd64-unsigned",
        "linux-image-6.1.0-56-amd64-unsigned",
        "linux-image-6.12.120+deb12-arm64-unsigned",
    ]
    assert debian.newest_release(names, "6.12") == "6.12.117+deb12-amd64"
    assert debian.newest_release(names, "6.1") == "6.1.0-56-amd64"
    assert debian.newest_release(names, "6.13") is None


def test_without_apt_it_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Error) as caught:
        debian.kernel_packages("6.12")
    assert "apt" in str(caught.value) + caught.value.hint


def test_an_emptied_cache_keeps_only_its_locks(own_cache: Path) -> None:
    with cache.locked("a"), cache.publish(cache.root() / "builds/x") as partial:
        (partial / "file").write_bytes(b"x" * 100_000)
    (cache.root() / "boot.json").write_text("{}")
    assert cache.empty() >= 100_000
    assert [path.name for path in cache.root().iterdir()] == ["locks"]
    assert own_cache.exists()


def test_a_cache_in_use_is_not_emptied() -> None:
    with cache.locked("kernel-6.12"), cache.publish(cache.root() / "kernels/x") as partial:
        (partial / "file").touch()
        with pytest.raises(Error, match=r"in use: kernel-6\.12"):
            cache.empty()
        assert (partial / "file").exists()


def test_offline_uses_the_cache_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "kernel_packages", lambda _: pytest.fail("apt was asked"))
    progress = Progress("test", quiet=True)
    with pytest.raises(Error, match=r"no Linux 6\.12 kernel") as caught:
        kernels.ensure("6.12", progress, offline=True)
    assert "--offline" in caught.value.hint
    info = {"series": "6.12", "release": "6.12.1-amd64", "version": "1"}
    kernel = cache.root() / "kernels/6.12.1-amd64"
    kernel.mkdir(parents=True)
    (kernel / "mlxtrace.json").write_text(json.dumps(info))
    with pytest.raises(Error, match=r"no sources of Linux 6\.12"):
        kernels.ensure("6.12", progress, offline=True)
