# SPDX-License-Identifier: GPL-2.0-or-later
"""What changed in a header between two kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.ifc import is_reserved

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from genbindings.model import Field, Header, Struct


@dataclass(frozen=True, slots=True)
class Change:
    """One change. ``abi`` says that something which both headers have is different in them."""

    kind: str
    name: str
    detail: str
    abi: bool

    def __str__(self) -> str:
        return f"{self.kind:<8} {self.name}{f'  {self.detail}' if self.detail else ''}"


def diff(old: Header, new: Header) -> list[Change]:
    """Return the changes from ``old`` to ``new``: structs, their fields, then numbers.

    Reserved fields are not compared: they are what the named ones leave over.
    """
    changes = list(_structs(old, new))
    changes += _numbers("enumerator", _enumerators(old), _enumerators(new))
    changes += _numbers("constant", _constants(old), _constants(new))
    changes += _numbers("ioctl", _ioctls(old), _ioctls(new))
    return changes


def summary(changes: list[Change]) -> str:
    """Return one line that counts ``changes`` by kind."""
    counts: dict[str, int] = {}
    for change in changes:
        what, _, _ = change.name.partition(" ")
        key = f"{what}s {change.kind}"
        counts[key] = counts.get(key, 0) + 1
    return ", ".join(f"{number} {key}" for key, number in counts.items()) or "no changes"


def _structs(old: Header, new: Header) -> Iterator[Change]:
    before, after = _tagged(old), _tagged(new)
    for kind, header, here, there in (
        ("removed", old, before, after),
        ("added", new, after, before),
    ):
        for name, struct in here.items():
            # The type of a member without a tag comes and goes with the member.
            if name not in there and "." not in name:
                detail = f"{len(_named(header, struct))} fields"
                yield Change(kind, f"struct {name}", detail, False)
    unit = "bits" if new.dialect == "bits" else "bytes"
    for name, struct in before.items():
        other = after.get(name)
        if other is None:
            continue
        if struct.size != other.size:
            detail = f"{struct.size} to {other.size} {unit}"
            yield Change("resized", f"struct {name}", detail, True)
        yield from _fields(old, struct, new, other)


def _tagged(header: Header) -> dict[str, Struct]:
    return {struct.name: struct for struct in header.own_structs()}


def _fields(old: Header, before: Struct, new: Header, after: Struct) -> Iterator[Change]:
    olds, news = _named(old, before), _named(new, after)
    for name, field in olds.items():
        path = f"field {before.name}.{name}"
        other = news.get(name)
        if other is None:
            yield Change("removed", path, "", False)
            continue
        if field.offset != other.offset or field.bit_offset != other.bit_offset:
            yield Change("moved", path, f"{_offset(field)} to {_offset(other)}", True)
        if (field.size, field.count) != (other.size, other.count):
            yield Change("resized", path, f"{field.size} to {other.size}", True)
        elif field.type.name != other.type.name:
            yield Change("retyped", path, f"{field.type.name} to {other.type.name}", True)
    for name in news:
        if name not in olds:
            yield Change("added", f"field {before.name}.{name}", "", False)


def _offset(field: Field) -> int:
    return field.offset if field.bit_offset is None else field.bit_offset


def _named(header: Header, struct: Struct) -> dict[str, Field]:
    return {f.name: f for f in header.flat_fields(struct) if not is_reserved(f.name)}


def _numbers(
    what: str, old: Mapping[str, int | str], new: Mapping[str, int | str]
) -> Iterator[Change]:
    for name, value in old.items():
        if name not in new:
            yield Change("removed", f"{what} {name}", "", False)
        elif new[name] != value:
            yield Change("changed", f"{what} {name}", f"{value} to {new[name]}", True)
    yield from (Change("added", f"{what} {name}", "", False) for name in new if name not in old)


def _enumerators(header: Header) -> dict[str, int | str]:
    return {name: value for enum in header.enums for name, value in enum.values.items()}


def _constants(header: Header) -> dict[str, int | str]:
    return {name: constant.value for name, constant in header.constants.items()}


def _ioctls(header: Header) -> dict[str, int | str]:
    return {name: ioctl.number for name, ioctl in header.ioctls.items()}
