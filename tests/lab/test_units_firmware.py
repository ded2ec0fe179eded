# SPDX-License-Identifier: GPL-2.0-or-later
"""Profiles and knobs of the simulated firmware, without a VM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error, UsageError
from mlxlab import firmware
from mlxlab.report import Expected, Report, exit_status

if TYPE_CHECKING:
    from pathlib import Path

BDF = "0000:01:00.1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / BDF
    folder.mkdir()
    (folder / "latency_us").write_text("500\n")
    (folder / "faults").write_text("")
    (folder / "counters").write_text("query 3\n")
    return tmp_path


def test_shipped_profiles() -> None:
    profiles = firmware.profiles()
    assert list(profiles) == ["idle", "busy", "never-converges", "huge"]
    huge = profiles["huge"]
    size = next(int(s.value) for s in huge.settings if s.name == "size_bytes")
    assert size > 512 << 20
    # Two states, an image of each, and the rest of a system.
    assert huge.memory_mib << 20 > 4 * size


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a", "Expected"),
        ('[a]\nsummary = "x"\nspeed = 1\n', r"\[a\] has unknown key speed"),
        ("[a]\nmemory_mib = 1\n", r"\[a\] has no summary"),
    ],
)
def test_a_wrong_table_is_named(text: str, said: str) -> None:
    with pytest.raises(Error, match=said) as caught:
        firmware.parse_profiles(text, "profiles.toml")
    assert str(caught.value).startswith("profiles.toml: ")


def test_a_setting_goes_where_it_belongs() -> None:
    assert firmware.setting("multi_load=0").line == "pf multi_load 0"
    assert firmware.setting("latency_us=9").line == "vf latency_us 9"
    assert firmware.setting("fault=load nth=2 status=3").line == "vf faults load nth=2 status=3"
    assert firmware.setting("fault=alloc_pd errno=12").line == "pf faults alloc_pd errno=12"
    for word in ("latency_us", "=3", "a b=1", "x=1\nvf y 2"):
        with pytest.raises(UsageError):
            firmware.setting(word)


def test_knobs_are_set_and_shown(root: Path) -> None:
    firmware.apply(BDF, ["latency_us=7", "fault=save damage"], root)
    assert firmware.show(BDF, root) == {"latency_us": "7"}
    assert firmware.figures(BDF, root) == {"faults": "save damage", "counters": "query 3"}


@pytest.mark.parametrize(
    ("bdf", "words", "said"),
    [
        ("0000:01:00.9", [], "is no device of the simulated firmware"),
        (BDF, ["speed=1"], "has no knob speed"),
        (BDF, ["counters=1"], "has no knob counters"),
    ],
)
def test_what_is_not_there_is_said(root: Path, bdf: str, words: list[str], said: str) -> None:
    with pytest.raises(Error, match=said):
        firmware.apply(bdf, words, root)


def test_outside_the_guest(tmp_path: Path) -> None:
    with pytest.raises(Error, match="no simulated firmware here") as caught:
        firmware.show(BDF, tmp_path / "missing")
    assert "mlxlab run" in caught.value.hint


def test_expected_assertions() -> None:
    report = Report()
    for line in ("stage command 4", "exit 0", "assertion pd_busy 2", "end"):
        report.feed(line)

    def status(expected: Expected) -> int:
        return exit_status(report, splats=0, lost=False, timed_out=False, expected=expected)

    assert status(Expected()) == 120
    assert status(Expected(may=frozenset({"pd_busy"}))) == 0
    assert status(Expected(must=frozenset({"pd_busy"}))) == 0
    missing = Expected(must=frozenset({"two_saves"}), may=frozenset({"pd_busy"}))
    assert status(missing) == 120
    assert missing.surprises(report) == [
        "firmware assertion two_saves was expected, and did not fire"
    ]
