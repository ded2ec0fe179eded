# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxtrace migrate``: what does not go together, and its help."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from genbindings.console import FiniteRange
from mlxtrace import cli_migrate, cli_precopy, cli_report, cli_validate
from mlxtrace.cli_migrate import command

from .fake_kernel import BDF, OTHER_BDF

if TYPE_CHECKING:
    from types import ModuleType


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give one of --source BDF, --from FILE and --listen"),
        (["--source", BDF], "Give one of --target BDF, --to FILE and --connect"),
        (["--target", BDF], "Give one of --source BDF, --from FILE and --listen"),
        (["--source", BDF, "--from", "x", "--target", OTHER_BDF], "Give one of --source"),
        (["--source", BDF, "--to", "x", "--target", OTHER_BDF], "Give one of --target"),
        (["--from", "x", "--to", "y"], "would only copy a file"),
        (["--source", BDF, "--target", BDF], "are the same device, 0000:01:00.1"),
        (["--source", "01:00.1", "--target", BDF], "are the same device, 0000:01:00.1"),
        (["--source", "eth0", "--target", BDF], "'eth0' is not a device address"),
        (["--source", BDF, "--target", "0000:01:00.8"], "is not a device address"),
        (
            ["--from", "x", "--target", BDF, "--no-precopy"],
            "--no-precopy says how to save: it goes with --source",
        ),
        (["--from", "x", "--target", BDF, "--min-rounds", "1"], "--min-rounds says how"),
        (["--source", BDF, "--to", "x", "--flip-byte", "-1"], "-1 is not in the range"),
        (
            ["--source", BDF, "--to", "x", "--min-rounds", "9", "--max-rounds", "3"],
            "--min-rounds 9 exceeds --max-rounds 3",
        ),
        (["--source", BDF, "--to", "/"], "is a directory"),
        (["--source", BDF, "--connect", "::1:4444"], "an IPv6 address goes in brackets"),
        (["--source", BDF, "--connect", "host"], "is not HOST:PORT"),
        (["--source", BDF, "--connect", "host:http"], "'http' is not a port"),
        (["--source", BDF, "--connect", "host:0"], "--connect needs the port"),
        (["--listen", "h:1", "--connect", "h:2"], "would only pass data on"),
        (["--listen", "h:1", "--target", BDF, "--min-rounds", "1"], "it goes with --source"),
        (["--listen", "h:1", "--target", BDF, "--flip-byte", "1"], "goes with --listen's other"),
        (["--source", BDF, "--to", "x", "--peer-timeout", "1"], "goes with --listen or --connect"),
        (["--source", BDF, "--to", "x", "--policy", "rounds"], "needs their number"),
        (["--source", BDF, "--to", "x", "--policy", "rounds", "-1"], "No such option"),
        (["--source", BDF, "--to", "x", "--policy", "rounds", "many"], "not a valid integer"),
        (["--source", BDF, "--to", "x", "--policy", "qemu", "3"], "Unexpected argument 3"),
        (["--source", BDF, "--to", "x", "3"], "Unexpected argument 3"),
        (["--source", BDF, "--to", "x", "--policy", "never"], "is not one of 'immediate'"),
        (["--source", BDF, "--to", "x", "--policy", "qemu", "--no-precopy"], "nothing to decide"),
        (
            ["--source", BDF, "--to", "x", "--policy", "immediate", "--max-rounds", "3"],
            "--max-rounds does not go with --policy immediate",
        ),
        (["--source", BDF, "--to", "x", "--switchover-bandwidth", "1G"], "goes with --policy qemu"),
        (["--source", BDF, "--to", "x", "--bandwidth-limit", "fast"], "is not a bandwidth"),
        (["--source", BDF, "--to", "x", "--bandwidth-limit", "1"], "1K is the least"),
        (["--listen", "h:1", "--target", BDF, "--bandwidth-limit", "1G"], "goes with --listen's"),
        (["--from", "x", "--target", BDF, "--policy", "qemu"], "--policy says how to save"),
        (["--listen", "h:1", "--to", "x", "--peer-timeout", "inf"], "'inf' is not a finite number"),
        (["--listen", "h:1", "--to", "x", "--peer-timeout", "nan"], "'nan' is not a finite number"),
        (["--source", BDF, "--to", "x", "--data-timeout", "1e999"], "not a finite number"),
        (["--source", BDF, "--to", "x", "--data-timeout", "0"], "0.0 is not in the range x>0"),
    ],
)
def test_usage_errors(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("module", [cli_migrate, cli_precopy, cli_report, cli_validate])
def test_no_option_takes_a_time_without_an_end(module: ModuleType) -> None:
    for parameter in module.command.params:
        if isinstance(parameter.type, click.types.FloatParamType):
            assert isinstance(parameter.type, FiniteRange), parameter.name
            for text in ("inf", "nan", "1e999"):
                with pytest.raises(click.BadParameter, match="is not a finite number"):
                    parameter.type.convert(text, parameter, None)


def test_help_names_every_option() -> None:
    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    for parameter in command.params:
        assert parameter.opts[0] in result.output
    assert all(len(line) <= 100 for line in result.output.splitlines())


def test_help_does_not_import_what_is_slow() -> None:
    """In an emulated guest every import is felt."""
    script = (
        "import sys; from mlxtrace.cli_migrate import command; "
        "slow = {'rich', 'jinja2', 'elftools', 'bcc', 'mlxtrace.vfio'} & set(sys.modules); "
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
