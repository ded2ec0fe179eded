# SPDX-License-Identifier: GPL-2.0-or-later
"""The man page and the examples say what the commands do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from mlxtrace import cli_doctor, cli_precopy, cli_report, text

DOCS = Path(__file__).resolve().parents[2] / "docs"
MANUAL = DOCS / "man/mlxtrace-precopy.8"
PAGE = re.sub(r"\\f[BIR]", "", MANUAL.read_text()).replace("\\-", "-")
EXAMPLES = sorted((DOCS / "examples").glob("*.txt"))


def test_it_has_the_sections_of_such_a_page_in_order() -> None:
    sections = re.findall(r"^\.SH (.+)$", PAGE, re.MULTILINE)
    wanted = ["NAME", "SYNOPSIS", "DESCRIPTION", "REQUIREMENTS", "OPTIONS", "FIELDS", "EXAMPLES"]
    wanted += ["OVERHEAD", "EXIT STATUS"]
    assert [name for name in sections if name in wanted] == wanted


@pytest.mark.parametrize("module", [cli_precopy, cli_report, cli_doctor])
def test_every_option_is_in_it(module: object) -> None:
    command = module.command  # type: ignore[attr-defined]
    for parameter in command.params:
        names = parameter.opts if isinstance(parameter, click.Option) else [parameter.name.lower()]
        for name in names:
            if name in ("file",):
                continue
            assert re.search(rf"(?<![-\w]){re.escape(name)}(?![-\w])", PAGE), name


@pytest.mark.parametrize("module", [cli_precopy, cli_report, cli_doctor])
def test_every_option_is_in_the_synopsis(module: object) -> None:
    command = module.command  # type: ignore[attr-defined]
    synopsis = PAGE.partition(".SH SYNOPSIS")[2].partition(".SH DESCRIPTION")[0]
    forms = [form for form in synopsis.split(".B mlxtrace ") if form.startswith(command.name)]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            shown = [o for o in parameter.opts for form in forms if re.search(rf"\[{o}\b", form)]
            assert shown, parameter.opts


def test_every_column_and_every_event_is_in_it() -> None:
    fields = PAGE.partition(".SH FIELDS")[2].partition(".SH EXAMPLES")[0]
    for name in text.header().split():
        assert name in fields
    source = Path(text.__file__).read_text()
    for name in set(re.findall(r'"([A-Z]{3,5})"', source)) - {"QUERY"}:
        assert name in fields, name


def test_it_formats_without_a_warning() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", MANUAL],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_option_of_it_is_made_up() -> None:
    known = {"--help"}
    for module in (cli_precopy, cli_report, cli_doctor):
        known |= {name for p in module.command.params for name in p.opts}
    assert set(re.findall(r"(?<![-\w])--[a-z][a-z-]*", PAGE)) <= known


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.name))
def test_examples_are_of_this_output(path: Path) -> None:
    lines = path.read_text().splitlines()
    # A dashboard fills its terminal.
    assert max(map(len, lines)) < 100 + (path.stem == "live")
    headers = [line for line in lines if line.startswith("  TIME(s)")]
    assert all(line == text.header() for line in headers)
    assert headers or path.stem in ("doctor", "live")


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"precopy", "doctor", "intervals", "live"}
