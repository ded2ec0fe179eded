# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/events.md is the schema: it names every type and every key that is ever printed."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from mlxtrace import events
from mlxtrace.intervals import Interval

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/events.md").read_text()
CLASSES: list[type[events.Event]] = [
    *(cls for cls in vars(events).values() if isinstance(cls, type) and hasattr(cls, "type")),
    Interval,
]
COMMON = (
    "session",
    "pid",
    "tid",
    "comm",
    "errno",
    "error",
    "status",
    "status_name",
    "syndrome",
    "vhca_id",
)


def section(name: str) -> str:
    """Return the text under ``## name``."""
    match = re.search(rf"^## {name}\b.*?$(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert match, f"docs/events.md has no section {name}"
    return match[1]


def test_the_events_were_found() -> None:
    types = {cls.type for cls in CLASSES}
    assert {"meta", "state", "save", "ioctl", "read", "end", "load", "lost", "summary"} <= types


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: str(cls.type))
def test_every_key_is_in_its_section(cls: type[events.Event]) -> None:
    text = section(cls.type)
    introduction = DOCUMENT.partition("## meta")[0]
    missing = [
        field.name
        for field in fields(cls)
        if f"`{field.name}`" not in text
        and not (field.name in (*COMMON, "bdf", "boot_ns") and f"`{field.name}`" in introduction)
    ]
    assert missing == []


def test_times_and_sizes_have_their_unit_in_the_key() -> None:
    for cls in CLASSES:
        for field in fields(cls):
            if re.search(r"(time|latency|duration|wait|size)", field.name):
                assert re.search(r"_(ns|bytes)$", field.name), f"{cls.type}.{field.name}"
