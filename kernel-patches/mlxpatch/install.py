# SPDX-License-Identifier: GPL-2.0-or-later
"""Put built modules in front of a host's own, and take them away again.

The modules go to ``/lib/modules/RELEASE/updates/mlxtrace``, which depmod prefers to the kernel's
own; those stay where they are. Either everything is in place afterwards or nothing has changed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxpatch import cache, modinfo
from mlxpatch.host import DRIVER, Host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlxpatch.modinfo import Module

PLACE = "updates/mlxtrace"
_NOTE = "mlxpatch.json"


@dataclass(frozen=True)
class State:
    """A module of ours, or the driver where there is none of ours.

    Attributes:
        name: with underscores.
        file: what modprobe would load, None for nothing.
        ours: whether that is a module that :func:`install` put there.
        loaded: whether a module of this name is loaded.
        current: whether the loaded one is that file; None where it cannot be told.
    """

    name: str
    file: Path | None
    ours: bool
    loaded: bool
    current: bool | None


def installed(host: Host, release: str) -> list[str]:
    """Return the names of the modules that :func:`install` put in place.

    Raises:
        Error: there is no such kernel.
    """
    folder = host.modules(release) / PLACE
    return sorted(path.stem.replace("-", "_") for path in folder.glob("*.ko"))


def install(host: Host, release: str, modules: Sequence[Path]) -> list[Module]:
    """Put ``modules`` in front of those of the kernel ``release``; return them.

    Raises:
        Error: a VF is in use, a module is for another kernel, or modprobe would not load it;
            then everything is as it was.
    """
    found = [modinfo.read(path) for path in modules]
    if not found:
        raise Error("there are no modules to install", "mlxpatch build makes them")
    for module in found:
        if module.release != release:
            raise Error(
                f"{module.path} is for kernel {module.release}, not {release}",
                f"mlxpatch build --kernel {release}, or install --kernel {module.release}",
            )
    folder = host.modules(release) / PLACE
    _writable(host, release)
    refuse_if_used(host)
    with cache.writing(folder):
        folder.parent.mkdir(exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".mlxtrace-", dir=folder.parent))
        try:
            new.chmod(0o755)
            for module in found:
                shutil.copyfile(module.path, new / module.path.name)
            note = {"release": release, "build_ids": {each.name: each.build_id for each in found}}
            (new / _NOTE).write_text(json.dumps(note, indent=2) + "\n")
            _exchange(host, release, folder, new, [module.name for module in found])
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return found


def uninstall(host: Host, release: str) -> list[str]:
    """Take away what :func:`install` put in place; return the names of the modules.

    Raises:
        Error: a VF is in use, or depmod failed; then everything is as it was.
    """
    names = installed(host, release)
    folder = host.modules(release) / PLACE
    if not folder.exists():
        return []
    _writable(host, release)
    refuse_if_used(host)
    with cache.writing(folder):
        _exchange(host, release, folder, None, ())
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()
    return names


def _writable(host: Host, release: str) -> None:
    folder = host.modules(release)
    if not os.access(folder, os.W_OK):
        raise Error(f"{folder} cannot be written", "run it as root")


def _exchange(
    host: Host, release: str, folder: Path, new: Path | None, names: Sequence[str]
) -> None:
    """Put ``new`` (None: nothing) where ``folder`` is, and see that modprobe takes it."""
    with tempfile.TemporaryDirectory(prefix="mlxpatch-") as aside:
        # depmod looks into every folder of the kernel, so the old modules have to be elsewhere.
        old = Path(aside) / "old"
        had = folder.exists()
        if had:
            shutil.copytree(folder, old)
            shutil.rmtree(folder)
        try:
            if new is not None:
                new.rename(folder)
            host.depmod(release)
            _see_chosen(host, release, folder, names)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            if had:
                shutil.copytree(old, folder)
            host.depmod(release)
            raise


def _see_chosen(host: Host, release: str, folder: Path, names: Sequence[str]) -> None:
    chosen = host.chosen(release)
    for name in names:
        file = chosen.get(name)
        if file is None or file.parent != folder:
            where = f"{file} is preferred" if file else "depmod does not list it"
            raise Error(
                f"modprobe would not load the new {name}: {where}",
                "remove that one (dkms remove), or let depmod.d(5) search 'updates' first",
            )


def refuse_if_used(host: Host) -> None:
    """Raise an :class:`Error` if a VF of the driver is in use.

    Raises:
        Error: with who uses it.
    """
    vfs, users = host.vfs(), host.users()
    if vfs and users:
        user = users[0]
        more = f", and {len(users) - 1} more" if len(users) > 1 else ""
        raise Error(
            f"a VF is in use: {user.command} (process {user.pid}) has {user.what} open{more}; "
            f"{DRIVER} drives {', '.join(vfs)}",
            "end the virtual machine first, or migrate it away",
        )
    if host.references(DRIVER):
        raise Error(
            f"{DRIVER} is in use ({host.references(DRIVER)} references)",
            "end what uses its VFs first: virtual machines, open migration files",
        )


def status(host: Host, release: str) -> list[State]:
    """Return the state of the driver and of every module of ours.

    Raises:
        Error: there is no such kernel.
    """
    ours = set(installed(host, release))
    chosen = host.chosen(release)
    folder = host.modules(release) / PLACE
    states = []
    for name in sorted(ours | {DRIVER, "vfio"}):
        file = chosen.get(name)
        loaded = host.is_loaded(name)
        running = host.loaded_build_id(name)
        current = None
        if loaded and running and file is not None:
            current = modinfo.read(file).build_id == running
        states.append(
            State(name, file, file is not None and file.parent == folder, loaded, current)
        )
    return states
