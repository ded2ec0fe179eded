# SPDX-License-Identifier: GPL-2.0-or-later
"""JUnit's XML of runs that did not come to their end: it is never green, and never another's."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from mlxtrace.validate import guard, junit

from .fake_checks import fails, hangs, holds, is_lost, is_wrong, make
from .test_validate_cli import VFS, Host, errors_in
from .test_validate_cli import host as host

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlxtrace.checks import Context


@pytest.mark.parametrize(
    ("function", "said"),
    [(is_lost, "there is no such device"), (is_wrong, "a mistake in the check itself")],
)
def test_a_run_that_was_stopped_is_an_error(
    host: Host, tmp_path: Path, function: Callable[[Context], None], said: str
) -> None:
    host.checks([make("C1", holds), make("C2", function), make("C3", holds)])
    path = tmp_path / "out.xml"
    assert host.run(*VFS, "--junit", str(path))[0] == 3
    (message,) = errors_in(path)
    assert message.startswith("not run to the end: ")
    assert said in message
    suites = ElementTree.parse(path).getroot()
    assert [suite.get("errors") for suite in suites] == ["0", "1"]
    assert suites.find("testsuite/testcase[@name='C1']") is not None


def test_one_that_came_to_its_end_has_none(host: Host, tmp_path: Path) -> None:
    host.checks([make("C1", holds), make("C2", fails)])
    path = tmp_path / "out.xml"
    assert host.run(*VFS, "--junit", str(path))[0] == 1
    assert errors_in(path) == []
    assert len(ElementTree.parse(path).getroot()) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_refusal_replaces_what_an_earlier_run_has_left(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.checks([make("C1", holds)])
    path = tmp_path / "out.xml"
    assert host.run(*VFS, "--junit", str(path))[0] == 0
    path.chmod(0o640)

    def refuse(*_: object, **__: object) -> None:
        raise guard.RefusedError("0000:01:00.1: qemu has it open")

    monkeypatch.setattr(guard, "look_up", refuse)
    assert host.run(*VFS, "--junit", str(path))[0] == 3
    assert errors_in(path) == ["not run to the end: 0000:01:00.1: qemu has it open"]
    assert ElementTree.parse(path).getroot().find("testsuite/testcase[@name='C1']") is None
    assert path.stat().st_mode & 0o777 == 0o640


def test_one_that_is_killed_has_left_an_error(host: Host, tmp_path: Path) -> None:
    host.checks([make("C1", holds)])
    path = tmp_path / "out.xml"
    assert host.run(*VFS, "--junit", str(path))[0] == 0
    host.checks([make("C1", hangs)])
    child = os.fork()
    if not child:
        try:
            host.run(*VFS, "--junit", str(path))
        finally:
            os._exit(0)
    deadline = time.monotonic() + 20
    while not errors_in(path) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert errors_in(path) == [
        "not run to the end: it did not finish: it was killed, or it still runs"
    ]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind a link; what cannot be renamed is written in place."""
    path, link = tmp_path / "out.xml", tmp_path / "link.xml"
    path.write_text("old")
    link.symlink_to(path)
    before = path.stat().st_ino
    junit.begin(link)
    assert link.is_symlink()
    assert path.stat().st_ino != before
    before = path.stat().st_ino

    def busy(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "replace", busy)
    junit.write(path, [], {}, "why")
    assert path.stat().st_ino == before
    assert errors_in(path) == ["not run to the end: why"]
    assert sorted(tmp_path.iterdir()) == [link, path]
