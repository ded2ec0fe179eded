# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxtrace validate`` whose output goes nowhere: that is no rule that was broken."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING

import pytest

from genbindings import console
from mlxtrace.cli_validate import command

from .fake_checks import fails, holds, make
from .test_validate_cli import VFS, Host, errors_in
from .test_validate_cli import host as host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlxtrace.checks import Context

FULL = "cannot write the output: No space left on device"
CLOSED = "cannot write the output: Broken pipe"


def nowhere(how: str) -> int:
    """Return a descriptor to which nothing can be written."""
    if how == "full":
        return os.open("/dev/full", os.O_WRONLY)
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def run_into(output: int, said: Path, *arguments: str) -> tuple[int, str]:
    """Run the command in a process with that stdout; return its exit status and its stderr."""
    child = os.fork()
    if not child:
        status = 99
        try:
            os.dup2(output, 1)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            sys.stderr = said.open("w")
            sys.argv = ["mlxtrace", *arguments]
            console.run(command, "mlxtrace")
        except SystemExit as ended:
            status = int(ended.code or 0)
            # As at the end of Python: what is left over would be an exit status of 120.
            sys.stdout.flush()
        except BaseException:  # noqa: BLE001 - the child must not go on as another pytest
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(output)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, said.read_text()


@pytest.mark.parametrize("form", [(), ("--json",)])
@pytest.mark.parametrize(("how", "said"), [("full", FULL), ("closed", CLOSED)])
def test_it_ends_with_3(
    host: Host, tmp_path: Path, how: str, said: str, form: tuple[str, ...]
) -> None:
    host.checks([make("C1", holds), make("C2", holds)])
    status, err = run_into(nowhere(how), tmp_path / "err", *VFS, "-q", *form)
    assert (status, err) == (3, f"mlxtrace: error: {said}\n")


@pytest.mark.parametrize("how", ["full", "closed"])
def test_a_must_that_failed_still_counts_once_the_run_is_over(
    host: Host, tmp_path: Path, how: str
) -> None:
    host.checks([make("C1", fails)])
    assert run_into(nowhere(how), tmp_path / "err", *VFS, "-q")[0] == 1


def test_a_disk_that_is_full_half_way_ends_the_run_and_the_xml_says_so(
    host: Host, tmp_path: Path
) -> None:
    log = tmp_path / "log"

    def note(name: str) -> Callable[[Context], None]:
        def function(_: Context) -> None:
            with log.open("a") as file:
                file.write(name)

        return function

    host.checks([make(name, note(name)) for name in ("C1", "C2")])
    xml = tmp_path / "out.xml"
    words = (*VFS, "-q", "--json", "--junit", str(xml))
    status, err = run_into(nowhere("full"), tmp_path / "err", *words)
    assert status == 3
    assert FULL in err
    # The first line, meta, could not be written: nothing was run.
    assert not log.exists()
    assert errors_in(xml) == [f"not run to the end: {FULL}"]


def test_other_ends_are_as_before(host: Host, tmp_path: Path) -> None:
    host.checks([make("C1", holds)])
    good = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    assert run_into(good, tmp_path / "err", *VFS, "-q") == (0, "")
    assert "exit status 0" in (tmp_path / "out").read_text()
