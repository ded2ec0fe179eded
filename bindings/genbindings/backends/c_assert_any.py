# SPDX-License-Identifier: GPL-2.0-or-later
"""The c-assert backend: static assertions that a C compiler checks beside the header."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genbindings import __version__, resources
from genbindings.assertions import assertions

if TYPE_CHECKING:
    from genbindings.model import Header


def render(header: Header) -> str:
    """Return C text that compiles only beside a header with these layouts and numbers."""
    return (
        resources.environment()
        .get_template("c_assert.c.j2")
        .render(
            spdx=header.spdx,
            version=__version__,
            header=header,
            needed=header.needed,
            include=header.name,
            assertions=assertions(header),
        )
    )
