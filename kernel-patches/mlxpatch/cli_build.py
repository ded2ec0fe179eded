# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxpatch build``."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from genbindings.errors import UsageError
from mlxpatch import cache, drivers, modinfo, survey, symvers
from mlxpatch.cli_common import (
    FILE,
    OUTPUT,
    console,
    json_option,
    print_json,
    quiet_option,
    table,
    target,
    target_options,
    whole_option,
)
from mlxpatch.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlxpatch.build import Built
    from mlxpatch.drivers import Target


@dataclass(frozen=True)
class Outcome:
    """What a build means for the host: probes, and modules that it locks out."""

    modules: tuple[Path, ...]
    probes: list[survey.Target]
    refused: list[symvers.Refused] | None  # None: the kernel's own modules are not here
    remarks: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "modules": [str(path) for path in self.modules],
            "probes": [
                {
                    "probe": each.probe,
                    "symbol": each.symbol,
                    "module": each.module,
                    "state": each.state,
                    "detail": each.detail,
                }
                for each in self.probes
            ],
            "refused": None
            if self.refused is None
            else [
                {
                    "module": each.name,
                    "path": str(each.path),
                    "changed": list(each.changed),
                    "missing": list(each.missing),
                }
                for each in self.refused
            ],
            "remarks": list(self.remarks),
        }


@click.command("build")
@click.argument("series", required=False)
@click.option("--stock", is_flag=True, help="Build the kernel's own drivers, unpatched.")
@whole_option
@target_options
@click.option("-o", "--output", metavar="DIR", required=True, type=OUTPUT)
@click.option(
    "--symvers",
    "symvers_",
    multiple=True,
    metavar="FILE",
    type=FILE,
    help="Module.symvers of other modules that the driver is to be linked with.",
)
@json_option
@quiet_option
def command(
    series: str | None,
    stock: bool,
    whole: bool,
    kernel: str | None,
    headers: Path | None,
    source: Path | None,
    output: Path,
    symvers_: tuple[Path, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Build the VFIO drivers with SERIES applied, against a distribution kernel's headers.

    SERIES is a folder of patches, an mbox, a tarball, a patch, or a git range. A series inside
    drivers/vfio/pci/mlx5 gets that driver alone; others all of drivers/vfio. Headers that it
    changes take precedence over the kernel's.

    Headers are looked for in /lib/modules/RELEASE/build and in the cache; sources in the cache,
    and with apt in the distribution's archive. The modules, their Module.symvers and the build's
    log are put into the output folder. What is printed after their names says which functions
    that mlxtrace probes are in them, and which modules of the kernel would refuse to load with
    them.
    """
    if series is None and not stock:
        raise UsageError("nothing to build: give SERIES or --stock")
    if series is not None and stock:
        raise UsageError("give SERIES or --stock, not both")
    progress = Progress("mlxpatch", quiet=quiet or as_json)
    goal = target(kernel, headers, source, progress)
    with drivers.prepared(series, goal.source, progress, whole=whole) as prepared:
        built = drivers.built(prepared, goal, progress, symvers_)
        remarks = prepared.remarks
    modules = _deliver(built, output)
    if quiet and not as_json:
        for module in modules:
            click.echo(module)
        return
    outcome = Outcome(modules, survey.probes(modules), _refused(built, goal, modules), remarks)
    if as_json:
        print_json(outcome.document())
    else:
        _show(outcome)


def _deliver(built: Built, output: Path) -> tuple[Path, ...]:
    with cache.writing(output):
        output.mkdir(parents=True, exist_ok=True)
        # A module of an earlier build must not be installed along with these.
        for old in output.glob("*.ko") if (output / built.log.name).exists() else ():
            old.unlink()
        for path in (*built.modules, built.symvers, built.log):
            shutil.copy2(path, output / path.name)
    return tuple(output / path.name for path in built.modules)


def _refused(built: Built, goal: Target, modules: Sequence[Path]) -> list[symvers.Refused] | None:
    if goal.modules is None:
        return None
    stock = symvers.read(goal.headers / "Module.symvers")
    names = [modinfo.read(path).name for path in modules]
    return symvers.refused(symvers.read(built.symvers), names, stock, goal.modules)


def _show(outcome: Outcome) -> None:
    for module in outcome.modules:
        click.echo(module)
    out = console()
    rows = [(each.probe, each.symbol, each.state, each.detail) for each in outcome.probes]
    out.print()
    out.print(table("Probes of mlxtrace", ("probe", "function", "state", ""), rows))
    lost = [probe for probe in outcome.probes if not probe.works]
    if lost:
        out.print("What is lost with a probe that does not work:")
        for probe in lost:
            out.print(f"  {probe.probe}: {probe.loses}", markup=False)
        out.print()
    out.print(_verdict(outcome.refused), markup=False)
    for each in outcome.refused or []:
        for words, symbols in (("other CRC", each.changed), ("gone", each.missing)):
            if symbols:
                out.print(f"  {each.name}: {words}: {', '.join(symbols)}", markup=False)
    for remark in outcome.remarks:
        out.print(f"Note: {remark}.", markup=False)


def _verdict(refused: list[symvers.Refused] | None) -> str:
    if refused is None:
        return "The kernel's own modules are not here: not known which ones would still load."
    if not refused:
        return "Every other module of this kernel still loads with these."
    plural = "s" if len(refused) > 1 else ""
    return f"{len(refused)} other module{plural} of this kernel would no longer load with these:"
