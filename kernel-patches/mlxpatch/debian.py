# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernel packages: which is the newest of a series, and how to fetch it without root.

apt's own lists and sources decide; nothing here names a server. ``apt-get download`` works for
every user and installs nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlxpatch.progress import Progress

LISTS = Path("/var/lib/apt/lists")
RELEASE = Path("/etc/os-release")
_UPDATE = "run: apt-get update (as root)"
_IMAGE = (
    r"linux-image-(?P<release>{series}[.][0-9][0-9.]*(?:-[0-9]+|[+~][a-z0-9]+)*-amd64)-unsigned"
)


@dataclass(frozen=True)
class Package:
    """One version of one package, as apt describes it."""

    name: str
    version: str
    size_bytes: int
    depends: tuple[str, ...]  # names only


@dataclass(frozen=True)
class KernelPackages:
    """What one kernel release is made of: the image and all that builds modules for it."""

    release: str
    image: Package
    headers: Package
    common: Package
    kbuild: Package

    @property
    def version(self) -> str:
        """The Debian version of the image."""
        return self.image.version

    @property
    def all(self) -> tuple[Package, ...]:
        """Every package of the kernel."""
        return (self.image, self.headers, self.common, self.kbuild)


def available() -> bool:
    """Return whether this system has apt and dpkg."""
    return all(shutil.which(tool) for tool in ("apt-cache", "apt-get", "dpkg-deb"))


def require() -> None:
    """Raise an :class:`Error` that says what is missing unless apt and dpkg are here."""
    if not available():
        raise Error(
            "packages come from Debian's archive, and apt-get is not on this system",
            "use a Debian 12 system or container",
        )


def lists_stamp() -> int:
    """Return a number that changes when ``apt-get update`` brought news (mtime, ns)."""
    try:
        return LISTS.stat().st_mtime_ns
    except OSError:
        return 0


def newest_release(names: Iterable[str], series: str) -> str | None:
    """Return the newest kernel release of ``series`` among image package ``names``.

    ``series`` is like ``6.12``; cloud and real-time flavours don't count.
    """
    pattern = re.compile(_IMAGE.format(series=re.escape(series)))
    releases = [match["release"] for name in names if (match := pattern.fullmatch(name))]
    return max(releases, key=release_key, default=None)


def release_key(release: str) -> tuple[int, ...]:
    """Return what orders releases: 6.12.99+deb12 comes before 6.12.117+deb12."""
    return tuple(int(number) for number in re.findall(r"\d+", release))


def kernel_packages(series: str) -> KernelPackages:
    """Ask apt for the newest kernel of ``series``.

    Raises:
        Error: apt is missing or knows no such kernel.
    """
    require()
    search = f"^linux-image-{re.escape(series)}[.].*-amd64-unsigned$"
    names = [
        line.split(" ", 1)[0]
        for line in _ask("apt-cache", "search", "--names-only", search).splitlines()
    ]
    release = newest_release(names, series)
    if release is None:
        raise Error(f"apt knows no Linux {series} image package", _UPDATE)
    image, headers = show([f"linux-image-{release}-unsigned", f"linux-headers-{release}"])
    needed = [_one(headers, r"linux-headers-.*-common"), _one(headers, r"linux-kbuild-.*")]
    common, kbuild = show(needed)
    return KernelPackages(release, image, headers, common, kbuild)


def source_package(series: str, version: str | None = None) -> Package:
    """Return the newest ``linux-source`` package of ``series``, or ``version`` if apt has it.

    Raises:
        Error: apt is missing or knows no such package.
    """
    require()
    name = f"linux-source-{series}"
    if version is not None:
        size = re.search(
            r"^Size: (\d+)$", _ask("apt-cache", "show", f"{name}={version}"), re.MULTILINE
        )
        if size:
            return Package(name, version, int(size[1]), ())
    return show([name])[0]


def download(
    packages: Sequence[Package], folder: Path, progress: Progress, config: Path | None = None
) -> list[Path]:
    """Download ``packages`` into ``folder`` with apt; return the files in the same order.

    ``config`` is a configuration of apt other than the system's.

    Raises:
        Error: apt could not, with what it said.
    """
    require()
    total = sum(package.size_bytes for package in packages)
    what = packages[0].name if len(packages) == 1 else f"{len(packages)} packages"
    command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download"]
    command += [f"{package.name}={package.version}" for package in packages]
    with progress.stage(f"downloading {what} ({total / 1e6:.0f} MB)") as stage:
        child = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(config),
        )
        try:
            while child.poll() is None:
                have = sum(path.stat().st_size for path in folder.glob("*.deb"))
                stage.update(f"{100 * have / total:.0f} %")
                time.sleep(0.2)
        finally:
            child.kill()
            said, _ = child.communicate()
    if child.returncode != 0:
        raise _download_error(what, said)
    return [_file_of(package, folder) for package in packages]


def unpack(deb: Path, folder: Path) -> None:
    """Unpack the files of package ``deb`` below ``folder``.

    Raises:
        Error: the package is damaged.
    """
    done = subprocess.run(
        ["dpkg-deb", "-x", deb, folder], capture_output=True, text=True, env=environment()
    )
    if done.returncode != 0:
        raise Error(f"cannot unpack {deb.name}: {_last_line(done.stderr)}")


def _file_of(package: Package, folder: Path) -> Path:
    # apt writes the colon of an epoch as %3a.
    for path in folder.glob(f"{package.name}_*.deb"):
        if path.name.split("_")[1].replace("%3a", ":") == package.version:
            return path
    raise Error(f"apt-get downloaded no {package.name} {package.version}")


def _download_error(what: str, said: str) -> Error:
    errors = [line[2:].strip() for line in said.splitlines() if line.startswith("E:")]
    text = errors[0] if errors else _last_line(said)
    if "404" in text or "Unable to locate" in text or "was not found" in text:
        return Error(f"apt cannot download {what}: its lists are out of date", _UPDATE)
    return Error(f"apt cannot download {what}: {text}", "is the network there? " + _UPDATE)


def show(names: Sequence[str], config: Path | None = None) -> list[Package]:
    """Return the packages ``names`` in the version that apt would install.

    ``config`` is a configuration of apt other than the system's.

    Raises:
        Error: apt knows no such package.
    """
    text = _ask("apt-cache", "show", "--no-all-versions", *names, config=config)
    found: dict[str, Package] = {}
    for block in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", block, re.MULTILINE))
        if "Package" in fields:
            depends = re.findall(r"(?:^|,|\|)\s*([a-z0-9][a-z0-9.+~-]*)", fields.get("Depends", ""))
            found[fields["Package"]] = Package(
                fields["Package"], fields["Version"], int(fields["Size"]), tuple(depends)
            )
    missing = [name for name in names if name not in found]
    if missing:
        raise Error(f"apt knows no package {missing[0]}", _UPDATE)
    return [found[name] for name in names]


def _one(package: Package, pattern: str) -> str:
    for name in package.depends:
        if re.fullmatch(pattern, name):
            return name
    raise Error(f"{package.name} {package.version} does not name its {pattern}")


def _ask(*command: str, config: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=environment(config))
    # apt-cache show answers for the packages it knows and fails for the others.
    if done.returncode != 0 and not done.stdout:
        if "No packages found" in done.stderr or "Unable to locate" in done.stderr:
            return ""
        raise Error(f"{command[0]} failed: {_last_line(done.stderr)}", _UPDATE)
    return done.stdout


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def environment(config: Path | None = None) -> dict[str, str]:
    """Return the environment that apt and dpkg run in, in one language, asking nothing."""
    chosen = {} if config is None else {"APT_CONFIG": str(config)}
    return {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", **chosen}
