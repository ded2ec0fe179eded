# SPDX-License-Identifier: GPL-2.0-or-later
"""DWARF: the only place where debug information is read.

Every number comes from here or from the compiler that wrote it. ``struct_layouts`` answers "where
is this field in that module"; ``types`` reads every type of an object file for the generator.
pyelftools reads the container (ELF, sections, abbreviations, line tables); ``dies`` decodes the
entries themselves, since a kernel module has hundreds of thousands of them.
"""

from __future__ import annotations

from genbindings.dwarf.layouts import BitsAt, FieldAt, Layout, struct_layouts

__all__ = ["BitsAt", "FieldAt", "Layout", "struct_layouts"]
