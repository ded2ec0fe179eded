# SPDX-License-Identifier: GPL-2.0-or-later
"""Small object files that look like kernel modules to depmod and to mlxpatch."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RELEASE = "6.1.0-test"
_HEAD = """\
#define MODINFO(id, text) \\
    static const char id[] __attribute__((section(".modinfo"), used)) = text
struct version { unsigned long crc; char name[56]; };
"""


def make(
    path: Path,
    body: str = "",
    *,
    release: str = RELEASE,
    depends: str = "",
    imports: Mapping[str, int] | None = None,
) -> Path:
    """Compile ``body`` to the module ``path``; return it.

    ``imports`` are the symbols in its section __versions, with their CRCs.
    """
    name = path.stem.replace("-", "_")
    source = path.with_suffix(".c")
    entries = "".join(
        f'    {{ {crc:#x}, "{symbol}" }},\n' for symbol, crc in (imports or {}).items()
    )
    versions = (
        'static const struct version versions[] __attribute__((section("__versions"), used)) = {\n'
        f"{entries}}};\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(
        f"{_HEAD}{versions if imports else ''}"
        f'MODINFO(i0, "depends={depends}");\n'
        f'MODINFO(i1, "name={name}");\n'
        f'MODINFO(i2, "vermagic={release} SMP mod_unload modversions ");\n{body}\n'
    )
    compiled = path.with_suffix(".o")
    command = ["gcc", "-g", "-O2", "-fno-pic", "-c", str(source), "-o", str(compiled)]
    subprocess.run(command, check=True, capture_output=True)
    # A build id is the linker's work.
    link = ["ld", "-r", "--build-id=sha1", str(compiled), "-o", str(path)]
    subprocess.run(link, check=True, capture_output=True)
    source.unlink()
    compiled.unlink()
    return path
