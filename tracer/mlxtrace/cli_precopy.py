# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``mlxtrace precopy``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from genbindings.console import CONTEXT, FiniteRange
from genbindings.errors import UsageError
from mlxtrace import cli_display, program

_EPILOG = """\b
Examples:
  mlxtrace precopy                       all mlx5 VFs of this host, until Ctrl-C
  mlxtrace precopy -d 0000:3b:00.2 -v    one VF; with probes and all firmware commands
  mlxtrace precopy -p 8123 -x            only failures, and only of that QEMU
  mlxtrace precopy -i 1                  sums of each second
  mlxtrace precopy 10                    what took 10 ms or longer, and states and failures
  mlxtrace precopy --live                a dashboard that redraws
  mlxtrace precopy --json -w run.mlxrec  for programs, and recorded
  mlxtrace precopy -c "mlxtrace migrate --source 0000:01:00.1 --target 0000:01:00.2"
"""


@click.command("precopy", context_settings=CONTEXT, epilog=_EPILOG)
@click.option("-d", "--device", "devices", multiple=True, metavar="BDF", help="Only this VF.")
@click.option(
    "--duration", type=FiniteRange(0, min_open=True), metavar="S", help="End after S seconds."
)
@click.option("-c", "command_line", metavar="CMD", help="Run CMD, and end when it ends.")
@click.option("-v", "--verbose", is_flag=True, help="Show the probes and every firmware command.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines (docs/events.md).")
@click.option(
    "-w",
    "recording",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Record into FILE, for 'mlxtrace report'.",
)
@click.option("--strict", is_flag=True, help="Exit 3 if anything was lost, or not seen.")
@click.option(
    "--ring-pages",
    type=click.IntRange(1, 1 << 16),
    default=program.RING_PAGES,
    show_default=True,
    metavar="N",
    help="Size of the ring, a power of two.",
)
@click.option(
    "--driver",
    type=click.Choice(["mlx5", "any"]),
    default="mlx5",
    show_default=True,
    help="Trace mlx5 VFs, or what any driver of VFIO migration does.",
)
@click.option("--without", multiple=True, metavar="PROBE", help="Leave an optional probe out.")
@click.option(
    "--content",
    is_flag=True,
    help="Also sum up what is in the streams, so that source and target can be compared.",
)
@click.option("--live", is_flag=True, help="Show a dashboard that redraws, on a terminal.")
@cli_display.options
@click.argument("min_ms", required=False, type=cli_display.MILLISECONDS)
@click.option("--dry-run", is_flag=True, help="List the probes and their places, and exit.")
@click.option("--ebpf", is_flag=True, help="Print the BPF program, and exit.")
def command(
    devices: tuple[str, ...],
    duration: float | None,
    command_line: str | None,
    verbose: bool,
    as_json: bool,
    recording: Path | None,
    strict: bool,
    ring_pages: int,
    driver: str,
    without: tuple[str, ...],
    content: bool,
    dry_run: bool,
    ebpf: bool,
    live: bool,
    pid: int | None,
    interval_s: float | None,
    failures_only: bool,
    min_ms: float | None,
) -> int:
    """Trace live migrations of mlx5 VFs: states, SAVEs, precopy ioctls, reads, ends, LOADs.

    Rows go to stdout, everything else to stderr. TIME is when the thing was over. A closing
    summary for each VF, and what the trace lost, come at the end.

    With MIN_MS, only what took so many milliseconds gets a row; states and failures always do.
    -p, -i, -x and MIN_MS choose what is shown. A recording (-w) and the closing summary have all
    of it, so that 'mlxtrace report' can show the rest later; -d also chooses what is recorded.

    Exit status: 0 done, 1 failed (or that of CMD), 2 usage, 3 with --strict after a loss.
    """
    from mlxtrace import precopy

    if ring_pages & (ring_pages - 1):
        raise UsageError(f"--ring-pages {ring_pages} is not a power of two")
    if command_line is not None and not _words(command_line):
        raise UsageError("-c has no command")
    if ebpf and dry_run:
        raise UsageError("--ebpf and --dry-run exclude each other")
    if recording is not None and (ebpf or dry_run):
        raise UsageError(f"{'--ebpf' if ebpf else '--dry-run'} traces nothing to record with -w")
    if live:
        _require_alone(as_json, interval_s, failures_only, min_ms, verbose, ebpf or dry_run)
    options = precopy.Options(
        devices=devices,
        duration_s=duration,
        verbose=verbose,
        as_json=as_json,
        recording=recording,
        ring_pages=ring_pages,
        strict=strict,
        command=_words(command_line or ""),
        without=without,
        generic=driver == "any",
        content=content,
        live=live,
        selection=cli_display.selection(
            pid=pid, interval_s=interval_s, failures_only=failures_only, min_ms=min_ms
        ),
    )
    if ebpf:
        print(precopy.source(options), end="")
        return 0
    if dry_run:
        precopy.dry_run(options, sys.stdout)
        return 0
    return precopy.run(options, sys.stdout)


def _require_alone(
    as_json: bool,
    interval_s: float | None,
    failures_only: bool,
    min_ms: float | None,
    verbose: bool,
    no_trace: bool,
) -> None:
    """Check that nothing is asked for beside the dashboard, which has no rows to choose from."""
    from mlxtrace.live_output import require_terminal

    for name, given in (
        ("--json", as_json),
        ("-i", interval_s is not None),
        ("-x", failures_only),
        ("min_ms", min_ms is not None),
        ("-v", verbose),
        ("--ebpf or --dry-run", no_trace),
    ):
        if given:
            raise UsageError(
                f"--live and {name} exclude each other", "the dashboard has no rows; -d, -p fit it"
            )
    require_terminal(sys.stdout)


def _words(line: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(line))
    except ValueError as error:
        raise UsageError(f"-c: {line!r} is not shell words: {error}") from None
