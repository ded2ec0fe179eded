# SPDX-License-Identifier: GPL-2.0-or-later
"""What all commands do alike, run as a shell does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(sys.executable).parent


@pytest.mark.parametrize(
    "words",
    [
        ["gen-bindings", "--help"],
        ["mlxtrace", "--version"],
        ["mlxtrace", "doctor"],
        ["mlxtrace", "validate", "--list"],
        ["mlxtrace", "validate", "--list", "--json"],
        ["mlxpatch", "--help"],
        ["mlxlab", "kernels"],
    ],
    ids=" ".join,
)
def test_a_full_disk_is_told_in_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [FOLDER / words[0], *words[1:]], stdout=full, stderr=subprocess.PIPE, text=True
        )
    said = f"{words[0]}: error: cannot write the output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_reader_that_goes_away_is_no_error_message() -> None:
    words = [str(FOLDER / "mlxtrace"), "validate", "--list"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
