# SPDX-License-Identifier: GPL-2.0-or-later
"""The verdict of ``mlxlab qemu`` as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from mlxlab.vmm import outcome

if TYPE_CHECKING:
    from rich.console import Console

    from mlxlab.vmm.compare import Figure, Row
    from mlxlab.vmm.verdict import Run, Verdict

EXPLANATION = (
    "QEMU sees states and a stream of bytes, the tracer what the driver does with both, the "
    "firmware its commands; each figure that two of them know must be the same. An exclamation "
    "mark after a state: the driver refused it. Of the precopy ioctls each answer was compared; "
    "the sums are shown. Images: initial+middle+final."
)


def overview(run: Run) -> Table:
    """Return a row for each scenario: how it ended, and on how many figures all agree."""
    title = f"QEMU {run.qemu} to QEMU {run.qemu}, on Linux {run.kernel}"
    table = Table(box=box.SIMPLE, title=title, title_justify="left", pad_edge=False)
    for column in ("scenario", "migration", "source VF", "target VF"):
        table.add_column(column, no_wrap=True)
    for column in ("images", "agree"):
        table.add_column(column, no_wrap=True, justify="right")
    for verdict in run.verdicts:
        end = outcome.ended(verdict.result)
        agree = len(verdict.rows) - len(verdict.disagreements)
        table.add_row(
            verdict.scenario.name,
            end.migration,
            end.source_vf,
            end.target_vf,
            verdict.images,
            f"{agree}/{len(verdict.rows)} {'ok' if verdict.good else '!!'}",
        )
    return table


def detail(verdict: Verdict) -> Table:
    """Return the figures of one scenario, a column for each witness."""
    table = Table(
        box=box.SIMPLE,
        title=f"{verdict.scenario.name}: {verdict.scenario.summary}",
        title_justify="left",
        pad_edge=False,
    )
    table.add_column("figure", no_wrap=True)
    for witness in ("QEMU", "tracer", "firmware"):
        table.add_column(witness, justify="right", width=13, overflow="fold")
    table.add_column("")
    for row in verdict.rows:
        verdict_sign = "=" if row.agrees else "!"
        table.add_row(
            row.name, _figure(row.qemu), _figure(row.tracer), _figure(row.firmware), verdict_sign
        )
    return table


def notes(verdict: Verdict) -> list[str]:
    """Return what is to be said below the figures: notes, and all that is wrong."""
    found = [f"{row.name.strip()}: {row.note}" for row in verdict.rows if row.note]
    found += [f"the witnesses disagree on {_name(row)}" for row in verdict.disagreements]
    return found + verdict.surprises


def show(run: Run, console: Console, *, details: bool) -> None:
    """Print the overview, and the figures of the scenarios that are wrong, or of all."""
    for verdict in run.verdicts:
        if details or not verdict.good:
            console.print(detail(verdict))
            for note in notes(verdict):
                console.print(f"  {note}", highlight=False, markup=False)
            console.print()
    console.print(overview(run))
    console.print(EXPLANATION, highlight=False)
    if run.left_out:
        console.print(
            f"The driver has no PRE_COPY, so these were left out: {', '.join(run.left_out)}.",
            highlight=False,
        )
    for name, count in run.losses.items():
        if count:
            console.print(
                f"The trace is not complete: {name}: {count}.", highlight=False, markup=False
            )


def _name(row: Row) -> str:
    figures = (("QEMU", row.qemu), ("tracer", row.tracer), ("firmware", row.firmware))
    said = ", ".join(f"{who} {_figure(figure)}" for who, figure in figures if figure is not None)
    return f"{row.name.strip()}: {said}"


def _figure(value: Figure) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else value
