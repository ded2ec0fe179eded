# SPDX-License-Identifier: GPL-2.0-or-later
"""The stand-in's C keeps the kernel's own style."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from genbindings.resources import find

if TYPE_CHECKING:
    from pathlib import Path

# checkpatch expects a driver of one tree; the stand-in is built against several kernels.
ALLOWED = {
    "LINUX_VERSION_CODE": "one source for all kernels of the lab, so it asks for the version",
    "CONSTANT_COMPARISON": "LINUX_VERSION_CODE >= KERNEL_VERSION() is the kernel's own idiom",
    "MACRO_ARG_REUSE": "LAB_KNOB pastes its argument, it does not evaluate it",
    "MACRO_ARG_UNUSED": "the fallback for __counted_by() drops its argument by design",
}


def test_checkpatch_is_content(linux_source: Path) -> None:
    firmware = find("lab/firmware")
    files = sorted([*firmware.glob("*.c"), *firmware.glob("*.h")])
    assert len(files) >= 10
    result = subprocess.run(
        [
            "perl",
            linux_source / "scripts/checkpatch.pl",
            "--no-tree",
            "--strict",
            "--terse",
            "--no-summary",
            "--ignore",
            ",".join(ALLOWED),
            "--file",
            *files,
        ],
        capture_output=True,
        text=True,
    )
    assert result.stdout == ""
    assert result.returncode == 0
