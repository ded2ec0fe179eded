# SPDX-License-Identifier: GPL-2.0-or-later
"""The pyi backend: the types of a ctypes module. The module has them too; this is them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genbindings import resources
from genbindings.backends.ctypes_bytes import ModuleText
from genbindings.backends.python_functions import stub_lines
from genbindings.backends.python_text import docstring, identifier, import_from, module_doc, tidy

if TYPE_CHECKING:
    from genbindings.model import Header


def render(header: Header) -> str:
    """Return the stub for :func:`genbindings.backends.ctypes_bytes.render`'s module."""
    text = ModuleText(header)
    numbers = [
        f"{identifier(constant.name)}: {type(constant.value).__name__}"
        for constant in header.distinct_constants()
    ]
    numbers += [
        f"{identifier(name)}: int" for enum in header.enums for name in header.reachable(enum)
    ]
    rendered = (
        resources.environment()
        .get_template("ctypes_stub.pyi.j2")
        .render(
            spdx=header.spdx,
            docstring=docstring(module_doc(header), 0),
            functions=stub_lines(header),
            imports=[
                import_from("ctypes", text.annotation_names()),
                import_from("mlxuapi.runtime", text.base_names()),
            ],
            numbers=numbers,
            classes=text.classes,
            ioctls=[f"{identifier(name)}: Ioctl" for name in header.ioctls],
        )
    )
    return tidy(rendered, 1)
