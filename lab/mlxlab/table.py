# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of kernels that the lab can boot (lab/kernels.toml)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from genbindings import resources
from genbindings.errors import Error, UsageError
from mlxlab import debugkernel
from mlxpatch import kernels

if TYPE_CHECKING:
    from pathlib import Path

_FIELDS = {"summary", "series", "driver", "patches", "config", "steps"}
_DRIVERS = ("stock", "series")


@dataclass(frozen=True)
class Entry:
    """One kernel of the table.

    Attributes:
        name: what ``--kernel`` takes.
        summary: one line for people.
        series: the Debian kernel series, ``6.12`` say.
        driver: ``stock`` or ``series``.
        patches: the folder of the patch series, relative to the repository, if any.
        config: the configuration of a debug kernel, which is built from the source package.
        steps: about how many files that build makes.
        folder: the build tree of a kernel that is in no table (``--kernel-dir``).
        spec: a patch series that is in no table, as mlxpatch takes it.
    """

    name: str
    summary: str
    series: str
    driver: str
    patches: str | None = None
    config: str | None = None
    steps: int = 0
    folder: Path | None = None
    spec: str = ""

    @property
    def obstacle(self) -> str:
        """Why this kernel cannot be booted yet, or nothing."""
        if self.config:
            built = debugkernel.find(self.name)
            return "" if built else f"not built: mlxlab kernel build {self.name}"
        if self.driver == "series" and not self.spec and self.carried is None:
            return "no series yet"
        return ""

    @property
    def carried(self) -> Path | None:
        """The folder of the patch series, or None where there is none yet."""
        try:
            return resources.find(f"{self.patches}/series").parent if self.patches else None
        except Error:
            return None

    @property
    def cached(self) -> str:
        """The releases of it that are in the cache."""
        if self.config:
            built = debugkernel.find(self.name)
            return built.release if built else ""
        return ", ".join(kernel.release for kernel in kernels.cached_kernels(self.series))


def parse(text: str, origin: str) -> dict[str, Entry]:
    """Return the entries of the table ``text`` by name, in its order.

    Raises:
        Error: it is not a table of kernels; ``origin`` is named.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Error(f"{origin}: {error}") from None
    entries = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise Error(f"{origin}: {name} is not a table")
        unknown = sorted(set(table) - _FIELDS)
        missing = sorted({"summary", "series", "driver"} - set(table))
        if unknown or missing:
            what = f"unknown key {unknown[0]}" if unknown else f"no {missing[0]}"
            raise Error(f"{origin}: [{name}] has {what}")
        for key, value in table.items():
            kind = int if key == "steps" else str
            if not isinstance(value, kind):
                what = "number" if kind is int else "string"
                raise Error(f"{origin}: [{name}] {key} is not a {what}")
        if table["driver"] not in _DRIVERS:
            raise Error(f"{origin}: [{name}] driver is none of {', '.join(_DRIVERS)}")
        if (table["driver"] == "series") != ("patches" in table):
            raise Error(f"{origin}: [{name}] patches and driver do not fit")
        if ("config" in table) != ("steps" in table):
            raise Error(f"{origin}: [{name}] has only one of config and steps")
        entries[name] = Entry(name, **table)
    return entries


def load() -> dict[str, Entry]:
    """Return the shipped table."""
    path: Path = resources.find("lab/kernels.toml")
    return parse(path.read_text(), str(path))


def listed() -> dict[str, Entry]:
    """Return the shipped table, and what was built with patch series."""
    entries = {}
    for entry in load().values():
        entries[entry.name] = entry
        for built in debugkernel.variants(entry.name) if entry.config else []:
            summary = f"{entry.name} with the patches of {built.series}"
            entries[built.name] = replace(entry, name=built.name, summary=summary)
    return entries


def pick(name: str) -> Entry:
    """Return the bootable entry ``name``.

    Raises:
        UsageError: there is none, or it cannot be booted yet.
    """
    entries = listed()
    if name not in entries:
        raise UsageError(f"no kernel {name!r} in the lab's table", f"one of {', '.join(entries)}")
    entry = entries[name]
    if entry.obstacle:
        raise UsageError(f"kernel {name} cannot be booted: {entry.obstacle}")
    return entry


def of_folder(folder: Path) -> Entry:
    """Return an entry for the kernel that was built in ``folder``."""
    return Entry(str(folder), "a kernel that you built", "", "stock", folder=folder)


def of_series(spec: str) -> Entry:
    """Return an entry for the table's kernel with a series, with the series ``spec`` instead."""
    base = next(entry for entry in load().values() if entry.driver == "series")
    return replace(base, name=spec, summary=f"Debian's {base.series} image with {spec}", spec=spec)
