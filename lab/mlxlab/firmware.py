# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulated firmware's knobs: profiles of them, and ``mlxlab fw`` inside the guest."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings import resources
from genbindings.errors import Error, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path("/sys/kernel/debug/mlx5_lab")
# Knobs of the PF; every other one belongs to a VF.
PF_KNOBS = (
    "migration",
    "multi_load",
    "tracking_state",
    "migration_in_chunks",
    "page_tracking",
    "timeout_ms",
)
_READ_ONLY = ("state_hash", "status", "counters", "objects")
_FIELDS = {"summary", "memory_mib", "vf", "pf"}


@dataclass(frozen=True)
class Setting:
    """A knob's value: for the PF, or for all VFs."""

    scope: str  # "pf" or "vf"
    name: str
    value: str

    @property
    def line(self) -> str:
        """As the guest's session script reads it."""
        return f"{self.scope} {self.name} {self.value}"


@dataclass(frozen=True)
class Profile:
    """Named settings; ``memory_mib`` is what the guest needs for them, 0 for no more than usual."""

    name: str
    summary: str
    memory_mib: int = 0
    settings: tuple[Setting, ...] = field(default=())


def parse_profiles(text: str, origin: str) -> dict[str, Profile]:
    """Return the profiles in ``text`` by name, in its order.

    Raises:
        Error: it is not a table of profiles; ``origin`` is named.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Error(f"{origin}: {error}") from None
    profiles: dict[str, Profile] = {}
    for name, table in tables.items():
        unknown = sorted(set(table) - _FIELDS)
        if unknown or "summary" not in table:
            what = f"unknown key {unknown[0]}" if unknown else "no summary"
            raise Error(f"{origin}: [{name}] has {what}")
        settings = tuple(
            Setting(scope, knob, str(value))
            for scope in ("pf", "vf")
            for knob, value in table.get(scope, {}).items()
        )
        profiles[name] = Profile(name, table["summary"], table.get("memory_mib", 0), settings)
    return profiles


def profiles() -> dict[str, Profile]:
    """Return the shipped profiles."""
    path = resources.find("lab/profiles.toml")
    return parse_profiles(path.read_text(encoding="utf-8"), str(path))


def pick(name: str) -> Profile:
    """Return the profile ``name``.

    Raises:
        UsageError: there is none.
    """
    known = profiles()
    if name not in known:
        raise UsageError(f"no profile {name!r}", f"one of {', '.join(known)}")
    return known[name]


def setting(word: str) -> Setting:
    """Return what ``KEY=VALUE`` sets, for the PF or for every VF, as the key demands.

    Raises:
        UsageError: it is not of that form.
    """
    key, value = _split(word)
    if key == "fault":
        # Two files share the name: PDs and mkeys are the PF's.
        scope = "pf" if re.match(r"(alloc_pd|create_mkey)\b", value) else "vf"
        return Setting(scope, "faults", value)
    return Setting("pf" if key in PF_KNOBS else "vf", key, value)


def _split(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or not re.fullmatch(r"[a-z_0-9]+", key) or "\n" in value:
        raise UsageError(f"{word}: not KEY=VALUE", "such as latency_us=2000")
    return key, value


def _folder(bdf: str, root: Path) -> Path:
    if not root.is_dir():
        raise Error(
            f"there is no simulated firmware here: {root} does not exist",
            "it is in the lab's guest, unless that has --device mtty: mlxlab run -- mlxlab fw ...",
        )
    folder = root / bdf
    if not folder.is_dir():
        known = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir()))
        raise Error(f"{bdf} is no device of the simulated firmware", f"it has {known}")
    return folder


def apply(bdf: str, words: Sequence[str], root: Path = ROOT) -> None:
    """Set knobs of one device, in order; ``fault=RULE`` adds a rule, ``fault=clear`` drops all.

    Raises:
        Error: there is no such device or knob, or the firmware refuses the value.
        UsageError: a word is not KEY=VALUE.
    """
    folder = _folder(bdf, root)
    for key, value in [_split(word) for word in words]:
        path = folder / ("faults" if key == "fault" else key)
        known = ", ".join(show(bdf, root))
        if not path.is_file() or path.name in _READ_ONLY:
            raise Error(f"{bdf} has no knob {key}", f"it has {known} and fault")
        try:
            # Not buffered: the kernel's answer is about this very value.
            descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
            try:
                os.write(descriptor, f"{value}\n".encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Error(f"{bdf}: {key}={value} is refused: {error.strerror}") from None


def show(bdf: str, root: Path = ROOT) -> dict[str, str]:
    """Return the knobs of one device and their values."""
    folder = _folder(bdf, root)
    return {
        path.name: _read(path)
        for path in sorted(folder.iterdir())
        if path.name not in (*_READ_ONLY, "faults")
    }


def figures(bdf: str, root: Path = ROOT) -> Mapping[str, str]:
    """Return what the firmware says of one device: faults, counters, status, its state's hash."""
    folder = _folder(bdf, root)
    return {
        name: _read(folder / name) for name in ("faults", *_READ_ONLY) if (folder / name).is_file()
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Error(f"cannot read {path}: {error.strerror}", "be root") from None
