# SPDX-License-Identifier: GPL-2.0-or-later
"""Profiles: what drivers are known not to do, and why; one TOML file each in tracer/profiles."""

from __future__ import annotations

import enum
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genbindings import resources
from genbindings.errors import UsageError
from mlxtrace.vfio import MigrationFlags

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlxtrace.checks import Check

# In the order in which they are considered; the last one fits every driver.
SHIPPED = ("carried", "upstream-6.12", "stock-6.1", "mtty", "generic")


class Kind(enum.StrEnum):
    """What is known of a check; the values are the tables of a profile's file."""

    FAILS = "fails"
    FAILS_IF_OFFERED = "fails-if-offered"
    """Not every device has what the rule is about; where one has it, the rule is not kept."""
    MAY_FAIL = "may-fail"
    """A race decides whether the rule is kept."""
    LACKS = "lacks"
    """What the rule is about is not there."""
    SKIP = "skip"
    """It would end the kernel, or spoil what runs after it, so that it is not run."""


@dataclass(frozen=True)
class Known:
    """What a profile says of a check."""

    kind: Kind
    reason: str


@dataclass(frozen=True)
class Profile:
    """What a driver is known not to do.

    Attributes:
        name: what ``--profile`` takes.
        summary: which driver it is about, for people.
        known: the reasons by kind and check.
        lacks_feature: the reasons why features are not offered, by the flag's name (PRE_COPY).
        when: which driver it is the default for: ``driver``, ``pre_copy``, ``kernel_from``,
            ``kernel_before``, each left out if it does not matter, and ``because``.
    """

    name: str
    summary: str
    known: Mapping[Kind, Mapping[str, str]]
    lacks_feature: Mapping[str, str]
    when: Mapping[str, Any]

    def of(self, check: Check) -> Known | None:
        """Return what is known of ``check``."""
        for kind, reasons in self.known.items():
            if check.id in reasons:
                return Known(kind, reasons[check.id])
        for name, reason in self.lacks_feature.items():
            if MigrationFlags[name] in check.needs:
                return Known(Kind.LACKS, reason)
        return None

    def fits(self, driver: str, pre_copy: bool, kernel: str) -> bool:
        """Tell whether this is the profile of ``driver`` on the kernel release ``kernel``."""
        release = _version(kernel)
        return (
            self.when.get("driver", driver) == driver
            and self.when.get("pre_copy", pre_copy) == pre_copy
            and release >= _version(self.when.get("kernel_from", "0.0"))
            and ("kernel_before" not in self.when or release < _version(self.when["kernel_before"]))
        )


def parse(text: str, name: str, origin: str, checks: Iterable[str]) -> Profile:
    """Return the profile ``name`` that ``text`` holds.

    Raises:
        UsageError: ``text`` is no profile, or speaks of what is none of ``checks``; the file
            ``origin`` is named.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{origin}: {error}") from None
    unknown = sorted(set(table) - {"summary", "when", "lacks-feature", *Kind})
    if unknown or not isinstance(table.get("summary"), str):
        raise UsageError(f"{origin}: {f'unknown key {unknown[0]}' if unknown else 'no summary'}")
    known = {kind: _reasons(table, kind, origin) for kind in Kind}
    named = [identifier for reasons in known.values() for identifier in reasons]
    for identifier in named:
        if identifier not in set(checks):
            raise UsageError(
                f"{origin}: there is no check {identifier}", "mlxtrace validate --list"
            )
        if named.count(identifier) > 1:
            raise UsageError(f"{origin}: {identifier} is there twice")
    features = _reasons(table, "lacks-feature", origin)
    for feature in features:
        if feature not in MigrationFlags.__members__:
            raise UsageError(
                f"{origin}: no feature {feature}", f"{', '.join(MigrationFlags.__members__)}"
            )
    return Profile(name, table["summary"], known, features, table.get("when", {}))


def load(name: str, checks: Iterable[str]) -> Profile:
    """Return the profile ``name``: one that is shipped, or the path of a file (``*.toml``).

    Raises:
        UsageError: there is none, or the file is not a profile.
    """
    if name.endswith(".toml"):
        path = Path(name)
    elif name in SHIPPED:
        path = resources.find("tracer/profiles") / f"{name}.toml"
    else:
        raise UsageError(f"no profile {name!r}", f"one of {', '.join(SHIPPED)}, or a .toml file")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read the profile {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text") from None
    return parse(text, path.stem, str(path), checks)


def choose(
    driver: str, flags: MigrationFlags, kernel: str, checks: Iterable[str]
) -> tuple[Profile, str]:
    """Return the profile of ``driver`` on the kernel release ``kernel``, and why it is that one."""
    checks = list(checks)
    for name in SHIPPED:
        profile = load(name, checks)
        if profile.fits(driver, MigrationFlags.PRE_COPY in flags, kernel):
            return profile, f"{driver} on {kernel}: {profile.when['because']}"
    raise AssertionError("the last profile fits every driver")


def _reasons(table: Mapping[str, Any], key: str, origin: str) -> dict[str, str]:
    reasons = table.get(key, {})
    if not isinstance(reasons, dict) or not all(
        isinstance(reason, str) and reason for reason in reasons.values()
    ):
        raise UsageError(f"{origin}: [{key}] has to give a reason for each name")
    return reasons


def _version(release: str) -> tuple[int, int]:
    """Return (6, 1) of ``6.1.0-28-amd64``."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)
