# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxlab demo``: one migration in the lab, seen by the client and by the tracer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from genbindings.errors import Error
from mlxtrace import agreement

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from mlxtrace.agreement import Figure, Row

RECORDING = "demo.mlxrec"
CLIENT = "client.json"

# Runs in the guest: a real pre-copy migration between the lab's first two VFs, under the tracer.
COMMAND = (
    'exec mlxtrace precopy -d "$MLXLAB_VF0" -d "$MLXLAB_VF1" '
    f'-w "$MLXLAB_OUT/{RECORDING}" '
    '-c "mlxtrace migrate --source $MLXLAB_VF0 --target $MLXLAB_VF1 '
    f'--json $MLXLAB_OUT/{CLIENT}"'
)

INTRODUCTION = (
    "A VF of the lab migrates to another one with PRE_COPY while the tracer watches. The kernel, "
    "the VFIO core, the IOMMU and mlx5-vfio-pci are real; the firmware is simulated."
)

EXPLANATION = (
    "How to read it. Above, each row is an event: STATE is an arc of the migration state machine, "
    "SAVE and LOAD are firmware commands with the size of their image, split into waiting for the "
    "SAVE before and the firmware's own time; INFO is the precopy ioctl (what is left to read), "
    "READ and WRITE are the stream between two events, END says why a read gave nothing. The table "
    "puts what the client did beside what the kernel was seen to do: two witnesses that know "
    "nothing of each other must agree."
)


def show(out: Path, console: Console) -> bool:
    """Print what both witnesses say of the migration in ``out``; return whether they agree.

    Raises:
        Error: a file of the migration is missing or cannot be read.
    """
    try:
        client = json.loads((out / CLIENT).read_text())
    except (OSError, ValueError) as error:
        raise Error(f"the client left no summary in {out / CLIENT}: {error}") from None
    rows = agreement.compare(client, agreement.traced_events(out / RECORDING))
    console.print(table(rows))
    console.print(EXPLANATION, highlight=False)
    bad = [row.name.strip() for row in rows if not row.agrees]
    if bad:
        console.print(f"They disagree on: {', '.join(bad)}.", highlight=False)
    else:
        console.print(
            f"They agree on all {len(rows)} figures. The recording: {out / RECORDING}\n"
            f"Again, without the lab: mlxtrace report {out / RECORDING}",
            highlight=False,
            soft_wrap=True,
        )
    return not bad


def table(rows: list[Row]) -> Table:
    """Return ``rows`` as a table of at most 100 columns."""
    result = Table(
        title="The client and the tracer, side by side", title_justify="left", box=box.SIMPLE
    )
    result.add_column("figure", no_wrap=True)
    result.add_column("client", justify="right", max_width=24)
    result.add_column("tracer", justify="right", max_width=24)
    result.add_column("")
    for row in rows:
        verdict = "=" if row.agrees else "!"
        result.add_row(row.name, _figure(row.client), _figure(row.tracer), verdict)
    return result


def _figure(value: Figure) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return " ".join(f"{each:,}" for each in value)
    return f"{value:,}" if isinstance(value, int) else value
