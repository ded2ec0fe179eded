# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run of the scenarios comes to: the files it left are read and judged, without the VM."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genbindings.errors import Error
from mlxlab.vmm import compare, guest, outcome, qemulog, scenarios, timeline, traced
from mlxlab.vmm.compare import Firmware, Row, Side

if TYPE_CHECKING:
    from pathlib import Path

    from mlxlab.vmm.scenarios import Scenario
    from mlxlab.vmm.traced import Recording

_SIDES = ("source", "target")


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one scenario.

    Attributes:
        scenario: the scenario.
        result: what the guest wrote.
        rows: the figures side by side.
        images: initial, middle and final images, as the tracer counted them.
        read_bytes: bytes read from the source's VF.
        timeline: all three witnesses' words, in the order of time.
        surprises: in what it did not end as it must.
    """

    scenario: Scenario
    result: dict[str, Any]
    rows: list[Row]
    surprises: list[str]
    images: str
    read_bytes: int
    timeline: str

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
        qemu, kernel: their versions.
        left_out: names of scenarios that the driver cannot do.
        losses: what the tracer missed, by name.
    """

    verdicts: list[Verdict]
    qemu: str
    kernel: str
    left_out: list[str]
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
    about = json.loads(_text(out / guest.ABOUT))
    # Only this run's: the folder may be one that was used before.
    known = scenarios.by_name()
    verdicts = [_verdict(known[name], out / name, recording) for name in about.pop("scenarios")]
    return Run(verdicts, **about, losses=traced.loss(recording.lost))


def _verdict(scenario: Scenario, folder: Path, recording: Recording) -> Verdict:
    result = json.loads(_text(folder / guest.RESULT))
    logs = {
        side: (_text(folder / f"{side}.log"), _text(folder / f"{side}.stderr")) for side in _SIDES
    }
    source, target = (_side(result, logs[side], recording, side) for side in _SIDES)
    kinds = source.seen.kinds
    return Verdict(
        scenario,
        result,
        compare.compare(scenario, result, source, target),
        outcome.surprises(scenario, result),
        "+".join(str(kinds.get(kind, 0)) for kind in ("initial", "middle", "final")),
        source.seen.read_bytes,
        timeline.timeline(result, logs, recording),
    )


def _side(result: dict[str, Any], logs: tuple[str, str], recording: Recording, side: str) -> Side:
    begin, end = result["begin"], result["end"]
    return Side(
        qemulog.told(*logs, begin["realtime_ns"], end["realtime_ns"]),
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
