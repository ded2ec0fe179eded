# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxpatch compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mlxpatch import compare as comparer
from mlxpatch import drivers
from mlxpatch.cli_common import (
    console,
    json_option,
    print_json,
    quiet_option,
    table,
    target,
    target_options,
)
from mlxpatch.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from mlxpatch.compare import Change, Comparison


@click.command("compare")
@click.argument("old")
@click.argument("new")
@target_options
@click.option("--patches", "show_patches", is_flag=True, help="Show how the patches differ.")
@json_option
@quiet_option
def command(
    old: str,
    new: str,
    kernel: str | None,
    headers: Path | None,
    source: Path | None,
    show_patches: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare the revisions OLD and NEW of a series, side by side.

    Each is a folder of patches, an mbox, a tarball, a patch, a git range, or `stock` for the
    kernel's own drivers. Both are applied to the same sources and built for the same kernel:
    patch by patch (range-diff), uapi headers and mlx5_ifc.h, exported symbols, functions that
    mlxtrace probes, layouts of the drivers' structs, sizes of the modules.
    """
    progress = Progress("mlxpatch", quiet=quiet or as_json)
    goal = target(kernel, headers, source, progress)
    with (
        drivers.prepared(old, goal.source, progress) as before,
        drivers.prepared(new, goal.source, progress) as after,
    ):
        found = comparer.compare(before, after, goal, progress)
    if as_json:
        print_json(found.document())
    else:
        _show(found, show_patches)


def _show(found: Comparison, show_patches: bool) -> None:
    out = console()
    out.print(f"{found.old} and {found.new}, on Linux {found.kernel}\n", markup=False)
    _patches(out, found, show_patches)
    for name, changes in found.headers.items():
        _changes(out, name, changes)
    _changes(out, "Exported symbols", found.exports)
    probes = [
        (each.probe, each.symbol, each.old, each.new)
        for each in found.probes
        if each.old != each.new or each.loses
    ]
    if probes:
        out.print(table("Probes of mlxtrace", ("probe", "function", "old", "new"), probes))
    else:
        out.print("Probes of mlxtrace: all in place in both.\n")
    _changes(out, "Structs of the drivers", found.structs)
    rows = [
        (each.module, _number(each.old), _number(each.new), _delta(each.old, each.new))
        for each in found.sizes
    ]
    out.print(table("Bytes in memory", ("module", "old", "new", ""), rows))


def _patches(out: Console, found: Comparison, show_patches: bool) -> None:
    rows = [(pair.old or "-", pair.new or "-", pair.kind, pair.subject) for pair in found.patches]
    if rows:
        out.print(table("Patches", ("old", "new", "", "subject"), rows))
    for pair in found.patches if show_patches else ():
        if pair.diff:
            out.print(f"{pair.subject}\n{pair.diff}\n", markup=False, soft_wrap=True)


def _changes(out: Console, title: str, changes: list[Change]) -> None:
    if not changes:
        out.print(f"{title}: no difference.\n", markup=False)
        return
    rows = [(each.kind, each.name, each.detail) for each in changes]
    out.print(table(title, ("", "what", ""), rows))


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _delta(old: int | None, new: int | None) -> str:
    return "" if old is None or new is None else f"{new - old:+,}"
