# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/api.md: its examples run, and it leaves nothing of the API out."""

from __future__ import annotations

import inspect
import re
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error
from mlxtrace import vfio
from mlxtrace.vfio import End, MigrationFlags, State

from .fake_device import FakeDevice
from .fake_faults import Faults
from .migrate_pair import pair

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).resolve().parents[2] / "docs"
EXAMPLE = DOCS / "examples/own_rule.py"
TEXT = (DOCS / "api.md").read_text(encoding="utf-8")


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[FakeDevice], tuple[object, str]]:
    """Return a function that runs the example on a device: its exit status, and what it prints."""

    def invoke(device: FakeDevice) -> tuple[object, str]:
        monkeypatch.setattr(vfio.Device, "open", lambda _: device)
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), device.name])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(EXAMPLE), run_name="__main__")
        assert device.closed
        return caught.value.code, capsys.readouterr().out

    return invoke


def test_the_example_is_the_one_in_the_text() -> None:
    source = EXAMPLE.read_text(encoding="utf-8")
    assert f"```python\n{source}```\n" in TEXT
    assert sum(bool(line.strip()) for line in source.splitlines()) <= 20


def test_a_driver_that_keeps_the_rule(run: Callable[[FakeDevice], tuple[object, str]]) -> None:
    device = FakeDevice("0000:01:00.1", faults=Faults(short_read=100))
    assert run(device) == (0, "the rule holds\n")
    assert device.current is State.RUNNING


def test_a_driver_that_breaks_it(
    run: Callable[[FakeDevice], tuple[object, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux 6.2 leaves the header out of what it announces."""
    device = FakeDevice("0000:01:00.1")
    real = device.save

    def save(state: State) -> object:
        stream = real(state)
        stream.initial_bytes -= 16
        return stream

    monkeypatch.setattr(device, "save", save)
    status, out = run(device)
    assert status == 1
    assert re.fullmatch(r"announced \d+ bytes, gave \d+\n", out)


def test_an_answer_of_the_kernel_is_an_error_in_one_line(
    run: Callable[[FakeDevice], tuple[object, str]],
) -> None:
    with pytest.raises(Error, match=r"^0000:01:00.1: reading migration data: ENODEV"):
        run(FakeDevice("0000:01:00.1", faults=Faults(read_error_at=500)))


def test_the_migration_in_the_text_migrates(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = pair(flags=MigrationFlags.STOP_COPY | MigrationFlags.P2P)
    found = {device.name: device for device in (source, target)}
    monkeypatch.setattr(vfio.Device, "open", lambda name: found[name])
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "into" in text)
    names = {"source_name": source.name, "target_name": target.name}
    exec(block, {"Device": vfio.Device, "State": State, "End": End, **names})
    assert source.hash() == target.hash()
    assert target.current is State.RUNNING


# Via is a type of literals, which the text lists.
@pytest.mark.parametrize("name", sorted({*vfio.__all__} - {"Via"}))
def test_every_public_name_is_in_the_text(name: str) -> None:
    assert f"`{name}" in TEXT


@pytest.mark.parametrize("kind", [vfio.Device, vfio.SavingStream, vfio.ResumingStream])
def test_every_public_method_is_in_the_text_and_documented(kind: type) -> None:
    for name, member in inspect.getmembers(kind):
        if not name.startswith("_") and (callable(member) or isinstance(member, property)):
            assert re.search(rf"`(?:\w+\.)?{name}\b", TEXT), name
            assert inspect.getdoc(member), name


def test_every_end_state_and_flag_is_in_the_text() -> None:
    for members in (End, State, MigrationFlags):
        for member in members:
            assert re.search(rf"\b{member.name}\b", TEXT)
