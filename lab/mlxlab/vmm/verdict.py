# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run of the scenarios comes to: the files it left are read and judged, without the VM."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genbindings.errors import Error
from mlxlab.vmm import compare, guest, outcome, qemulog, scenarios, traced
from mlxlab.vmm.compare import Firmware, Row, Side

if TYPE_CHECKING:
    from pathlib import Path

    from mlxlab.vmm.scenarios import Scenario
    from mlxlab.vmm.traced import Recording


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one scenario.

    Attributes:
        scenario: the scenario.
        result: what the guest wrote.
        rows: the figures side by side.
        surprises: in what it did not end as it must.
        unseen: SAVEs whose completion the tracer did not see.
    """

    scenario: Scenario
    result: dict[str, Any]
    rows: list[Row]
    surprises: list[str]

    @property
    def disagreements(self) -> list[Row]:
        """The figures that do not fit together."""
        return [row for row in self.rows if not row.agrees]

    @property
    def good(self) -> bool:
        """Whether it ended as it must, and all witnesses agree."""
        return not self.surprises and not self.disagreements


@dataclass(frozen=True)
class Run:
    """All scenarios of one run.

    Attributes:
        verdicts: one for each scenario, in order.
        skipped: names of scenarios that the driver cannot do.
        losses: what the tracer missed, by name.
    """

    verdicts: list[Verdict]
    skipped: list[str]
    losses: dict[str, int]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong, and the tracer's figures are complete."""
        return all(verdict.good for verdict in self.verdicts) and not any(self.losses.values())


def judge(out: Path) -> Run:
    """Judge what :mod:`mlxlab.vmm.guest` left in ``out``.

    Raises:
        Error: a file is missing or cannot be read.
    """
    recording = traced.read(out / guest.RECORDING)
    verdicts, seens = [], []
    for scenario in scenarios.SCENARIOS:
        folder = out / scenario.name
        if not (folder / guest.RESULT).exists():
            continue
        result = json.loads(_text(folder / guest.RESULT))
        sides = {side: _side(result, folder, recording, side) for side in ("source", "target")}
        seens += [side.seen for side in sides.values()]
        rows = compare.compare(
            result, sides["source"], sides["target"], multifd=sides["target"].told.buffers > 0
        )
        verdicts.append(Verdict(scenario, result, rows, outcome.surprises(scenario, result)))
    skipped = json.loads(_text(out / guest.SKIPPED))
    return Run(verdicts, skipped, traced.loss(recording.lost, seens))


def _side(result: dict[str, Any], folder: Path, recording: Recording, side: str) -> Side:
    begin, end = result["begin"], result["end"]
    return Side(
        qemulog.told(
            _text(folder / f"{side}.log"),
            _text(folder / f"{side}.stderr"),
            begin["realtime_ns"],
            end["realtime_ns"],
        ),
        traced.seen(
            recording.events,
            result[side]["vf"],
            begin["boot_ns"],
            end["boot_ns"],
            result["flushed"]["boot_ns"],
        ),
        Firmware.of(result[side]),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise Error(f"cannot read {path}: {error.strerror}") from None
