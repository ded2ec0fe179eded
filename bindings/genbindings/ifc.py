# SPDX-License-Identifier: GPL-2.0-or-later
"""The bit dialect of mlx5_ifc.h: ``u8 name[0x20]`` declares 32 bits, not 32 bytes.

Compiled as it is, every size and offset of such a header is the number of bits that firmware uses,
counted from the most significant bit of big-endian dwords. What has to be said differently is the
last dimension of an array of ``u8``: it is the width of the field.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error
from genbindings.model import Field, Header, RecordRef, Scalar, Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

_STRUCT = re.compile(r"\bstruct\s+mlx5_ifc_\w+\s*\{")
# `reserved_at_40`, the older `reserved_0`, and the header's own misspelling; a field such as
# `reserved_lkey` is a real one.
_RESERVED = re.compile(r"^rese(?:r|re)ved(?:_at_(?P<at>[0-9a-f]+)|_?[0-9a-f]{1,3})?$")

DWORD = 32


@cache
def prelude() -> str:
    """Return the C text that such a header needs before it."""
    return Path(__file__).with_name("ifc_prelude.h").read_text(encoding="utf-8")


def is_ifc(text: str) -> bool:
    """Whether a header's ``text`` is in the bit dialect."""
    return _STRUCT.search(text) is not None


def is_reserved(name: str) -> bool:
    """Whether a field of this name is reserved: preserved, but not for anyone's use."""
    return _RESERVED.match(name) is not None


def reserved_offset(name: str) -> int | None:
    """Return the offset in bits that ``reserved_at_X`` claims to have, or None."""
    match = _RESERVED.match(name)
    return int(match["at"], 16) if match and match["at"] else None


def short_name(name: str) -> str:
    """Return a C name without the prefix ``mlx5_ifc_`` and the suffix ``_bits``."""
    outer, dot, member = name.partition(".")
    return outer.removeprefix("mlx5_ifc_").removesuffix("_bits") + dot + member


def in_bits(header: Header) -> Header:
    """Return the model of a compiled bit-dialect header with its fields' widths told apart.

    Raises:
        Error: a nested struct does not begin on a byte, which no buffer could be a view of.
    """
    return replace(
        header,
        dialect="bits",
        structs={name: _struct(struct) for name, struct in header.structs.items()},
    )


def _struct(struct: Struct) -> Struct:
    return replace(struct, fields=tuple(_fields(struct)))


def _fields(struct: Struct) -> Iterator[Field]:
    for field in struct.fields:
        if isinstance(field.type, RecordRef):
            if field.offset % 8:
                raise Error(
                    f"{field.location}: {struct.name}.{field.name} begins at bit {field.offset},"
                    " not on a byte",
                    "report it to the header's maintainers",
                )
            yield field
        else:
            yield _split_width(field, field.type)


def _split_width(field: Field, scalar: Scalar) -> Field:
    """Take the width, the last dimension, out of ``count`` and into the element's size."""
    *count, width = field.count or (1,)
    if width is None:
        # `u8 data[]`: the width is not said; such data is addressed by bytes.
        return replace(field, type=replace(scalar, size=8), count=(None,))
    return replace(field, type=_of_width(scalar, width), count=tuple(count))


@cache
def _of_width(scalar: Scalar, width: int) -> Scalar:
    return replace(scalar, size=width)
