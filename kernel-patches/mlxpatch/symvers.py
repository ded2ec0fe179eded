# SPDX-License-Identifier: GPL-2.0-or-later
"""Exported symbols and their CRCs: what changed, and which modules it keeps from loading.

The kernel refuses a module whose CRC of a symbol is not that of the module which exports it
(CONFIG_MODVERSIONS). A rebuilt vfio.ko whose structs changed thus locks out modules of the
distribution that nobody rebuilt.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxpatch import modinfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_COMPRESSED = (".ko.xz", ".ko.gz", ".ko.zst")


@dataclass(frozen=True)
class Export:
    """A symbol that ``module`` (a name with underscores) exports."""

    module: str
    crc: int


@dataclass(frozen=True)
class Refused:
    """A module that would not load, and the symbols that keep it from that."""

    name: str
    path: Path
    changed: tuple[str, ...]
    missing: tuple[str, ...]


def read(path: Path) -> dict[str, Export]:
    """Return the symbols in the Module.symvers ``path``.

    Raises:
        Error: it cannot be read or is not such a file.
    """
    found = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t")
        try:
            module = Path(fields[2]).name.removesuffix(".ko").replace("-", "_")
            found[fields[1]] = Export(module, int(fields[0], 16))
        except (IndexError, ValueError):
            raise Error(f"{path}, line {number}: not a line of a Module.symvers") from None
    return found


def refused(
    rebuilt: Mapping[str, Export], names: Iterable[str], stock: Mapping[str, Export], modules: Path
) -> list[Refused]:
    """Return the modules below ``modules`` that would not load with the ``rebuilt`` ones.

    Args:
        rebuilt: what the rebuilt modules export.
        names: the names of the rebuilt modules, which replace those of the kernel.
        stock: what the kernel and its own modules export.
        modules: the kernel's /lib/modules/RELEASE.
    """
    replaced = set(names)
    suspects = {
        symbol
        for symbol, export in stock.items()
        if export.module in replaced
        and (symbol not in rebuilt or rebuilt[symbol].crc != export.crc)
    }
    if not suspects:
        return []
    exporters = {stock[symbol].module for symbol in suspects}
    found = []
    for path in _users(modules, exporters):
        module = modinfo.read(path)
        if module.name in replaced:
            continue
        used = suspects & set(module.imports)
        missing = tuple(sorted(used - set(rebuilt)))
        changed = tuple(
            sorted(
                symbol
                for symbol in used & set(rebuilt)
                if module.imports[symbol] != rebuilt[symbol].crc
            )
        )
        if missing or changed:
            found.append(Refused(module.name, path, changed, missing))
    return sorted(found, key=lambda module: module.name)


def _users(modules: Path, exporters: set[str]) -> Iterator[Path]:
    """Yield the modules that use one of ``exporters``, by depmod's list where there is one."""
    listed = _listed(modules, exporters)
    if listed is not None:
        yield from listed
        return
    # The section .modinfo has "depends=irqbypass,vfio" between two zero bytes.
    names = b"|".join(re.escape(name.encode()).replace(b"_", b"[-_]") for name in exporters)
    depends = re.compile(rb"\0depends=(?:[\w-]+,)*(?:" + names + rb")(?:,|\0)")
    for parent, _, files in os.walk(modules):
        for name in sorted(files):
            path = Path(parent, name)
            if name.endswith((".ko", *_COMPRESSED)) and depends.search(modinfo.content(path)):
                yield path


def _listed(modules: Path, exporters: set[str]) -> list[Path] | None:
    try:
        lines = (modules / "modules.dep").read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        module, _, needs = line.partition(":")
        needed = {Path(path).name.partition(".")[0].replace("-", "_") for path in needs.split()}
        if needed & exporters and (modules / module).is_file():
            found.append(modules / module)
    return found
