# SPDX-License-Identifier: GPL-2.0-or-later
"""What is different between two revisions: patches, ABI, symbols, probes, structs, sizes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genbindings import diff as differ
from genbindings.dwarf import struct_layouts, subprograms
from genbindings.generate import Options, model
from mlxpatch import drivers, modinfo, rangediff, survey, symvers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from genbindings.dwarf import Layout
    from genbindings.model import Header
    from mlxpatch.build import Built
    from mlxpatch.drivers import Revision, Target
    from mlxpatch.progress import Progress
    from mlxpatch.rangediff import Pair

_UAPI = "include/uapi/"
_IFC = "include/linux/mlx5/mlx5_ifc"
# In a build, the drivers' own files and the headers of the series that take precedence.
_PLACES = ("/drivers/vfio/", "/include-0/")


@dataclass(frozen=True)
class Change:
    """One difference; ``abi`` says that something which both have is different in them."""

    kind: str
    name: str
    detail: str = ""
    abi: bool = False


@dataclass(frozen=True)
class ProbeChange:
    """A probe's function in the old and in the new revision."""

    probe: str
    symbol: str
    old: str
    new: str
    loses: str


@dataclass(frozen=True)
class Size:
    """Bytes that a module takes in memory, before and after; None where it is not built."""

    module: str
    old: int | None
    new: int | None


@dataclass(frozen=True)
class Comparison:
    """Everything that is different."""

    old: str
    new: str
    kernel: str
    patches: list[Pair]
    headers: dict[str, list[Change]]
    exports: list[Change]
    probes: list[ProbeChange]
    structs: list[Change]
    sizes: list[Size]

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return dataclasses.asdict(self)


def compare(old: Revision, new: Revision, goal: Target, progress: Progress) -> Comparison:
    """Build ``old`` and ``new`` for the same kernel and return what is different.

    Raises:
        Error: one of them does not build, or a header does not compile.
    """
    patches = rangediff.compare(old.base, drivers.applicable(old), drivers.applicable(new))
    if old.scope.places != new.scope.places:
        # The same modules of both, or they cannot be compared.
        old, new = drivers.widened(old), drivers.widened(new)
    before = drivers.built(old, goal, progress)
    after = drivers.built(new, goal, progress)
    with progress.stage("comparing"):
        return Comparison(
            old.name,
            new.name,
            goal.release,
            patches,
            _headers(old, new),
            _exports(before, after),
            _probes(before, after),
            _structs(before, after),
            _sizes(before, after),
        )


def _headers(old: Revision, new: Revision) -> dict[str, list[Change]]:
    names = sorted(
        name
        for name in {*old.touched, *new.touched}
        if name.endswith(".h") and name.startswith((_UAPI, _IFC))
    )
    changes = {}
    for name in names:
        before, after = _model(old, name), _model(new, name)
        if before is None or after is None:
            kind = "added" if before is None else "removed"
            changes[name] = [] if before is after else [Change(kind, name)]
            continue
        changes[name] = [
            Change(each.kind, each.name, each.detail, each.abi)
            for each in differ.diff(before, after)
        ]
    return changes


def _model(of: Revision, name: str) -> Header | None:
    tree = drivers.full_tree(of)
    if not (tree / name).is_file():
        return None
    inside = name.removeprefix(_UAPI).removeprefix("include/")
    return model(Options(inside, kernel=tree, allow_missing=True))[0]


def _exports(before: Built, after: Built) -> list[Change]:
    old, new = symvers.read(before.symvers), symvers.read(after.symvers)
    changes = [Change("removed", name, old[name].module, True) for name in old if name not in new]
    changes += [Change("added", name, new[name].module) for name in new if name not in old]
    changes += [
        Change("changed", name, f"CRC {old[name].crc:08x} to {new[name].crc:08x}", True)
        for name in old
        if name in new and old[name].crc != new[name].crc
    ]
    return sorted(changes, key=lambda change: (change.kind, change.name))


def _probes(before: Built, after: Built) -> list[ProbeChange]:
    old = {target.probe: target for target in survey.probes(before.modules)}
    return [
        ProbeChange(
            target.probe,
            target.symbol,
            _state(old[target.probe]),
            _state(target),
            target.loses,
        )
        for target in survey.probes(after.modules)
    ]


def _state(target: survey.Target) -> str:
    return f"{target.state} {target.detail}".strip()


def _structs(before: Built, after: Built) -> list[Change]:
    changes = []
    for old, new in _pairs(before, after):
        if old is None or new is None:
            continue
        names = {name for path in (old, new) for name in subprograms.own_records(path, _PLACES)}
        layouts = struct_layouts(old, names), struct_layouts(new, names)
        for name in sorted(names):
            changes += list(_layout(name, layouts[0].get(name), layouts[1].get(name)))
    # A header's struct is in several modules.
    return list(dict.fromkeys(changes))


def _layout(name: str, old: Layout | None, new: Layout | None) -> Iterator[Change]:
    if old is None or new is None:
        if old is not new:
            there = new or old
            kind = "added" if old is None else "removed"
            yield Change(kind, f"struct {name}", f"{there.size if there else 0} bytes")
        return
    if old.size != new.size:
        yield Change("resized", f"struct {name}", f"{old.size} to {new.size} bytes", True)
    members, later = _members(old), _members(new)
    for field in (*members, *(each for each in later if each not in members)):
        yield from _moved(f"field {name}.{field}", members.get(field), later.get(field))


@dataclass(frozen=True)
class _Member:
    """A member of a struct, or a bitfield; ``offset`` and ``size`` are in ``unit``."""

    offset: int
    size: int
    unit: Literal["byte", "bit"]

    @property
    def at(self) -> str:
        return str(self.offset) if self.unit == "byte" else f"bit {self.offset}"

    def __str__(self) -> str:
        return f"{self.size} {self.unit}{'' if self.size == 1 else 's'} at {self.at}"


def _members(layout: Layout) -> dict[str, _Member]:
    members = {name: _Member(at.offset, at.size, "byte") for name, at in layout.fields.items()}
    return members | {name: _Member(at.offset, at.size, "bit") for name, at in layout.bits.items()}


def _moved(path: str, old: _Member | None, new: _Member | None) -> Iterator[Change]:
    if old is None or new is None:
        if old:
            yield Change("removed", path, f"was at {old.at}")
        elif new:
            yield Change("added", path, f"at {new.at}")
    elif old.unit != new.unit:
        yield Change("changed", path, f"{old} to {new}", True)
    else:
        if old.at != new.at:
            yield Change("moved", path, f"{old.at} to {new.at}", True)
        if old.size != new.size:
            yield Change("resized", path, f"{old.size} to {new.size} {new.unit}s", True)


def _sizes(before: Built, after: Built) -> list[Size]:
    return [
        Size((new or old or Path()).stem, _bytes(old), _bytes(new))
        for old, new in _pairs(before, after)
    ]


def _bytes(module: Path | None) -> int | None:
    return None if module is None else sum(modinfo.read(module).sizes.values())


def _pairs(before: Built, after: Built) -> list[tuple[Path | None, Path | None]]:
    old: Mapping[str, Path] = {path.name: path for path in before.modules}
    new: Mapping[str, Path] = {path.name: path for path in after.modules}
    return [(old.get(name), new.get(name)) for name in sorted({*old, *new})]
