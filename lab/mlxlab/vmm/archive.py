# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU for the lab's guest: the distribution's, unpacked in the cache, not installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from genbindings.errors import Error, UsageError
from mlxlab.vmm.process import Installation
from mlxpatch import cache, debian, suite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mlxpatch.debian import Package
    from mlxpatch.progress import Progress

_PROGRAM = "qemu-system-x86"
_PACKAGES = (_PROGRAM, "qemu-system-common", "qemu-system-data", "seabios")
_INFO = "mlxtrace.json"
_KEEP = 3
# Before 8.1 there is no PRE_COPY, before 10.0 no multifd for VFIO, and the trace is another one.
OLDEST = (10, 0)


class Offer(NamedTuple):
    """The packages of one QEMU that apt could fetch, with its configuration for that."""

    version: str
    packages: tuple[Package, ...]
    config: Path | None


def upstream(version: str) -> str:
    """Return the upstream version in a Debian one: 10.0.2 of 1:10.0.2+ds-2~bpo12+1."""
    match = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", version)
    return match[1] if match else ""


def numbers(version: str) -> tuple[int, ...]:
    """Return what orders upstream versions."""
    return tuple(int(part) for part in version.split("."))


def fits(version: str, wanted: str) -> bool:
    """Return whether ``version`` is ``wanted`` or one of it: 10.0.2 is a 10, and a 10.0."""
    ours, theirs = numbers(version), numbers(wanted)
    return ours[: len(theirs)] == theirs and ours >= OLDEST


def check(wanted: str) -> None:
    """Check what ``--qemu-version`` was given.

    Raises:
        UsageError: it is no version, or one that cannot migrate a VF.
    """
    if not re.fullmatch(r"\d+(\.\d+)*", wanted):
        raise UsageError(f"--qemu-version {wanted}: no version number", "such as 10 or 10.0.2")
    if numbers(wanted) < OLDEST[: len(numbers(wanted))]:
        oldest = ".".join(map(str, OLDEST))
        raise UsageError(
            f"--qemu-version {wanted}: mlxlab reads the trace of QEMU {oldest} or newer"
        )


def ensure(wanted: str, progress: Progress, *, offline: bool = False) -> Installation:
    """Return the newest QEMU that :func:`fits` ``wanted``, fetched if it is not in the cache.

    What apt's lists say decides. Where apt or its servers do not answer, and with ``offline``, the
    cache does.

    Raises:
        Error: there is none, or this system lacks libraries that it needs.
    """
    with cache.locked("qemu", lambda: progress.note("waiting for another download")):
        found = _from_cache(wanted) if offline else _newest(wanted, progress)
        if found is None:
            raise Error(
                f"the cache, {cache.root()}, has no QEMU {wanted}", "leave out --offline once"
            )
        cache.touch(found)
        cache.prune(_folder(), "qemu-*", _KEEP)
    installation = Installation(found, numbers(_version(found)))
    _check_libraries(installation)
    return installation


def _newest(wanted: str, progress: Progress) -> Path:
    stamp = debian.lists_stamp()
    answer = _folder() / f"{wanted}.json"
    found = _answered(answer, stamp)
    if found is None:
        try:
            found = _fetch(choose(wanted, offers()), progress)
        except Error as error:
            found = _from_cache(wanted)
            if found is None:
                raise
            progress.note(f"{error}; using QEMU {_version(found)} from the cache")
        else:
            _write(answer, {"stamp": stamp, "root": found.name})
    return found


def offers() -> Iterator[Offer]:
    """Yield the QEMU of the system's own release, then that of its backports."""
    debian.require()
    yield _offer(None)
    _, config = suite.backports()
    yield _offer(config)


def choose(wanted: str, offered: Iterator[Offer]) -> Offer:
    """Return the first of ``offered`` that fits; the rest is not asked for.

    Raises:
        Error: none does; the message says what there is.
    """
    seen = []
    for offer in offered:
        if fits(offer.version, wanted):
            return offer
        seen.append(offer.version)
    usable = [version for version in seen if numbers(version) >= OLDEST]
    raise Error(
        f"the distribution has no QEMU {wanted}: it has {', '.join(seen) or 'none'}",
        f"use --qemu-version {numbers(usable[-1])[0]}" if usable else "none of them is new enough",
    )


def _offer(config: Path | None) -> Offer:
    packages = list(debian.show(_PACKAGES[:-1], config))
    try:
        packages += debian.show(_PACKAGES[-1:], config)
    except Error:
        # A suite may do with the BIOS of another one; apt finds it in the system's.
        packages += debian.show(_PACKAGES[-1:])
    return Offer(upstream(packages[0].version), tuple(packages), config)


def _fetch(offer: Offer, progress: Progress) -> Path:
    program = offer.packages[0]
    key = re.sub(r"[^0-9A-Za-z.+~-]", "_", program.version)
    target = _folder() / f"qemu-{key}"
    if (target / _INFO).exists():
        return target
    with cache.publish(target) as partial:
        debs = partial / "debs"
        debs.mkdir()
        files = debian.download(offer.packages, debs, progress, offer.config)
        with progress.stage(f"unpacking QEMU {offer.version}"):
            for deb in files:
                debian.unpack(deb, partial)
            shutil.rmtree(debs)
        _write(partial / _INFO, {"version": offer.version, "depends": list(program.depends)})
    return target


def _check_libraries(installation: Installation) -> None:
    program = installation.command()[0]
    done = subprocess.run(["ldd", program], capture_output=True, text=True)
    missing = missing_libraries(done.stdout)
    if not missing:
        return
    info = json.loads((installation.root / _INFO).read_text())
    packages = absent([name for name in info["depends"] if name.startswith("lib")], _installed)
    version = ".".join(map(str, installation.version))
    raise Error(
        f"QEMU {version} needs libraries that this system lacks: {', '.join(missing)}",
        f"run: apt-get install {' '.join(packages)} (as root)"
        if packages
        else "their packages must be installed",
    )


def missing_libraries(said: str) -> list[str]:
    """Return the libraries that ``ldd`` did not find."""
    return re.findall(r"^\s*(\S+) => not found", said, re.MULTILINE)


def absent(packages: Sequence[str], installed: Callable[[str], bool]) -> list[str]:
    """Return those of ``packages`` that are not installed."""
    return [package for package in packages if not installed(package)]


def _installed(package: str) -> bool:
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}", package],
        capture_output=True,
        text=True,
        env=debian.environment(),
    )
    return done.stdout.startswith("ii")


def _folder() -> Path:
    return cache.root() / "qemu"


def _cached() -> list[Path]:
    """The unpacked QEMUs, the newest version first."""
    found = [path.parent for path in _folder().glob(f"qemu-*/{_INFO}")]
    return sorted(found, key=lambda root: numbers(_version(root)), reverse=True)


def _from_cache(wanted: str) -> Path | None:
    return next((root for root in _cached() if fits(_version(root), wanted)), None)


def _version(root: Path) -> str:
    return str(json.loads((root / _INFO).read_text())["version"])


def _answered(answer: Path, stamp: int) -> Path | None:
    try:
        known = json.loads(answer.read_text())
    except (OSError, ValueError):
        return None
    root = _folder() / str(known.get("root"))
    return root if known.get("stamp") == stamp and (root / _INFO).exists() else None


def _write(path: Path, value: object) -> None:
    partial = path.with_name(f".{path.name}.new")
    partial.write_text(json.dumps(value) + "\n")
    partial.replace(path)
