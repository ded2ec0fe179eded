# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxlab matrix`` for real: two rules, on the carried series and on upstream's driver."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.lab.conftest import CARRIED, KERNEL, REPOSITORY, mlxlab

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.lab, pytest.mark.slow]

RULES = {"C8", "C15"}


@pytest.mark.usefixtures("no_lab")
def test_two_kernels_are_compared_in_a_boot_each(tmp_path: Path) -> None:
    kernels = ["--kernel", CARRIED, "--kernel", KERNEL]
    words = mlxlab("matrix", *kernels, "--only", ",".join(sorted(RULES)), "--out", tmp_path)
    done = subprocess.run([*words, "--json"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert [column["name"] for column in document["columns"]] == [CARRIED, KERNEL]
    assert all(column["complete"] and not column["kernel_log"] for column in document["columns"])
    carried, upstream = (column["meta"]["kernel"] for column in document["columns"])
    assert carried.startswith("6.1.")
    assert upstream.startswith("6.12.")
    # A statement may have several checks, C8.1 say.
    assert {rule["id"].partition(".")[0] for rule in document["rules"]} == RULES
    for rule in document["rules"]:
        first, second = (result["status"] for result in rule["results"])
        assert first == "passed", rule
        assert second in ("passed", "known deviation"), rule
    for name in (CARRIED, KERNEL):
        assert {"validate.jsonl", "console.log", "dmesg.txt"} <= {
            path.name for path in (tmp_path / name).iterdir()
        }
