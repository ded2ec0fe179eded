# SPDX-License-Identifier: GPL-2.0-or-later
"""The only loader of templates and of data that ships with the distribution.

A name is a path in the repository, such as ``templates/vfio.py.j2`` or ``lab/firmware``. In a
checkout (an editable install included) the file there is used; an installed wheel has it below
this package, with an underscore in front: ``_templates``, ``_lab``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error
from genbindings.locate import cache

if TYPE_CHECKING:
    import jinja2

_PACKAGE = Path(__file__).resolve().parent


def find(name: str) -> Path:
    """Return the path of the shipped file or folder ``name``.

    Raises:
        Error: it is not there, so the installation is broken.
    """
    checkout = _PACKAGE.parent.parent
    # An editable install can leave stale copies below the package: the checkout goes first.
    candidates = [_PACKAGE / f"_{name}"]
    if (checkout / "pyproject.toml").is_file() and (checkout / "bindings").is_dir():
        candidates.insert(0, checkout / name)
    for path in candidates:
        if path.exists():
            return path
    raise Error(f"{name} is missing from this installation", "install mlxtrace again")


def environment() -> jinja2.Environment:
    """Return the Jinja environment of every template: an undefined name is an error.

    Nothing is escaped: the templates make C and Python, not HTML.
    """
    # Here and below: it costs an emulated guest a second, and shipped data needs no templates.
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(find("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        bytecode_cache=_compiled(),
    )


def _compiled() -> jinja2.BytecodeCache | None:
    """Return where compiled templates are kept from run to run, None where nothing can be."""
    folder = cache() / "templates"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    import jinja2

    return jinja2.FileSystemBytecodeCache(str(folder)) if os.access(folder, os.W_OK) else None
