# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxpatch install``, ``uninstall`` and ``status``."""

from __future__ import annotations

import platform
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import click

from genbindings.errors import Error
from mlxpatch import install as installer
from mlxpatch.cli_common import FOLDER, console, json_option, print_json, table
from mlxpatch.host import DRIVER, Host
from mlxpatch.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mlxpatch.modinfo import Module

# Where Debian's dkms keeps the key that it signs modules with.
_KEY = "var/lib/dkms/mok"
_UNLOAD = (
    DRIVER,
    "vfio_pci",
    "vfio_pci_core",
    "vfio_iommu_type1",
    "mdev",
    "vfio",
    "vfio_virqfd",
)


def _host_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--root",
            metavar="DIR",
            type=FOLDER,
            default="/",
            help="The file system of another host, a mounted image say.",
        ),
        click.option(
            "--kernel", metavar="RELEASE", help="Kernel release. Default: the running one."
        ),
    ):
        command = option(command)
    return command


_initramfs = click.option(
    "--initramfs/--no-initramfs",
    default=True,
    show_default=True,
    help="Make the initramfs anew, where there is one.",
)


@click.command("install")
@click.argument("modules", type=FOLDER)
@_host_options
@_initramfs
def install(modules: Path, kernel: str | None, root: Path, initramfs: bool) -> None:
    """Install the modules in the folder MODULES, which mlxpatch build made, on this host.

    They go to /lib/modules/RELEASE/updates/mlxtrace and are preferred from then on; the
    distribution's stay where they are, and mlxpatch uninstall goes back to them. Refused while a
    virtual machine uses a VF of the driver.
    """
    progress = Progress("mlxpatch")
    host, release = Host(root.resolve()), kernel or platform.release()
    found = installer.install(host, release, sorted(modules.glob("*.ko")))
    for module in found:
        click.echo(host.modules(release) / installer.PLACE / module.path.name)
    if initramfs:
        _make_initramfs(host, release, progress)
    _hint_signing(host, release, found, progress)
    _hint_loaded(host, release, progress)
    progress.note("the way back: mlxpatch uninstall")


@click.command("uninstall")
@_host_options
@_initramfs
def uninstall(kernel: str | None, root: Path, initramfs: bool) -> None:
    """Remove what mlxpatch install put in place: the distribution's modules are used again.

    Refused while a virtual machine uses a VF of the driver.
    """
    progress = Progress("mlxpatch")
    host, release = Host(root.resolve()), kernel or platform.release()
    names = installer.uninstall(host, release)
    if not names:
        progress.note(f"nothing of mlxpatch is installed for {release}")
        return
    for name in names:
        file = host.chosen(release).get(name)
        click.echo(f"{name}: {file or 'this kernel has none of its own'}")
    if initramfs:
        _make_initramfs(host, release, progress)
    _hint_loaded(host, release, progress)


@click.command("status")
@_host_options
@json_option
def status(kernel: str | None, root: Path, as_json: bool) -> None:
    """Say which modules this host would load, which are loaded, and which VFs are in use."""
    host, release = Host(root.resolve()), kernel or platform.release()
    states = installer.status(host, release)
    vfs, users = host.vfs(), host.users()
    if as_json:
        print_json(
            {
                "release": release,
                "modules": [
                    {
                        "name": state.name,
                        "file": str(state.file) if state.file else None,
                        "ours": state.ours,
                        "loaded": state.loaded,
                        "current": state.current,
                    }
                    for state in states
                ],
                "vfs": vfs,
                "users": [
                    {"pid": user.pid, "command": user.command, "open": user.what} for user in users
                ],
            }
        )
        return
    out = console()
    folder = host.modules(release)
    rows = [
        (
            state.name,
            "ours" if state.ours else "the host's" if state.file else "none",
            state.file.relative_to(folder) if state.file else "",
            _loaded(state),
        )
        for state in states
    ]
    out.print(table(f"Linux {release}", ("module", "whose", "file", "loaded"), rows))
    out.print(f"VFs of {DRIVER}: {', '.join(vfs) or 'none'}", markup=False)
    for user in users:
        out.print(f"in use: {user.command} ({user.pid}) has {user.what} open", markup=False)


def _loaded(state: installer.State) -> str:
    if not state.loaded:
        return "no"
    return {True: "yes", False: "another one", None: "yes (which one is not known)"}[state.current]


def _make_initramfs(host: Host, release: str, progress: Progress) -> None:
    command = host.initramfs(release)
    if command is None:
        return
    if not host.live:
        progress.note(f"make its initramfs anew there: {' '.join(command)}")
        return
    tool = shutil.which(command[0], path="/usr/sbin:/usr/bin:/sbin:/bin")
    if tool is None:
        progress.note(f"{command[0]} is missing: the initramfs keeps the modules that it has")
        return
    with progress.stage("making the initramfs anew"):
        done = subprocess.run([tool, *command[1:]], capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Error(
            f"{command[0]} failed: {said[-1] if said else done.returncode}",
            "the modules are in place; run it again once that is mended",
        )


def _hint_signing(host: Host, release: str, found: Sequence[Module], progress: Progress) -> None:
    unsigned = [module.path.name for module in found if not module.signed]
    if not unsigned or not host.secure_boot():
        return
    key = host.root / _KEY
    progress.note(
        f"Secure Boot is on, and {len(unsigned)} modules are not signed: the kernel will refuse "
        "them. Sign each, in place:"
    )
    place = f"/lib/modules/{release}"
    tool = f"{place}/build/scripts/sign-file"
    progress.note(
        f"  for m in {place}/{installer.PLACE}/*.ko; do {tool} sha256 {key}.key {key}.pub $m; done"
    )
    if not key.with_suffix(".key").exists():
        progress.note("  (mlxpatch dkms and dkms do that by themselves; dkms makes the key)")
    progress.note(f"  and enrol the key once: mokutil --import {key}.pub, then reboot")


def _hint_loaded(host: Host, release: str, progress: Progress) -> None:
    old = [state.name for state in installer.status(host, release) if state.current is False]
    if old:
        # What uses the others goes first.
        order = sorted(old, key=lambda name: _UNLOAD.index(name) if name in _UNLOAD else -1)
        progress.note(f"loaded are still the earlier ones of {', '.join(old)}: reboot, or")
        progress.note(f"  modprobe -r {' '.join(order)}; modprobe {DRIVER}")
