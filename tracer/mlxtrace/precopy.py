# SPDX-License-Identifier: GPL-2.0-or-later
"""A live trace from start to end: capture, recording, decoding, output."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from genbindings.errors import Error
from mlxtrace import catalogue, host, layout, output, probetable, program
from mlxtrace.capture import Capture, load_bcc
from mlxtrace.catalogue import DRIVER, DRIVERS, VFIO, Probe, select
from mlxtrace.child import Child
from mlxtrace.fentry import Fentry
from mlxtrace.probetable import ProbeState
from mlxtrace.recording import Writer
from mlxtrace.selection import EVERYTHING, Selection
from mlxtrace.sinks import Sinks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import FrameType

    from mlxtrace.events import Meta
    from mlxtrace.live_output import LiveOutput

_POLL_MS = 100
_LATE_NS = 1_000_000_000
"""How long after it happened a record may come: an interval is printed so much later."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for; see ``mlxtrace precopy --help``."""

    devices: tuple[str, ...] = ()
    duration_s: float | None = None
    verbose: bool = False
    as_json: bool = False
    recording: Path | None = None
    ring_pages: int = program.RING_PAGES
    strict: bool = False
    command: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    generic: bool = False
    content: bool = False
    selection: Selection = EVERYTHING
    live: bool = False
    argv: tuple[str, ...] = field(default_factory=lambda: tuple(sys.argv))


def source(options: Options) -> str:
    """Return the BPF program that would run here (``--ebpf``)."""
    host.require_module(VFIO if options.generic else DRIVER)
    probes = select(options.without, generic=options.generic)
    with contextlib.closing(Fentry()) as fentry:
        by_fentry = fentry.usable(probes)
    return program.render(
        probes,
        _layouts(options),
        by_fentry=by_fentry,
        filtered=bool(options.devices),
        content=options.content,
        ring_pages=options.ring_pages,
    )


def dry_run(options: Options, stream: TextIO) -> None:
    """Print each probe with its place on this kernel, after all the checks of a real run."""
    probes = select(options.without, generic=options.generic)
    _check(options)
    layouts = _layouts(options)
    load_bcc()
    with contextlib.closing(Fentry()) as fentry:
        table = _whole([_available(probe, layouts, fentry) for probe in probes], options)
    print(f"layouts from {layouts.source}", file=stream)
    for line in probetable.lines(table):
        print(line, file=stream)


def run(options: Options, stream: TextIO) -> int:
    """Trace until Ctrl-C, SIGTERM, SIGHUP, the end of the duration or of the command.

    A command that still runs then is ended, and traced until it has.

    Returns:
        The exit status: that of the command if it failed, 1 if the recording or the rows could not
        be written to their end, 3 under ``strict`` after a loss, else 0.

    Raises:
        Error: something that tracing needs is missing, or nothing is left to write to.
        BrokenPipeError: nobody reads the rows, and there is no recording.
    """
    probes = select(options.without, generic=options.generic)
    names = [host.require_vf(name, generic=options.generic) for name in options.devices]
    if options.selection.pid is not None and not host.has_process(options.selection.pid):
        raise Error(
            f"there is no process {options.selection.pid} for -p",
            "give the PID that ps shows outside any container (pgrep -a qemu)",
        )
    if options.command and shutil.which(options.command[0]) is None:
        raise Error(f"cannot run {options.command[0]}: there is no such command")
    _check(options)
    layouts = _layouts(options)
    load_bcc()
    capture = Capture(probes, layouts, names, options.ring_pages, content=options.content)
    capture.by_time = options.live or options.selection.interval_ns > 0
    states = _whole(capture.start(), options)
    header = output.new_header(
        clock=host.clocks(),
        layout=layouts.source,
        offsets=layouts.offsets,
        names=names,
        vfs=host.migration_vfs(),
        probes=states,
        command=list(options.argv),
    )
    writer = Writer(options.recording, header) if options.recording else None
    meta = output.meta_of(header)
    status = 0
    with (
        _signals() as stop,
        contextlib.closing(Sinks(writer, lambda: _printer(options, stream, meta), stream)) as sinks,
    ):
        try:
            _announce(names, states, options)
            with _command(options) as command:
                _follow(capture, sinks, options, stop, command)
                status = command.status if command is not None else 0
        finally:
            # Whatever ended it, what was captured is kept.
            chunk, counters = b"", None
            try:
                chunk, counters = capture.stop()
            finally:
                sinks.finish(chunk, counters, host.clocks(), status)
    if status or sinks.failed:
        return status or 1
    return output.STRICT_STATUS if options.strict and not sinks.complete else 0


def _follow(
    capture: Capture, sinks: Sinks, options: Options, stop: list[int], command: Child | None
) -> None:
    """Read the ring until there is a signal in ``stop``, or the time or the command is over."""
    deadline = time.monotonic() + options.duration_s if options.duration_s else None
    late_ns = 0 if options.live else _LATE_NS
    while True:
        # The command's end is looked at first, so that its last records are still read.
        ended = command is not None and command.ended
        sinks.take(capture.poll(_POLL_MS))
        sinks.tick(time.clock_gettime_ns(time.CLOCK_BOOTTIME) - late_ns)
        if ended:
            break
        if stop or (deadline is not None and time.monotonic() >= deadline):
            if command is None:
                break
            command.end()
    if command is not None and command.stuck:
        output.warn(f"{options.command[0]} was killed, and does not end: it is left behind")


def _printer(options: Options, stream: TextIO, meta: Meta) -> output.Output | LiveOutput:
    if options.live:
        from mlxtrace.live_output import LiveOutput

        return LiveOutput(stream, meta, options.selection)
    return output.Output(
        stream,
        meta,
        as_json=options.as_json,
        verbose=options.verbose,
        selection=options.selection,
    )


def _check(options: Options) -> None:
    host.require_privileges()
    host.require_module(VFIO if options.generic else DRIVER)


def _layouts(options: Options) -> layout.Layouts:
    return layout.of_running_core() if options.generic else layout.of_running_module()


def _available(probe: Probe, layouts: layout.Layouts, fentry: Fentry) -> ProbeState:
    symbol, reason = "", layouts.why_not(probe.name)
    if not reason:
        symbol, reason = _place(probe)
    if not symbol:
        return ProbeState.absent(probe, reason)
    why_not = fentry.why_not(probe) if probe.fentry else ""
    how = "fentry" if probe.fentry and not why_not else "kprobe"
    return ProbeState(probe, probetable.AVAILABLE, symbol=symbol, how=how, reason=why_not)


def _place(probe: Probe) -> tuple[str, str]:
    """Return the symbol that the probe can sit on, or "" and why there is none."""
    reason = ""
    if probe.module == DRIVERS:
        return ", ".join(host.places(probe)), host.why_nowhere()[0]
    for symbol in probe.symbols:
        why = host.why_absent(symbol, probe.module)
        if not why:
            return symbol, ""
        reason = reason or why
    return "", reason


def _whole(states: Iterable[ProbeState], options: Options) -> list[dict[str, Any]]:
    """Return the table of all probes, with those that were left out, in the catalogue's order."""
    probes = catalogue.of(generic=options.generic)
    known = {state.probe.name: state for state in states}
    known |= {p.name: ProbeState.left_out(p) for p in probes if p.name in options.without}
    return [known[probe.name].to_json() for probe in probes if probe.name in known]


def _announce(names: list[str], states: list[dict[str, Any]], options: Options) -> None:
    """Say on stderr that tracing runs; stdout has nothing but rows."""
    what = "VFIO migration" if options.generic else "mlx5 VF pre-copy"
    where = ", ".join(names) if names else "all devices" if options.generic else "all VFs"
    count = probetable.attached(states)
    total = len(catalogue.of(generic=options.generic))
    lines = [f"Tracing {what} on {where} ({count}/{total} probes)... Ctrl-C to end."]
    told = list(probetable.told(states, verbose=options.verbose))
    print(*(lines + told if options.verbose else told + lines), sep="\n", file=sys.stderr)
    sys.stderr.flush()


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that end a trace in the list that is yielded, instead of dying of them.

    A terminal that goes away, as with its ssh, sends SIGHUP; nohup lets that be ignored.
    """
    seen: list[int] = []
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    def note(number: int, _frame: FrameType | None) -> None:
        seen.append(number)

    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _command(options: Options) -> Iterator[Child | None]:
    """Run the command of ``-c``, if any.

    With JSON lines on stdout, the command's own stdout goes to stderr: the two must not mix. On
    the terminal of a dashboard it has no place at all.
    """
    if not options.command:
        yield None
        return
    where = subprocess.DEVNULL if options.live else None
    child = Child(options.command, sys.stderr.fileno() if options.as_json else where)
    try:
        yield child
    finally:
        child.close()
