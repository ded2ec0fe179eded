# SPDX-License-Identifier: GPL-2.0-or-later
"""Another suite of the archive that the machine's own packages come from, such as its backports.

The machine's sources are not touched: apt gets a configuration of its own, in the cache, with one
source, whose address is the one that the machine's own sources name.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from genbindings.errors import Error
from mlxpatch import cache, debian

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_FIELDS = ("REPO_URI", "CODENAME", "ORIGIN", "LABEL", "COMPONENT", "SIGNED_BY")
# Hooks after an update belong to the system's lists, and are left out; a proxy is not.
_KEPT = re.compile(r"Acquire::(?!IndexTargets\b)[^ ]+ ")


class Archive(NamedTuple):
    """Where the system's release is fetched from."""

    address: str
    codename: str
    signed_by: str  # a key ring or a fingerprint, if the source names one


def system_archive(targets: Iterable[str], codename: str) -> Archive | None:
    """Return the archive of Debian's release ``codename`` among ``targets``.

    ``targets`` are lines of ``apt-get indextargets`` in the format of :data:`_FIELDS`.
    """
    for line in targets:
        values = dict(zip(_FIELDS, line.split("|"), strict=False))
        if (
            values.get("CODENAME") == codename
            and values.get("ORIGIN") == values.get("LABEL") == "Debian"
            and values.get("COMPONENT") == "main"
        ):
            signed_by = values.get("SIGNED_BY", "")
            # A field that a source does not have is left as it stands in the format.
            return Archive(values["REPO_URI"], codename, "" if "$" in signed_by else signed_by)
    return None


def backports() -> tuple[str, Path]:
    """Return the name of the system's backports, and apt's configuration for them, updated.

    Raises:
        Error: apt's sources name no archive of Debian's, or it cannot be reached.
    """
    debian.require()
    codename = _codename()
    archive = system_archive(_targets(), codename)
    if archive is None:
        raise Error(
            f"apt's sources name no archive with Debian's {codename or 'release'}",
            "a mirror must be among them, and its lists be there: apt-get update (as root)",
        )
    name = f"{codename}-backports"
    config = _configure(archive, name)
    done = subprocess.run(
        ["apt-get", "-qq", "update"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=debian.environment(config),
    )
    # Without a network apt only warns.
    said = [line[2:].strip() for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))]
    if done.returncode or said:
        raise Error(
            f"apt cannot read the suite {name}: {said[0] if said else 'it said nothing'}",
            "is the network there?",
        )
    return name, config


def _codename() -> str:
    try:
        text = debian.RELEASE.read_text(encoding="utf-8")
    except OSError:
        return ""
    match = re.search(r'^VERSION_CODENAME="?(\w+)', text, re.MULTILINE)
    return match[1] if match else ""


def _targets() -> list[str]:
    layout = "|".join(f"$({field})" for field in _FIELDS)
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", layout, "Created-By: Packages"],
        capture_output=True,
        text=True,
        env=debian.environment(),
    )
    return done.stdout.splitlines()


def _configure(archive: Archive, suite: str) -> Path:
    folder = cache.root() / "apt" / suite
    signed = f" [signed-by={archive.signed_by}]" if archive.signed_by else ""
    settings = [
        f'Dir::Etc::SourceList "{folder}/sources.list";',
        f'Dir::Etc::SourceParts "{folder}/empty";',
        f'Dir::Etc::Parts "{folder}/empty";',
        f'Dir::Etc::Main "{folder}/status";',
        f'Dir::State::Lists "{folder}/lists";',
        f'Dir::State::Status "{folder}/status";',
        f'Dir::Cache "{folder}/cache";',
        'APT::Sandbox::User "root";',
        *_kept(),
    ]
    with cache.writing(folder):
        for part in ("empty", "lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        # Nothing is installed, as far as this configuration goes.
        (folder / "status").touch()
        (folder / "sources.list").write_text(f"deb{signed} {archive.address} {suite} main\n")
        (folder / "apt.conf").write_text("\n".join(settings) + "\n")
    return folder / "apt.conf"


def _kept() -> list[str]:
    """The system's settings for fetching: proxies, retries."""
    done = subprocess.run(
        ["apt-config", "dump"], capture_output=True, text=True, env=debian.environment()
    )
    return [line for line in done.stdout.splitlines() if _KEPT.match(line)]
