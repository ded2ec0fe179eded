# SPDX-License-Identifier: GPL-2.0-or-later
"""The live end of the record stream: compiles the program, attaches it, reads its ring.

The only module that imports bcc.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
import tempfile
import time
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from genbindings.errors import Error
from mlxtrace import bccerrors, bccheaders, counters, host, program, records
from mlxtrace.calls import CallCounts, Calls, unowned
from mlxtrace.catalogue import DRIVERS, NUMBERS, Probe
from mlxtrace.counters import Counters, ProbeCounts
from mlxtrace.fentry import Fentry, RefusedError
from mlxtrace.flows import Flows, own_record
from mlxtrace.kprobe import Attacher, Attachment, is_absent
from mlxtrace.opencalls import open_calls
from mlxtrace.probetable import ATTACHED, ProbeState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from types import ModuleType

    from mlxtrace.layout import Layouts

_QUIET_TRIES = 20
# What a session may end with.
_MAY_END = (records.Kind.SET_STATE, records.Kind.SESSION_END)
# What is made by the process that a VF belongs to, not by whoever was interrupted.
_ASKED = (records.Kind.STEP, records.Kind.SET_STATE, records.Kind.IOCTL, records.Kind.DATA_SIZE)


def load_bcc() -> ModuleType:
    """Import bcc.

    Raises:
        Error: it is not installed, invisible from this environment, broken, or too old.
    """
    try:
        import bcc
    except (ImportError, OSError, AttributeError) as error:
        raise bccerrors.not_imported(error) from None
    if not hasattr(bcc, "BPF"):
        raise bccerrors.not_bcc(bcc)
    if not hasattr(bcc.BPF, "ring_buffer_poll"):
        raise bccerrors.too_old(bcc)
    module: ModuleType = bcc
    return module


def rehearse(probes: Sequence[Probe], layouts: Layouts) -> int:
    """Compile the program and have the kernel verify it, without attaching anything.

    Returns:
        The number of programs that the kernel took.

    Raises:
        Error: bcc or the kernel refused; the message says what to do.
    """
    bcc = load_bcc()
    with contextlib.closing(Fentry()) as fentry:
        by_fentry = fentry.usable(probes)
        try:
            return _rehearse(bcc, probes, layouts, fentry, by_fentry)
        except RefusedError:
            return _rehearse(bcc, probes, layouts, fentry, frozenset())


def _rehearse(
    bcc: ModuleType,
    probes: Sequence[Probe],
    layouts: Layouts,
    fentry: Fentry,
    by_fentry: frozenset[str],
) -> int:
    bpf = _compile(bcc, program.render(probes, layouts, by_fentry=by_fentry))
    number = 0
    for probe in probes:
        if layouts.why_not(probe.name):
            continue
        if probe.name in by_fentry:
            for descriptor in _load_for_fentry(bpf, fentry, probe):
                os.close(descriptor)
                number += 1
            continue
        for name in probe.programs:
            _load(bcc, bpf, name)
            number += 1
    return number


class Capture:
    """A running trace.

    Args:
        probes: what to attach.
        layouts: the driver's offsets.
        devices: names of the devices to trace, all if empty.
        ring_pages: size of the ring.
        content: whether to look at the streams' bytes.

    Attributes:
        by_time: whether :meth:`poll` also tells how far streams are that go on without a record.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        layouts: Layouts,
        devices: Collection[str] = (),
        ring_pages: int = program.RING_PAGES,
        *,
        content: bool = False,
    ) -> None:
        self._probes = probes
        self._layouts = layouts
        self._devices = devices
        self._ring_pages = ring_pages
        self._content = content
        self._attached: dict[str, list[Attachment]] = {}
        self._attacher: Attacher | None = None
        self._fentry = Fentry()
        self._no_fentry = ""
        self._bpf: Any = None
        self._flows: Flows | None = None
        self._calls: Calls | None = None
        self._chunks: list[bytes] = []
        self._processes: set[int] = set()
        self._lost = 0
        self._armed_ns = 0
        self.by_time = False

    def start(self) -> list[ProbeState]:
        """Compile, load, attach; return what became of each probe.

        Raises:
            Error: something is missing; the message says what to do.
        """
        bcc = load_bcc()
        self._attacher = Attacher()
        with contextlib.closing(self._fentry):
            try:
                states = self._install(bcc, self._fentry.usable(self._probes))
            except RefusedError as error:
                # A kernel whose BTF promises more than it can do.
                self._no_fentry = str(error)
                self._detach()
                states = self._install(bcc, frozenset())
        self._armed_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        control = self._bpf["control"]
        control[ctypes.c_int(0)] = control.Leaf(self._armed_ns)
        return states

    def _install(self, bcc: ModuleType, by_fentry: frozenset[str]) -> list[ProbeState]:
        """Compile, load, attach, those in ``by_fentry`` so; raises RefusedError as well."""
        text = program.render(
            self._probes,
            self._layouts,
            by_fentry=by_fentry,
            filtered=bool(self._devices),
            content=self._content,
            ring_pages=self._ring_pages,
        )
        self._bpf = _compile(bcc, text)
        for name in self._devices:
            table = self._bpf["wanted_names"]
            key = table.Key()
            words = records.name_values(name)
            for index in range(len(key.word)):
                key.word[index] = words[index]
            table[key] = table.Leaf(1)
        self._flows = Flows(self._bpf["places"], self._bpf["devices"])
        self._calls = Calls(self._bpf)
        self._bpf["events"].open_ring_buffer(self._receive)
        return [self._attach(bcc, probe, by_fentry) for probe in self._probes]

    def poll(self, timeout_ms: int) -> bytes:
        """Wait for records for at most ``timeout_ms``; return what came, whole records."""
        self._bpf.ring_buffer_poll(timeout_ms)
        lost = self._counter(counters.LOST)
        if lost > self._lost:
            self._lost = lost
            self._chunks.append(own_record(records.Kind.LOST, 0, (lost,)))
        if self.by_time:
            self._chunks.extend(self._require_flows().flowing())
        chunk = b"".join(self._chunks)
        self._chunks.clear()
        return chunk

    def stop(self) -> tuple[bytes, Counters]:
        """Count, detach, and return the last records with the counters."""
        result = self._count()
        self._detach()
        self._bpf.ring_buffer_consume()
        flows, calls = self._require_flows(), self._require_calls()
        self._chunks.extend((*flows.rest(), *open_calls(calls, flows, self._armed_ns)))
        self.by_time = False
        return self.poll(0), result

    def _detach(self) -> None:
        for attachments in self._attached.values():
            for attachment in attachments:
                self._require_attacher().detach(attachment)
        self._attached.clear()

    def _receive(self, _context: object, data: int, _size: int) -> int:
        # The ring rounds sizes up to 8; a record is 128.
        chunk = ctypes.string_at(data, records.SIZE)
        kind = records.kind_of(chunk)
        if kind == records.Kind.STACK:
            self._chunks.extend(self._frames(records.unpack(chunk)))
            return 0
        self._chunks.append(chunk)
        if kind in _ASKED:
            self._processes.add(records.process_of(chunk))
        if kind in _MAY_END:
            self._chunks.extend(self._require_flows().after(records.unpack(chunk)))
            self._require_calls().forget_threads()
        elif kind == records.Kind.DEVICE:
            self._require_flows().named(records.unpack(chunk))
        return 0

    def _frames(self, raw: records.Raw) -> Iterator[bytes]:
        """Name the functions of a stack, while the kernel that they are in runs."""
        for address in raw.value:
            if not address:
                return
            name = self._bpf.ksym(address, show_module=True, show_offset=True)
            value = records.frame_values(name.decode(errors="replace"))
            yield records.pack(raw._replace(kind=records.Kind.FRAME, value=value))

    def _attach(self, bcc: ModuleType, probe: Probe, by_fentry: frozenset[str]) -> ProbeState:
        if lacks := self._layouts.why_not(probe.name):
            return ProbeState.absent(probe, lacks)
        if probe.name in by_fentry:
            return self._attach_by_fentry(probe)
        programs = [_load(bcc, self._bpf, name) for name in probe.programs]
        problem = ""
        places = []
        for symbol in host.places(probe):
            if why := self._attach_to(probe, programs, symbol):
                problem = problem or why
                continue
            places.append(symbol)
            if probe.module != DRIVERS:
                break
        if places:
            reason = ""
            if probe.fentry:
                reason = self._no_fentry or self._fentry.why_not(probe)
            return ProbeState(
                probe, ATTACHED, symbol=", ".join(places), how="kprobe", reason=reason
            )
        if probe.required:
            raise Error(
                f"the probe {probe.name} has no place: {probe.symbols[0]} is {problem}",
                f"without it {probe.loses}",
            )
        return ProbeState.absent(probe, problem or host.why_nowhere()[0])

    def _attach_to(self, probe: Probe, programs: Sequence[int], symbol: str) -> str:
        """Attach to the entry, or entry and return, of one function; return why not, or ""."""
        attacher = self._require_attacher()
        done: list[Attachment] = []
        try:
            for descriptor, at_return in zip(programs, probe.sides, strict=True):
                done.append(attacher.attach(descriptor, symbol, at_return=at_return))
        except OSError as error:
            for attachment in done:
                attacher.detach(attachment)
            if error.errno in (errno.EPERM, errno.EACCES):
                reason, hint = host.why_refused()
                raise Error(f"the kernel refuses a probe on {symbol}: {reason}", hint) from None
            if not is_absent(error):
                raise Error(
                    f"the kernel refuses a probe on {symbol}: {error.strerror}",
                    "dmesg may say more",
                ) from None
            return host.why_absent(symbol, probe.module) or "refused by the kernel"
        self._attached.setdefault(probe.name, []).extend(done)
        return ""

    def _attach_by_fentry(self, probe: Probe) -> ProbeState:
        done = self._attached.setdefault(probe.name, [])
        descriptors = _load_for_fentry(self._bpf, self._fentry, probe)
        for number, descriptor in enumerate(descriptors):
            name = probe.fentry_programs[number]
            try:
                link = self._fentry.attach(descriptor, name, at_return=probe.sides[number])
            except RefusedError:
                for rest in descriptors[number:]:
                    os.close(rest)
                raise
            done.append(Attachment(descriptor, -1, link))
        symbol = self._fentry.symbol(probe) or probe.symbols[0]
        return ProbeState(probe, ATTACHED, symbol=symbol, how="fentry")

    def _require_attacher(self) -> Attacher:
        assert self._attacher is not None, "start() first"
        return self._attacher

    def _require_flows(self) -> Flows:
        assert self._flows is not None, "start() first"
        return self._flows

    def _require_calls(self) -> Calls:
        assert self._calls is not None, "start() first"
        return self._calls

    def _counter(self, index: int) -> int:
        return int(self._bpf["counters"][ctypes.c_int(index)].value)

    def _count(self) -> Counters:
        calls = self._require_calls()
        for _ in range(_QUIET_TRIES):
            before = [self._counter(index) for index in range(counters.COUNT)]
            made = calls.counts(self._armed_ns)
            after = [self._counter(index) for index in range(counters.COUNT)]
            if before == after and made == calls.counts(self._armed_ns):
                break
        # Whose file nobody knows may be of a VF that was not asked for, but hardly if its process
        # has nothing to do with one that was.
        theirs = unowned(self._bpf["unowned"], self._processes if self._devices else None)
        result = Counters(after[counters.LOST], after[counters.UNTRACKED], theirs)
        attacher = self._require_attacher()
        for name, attachments in self._attached.items():
            slot = counters.FIRST_PROBE + 2 * NUMBERS[name]
            own = made.get(NUMBERS[name], CallCounts())
            result.probes[name] = ProbeCounts(
                entries=after[slot] + own.entries,
                returns=after[slot + 1] + own.returns,
                open=own.open,
                skipped=attacher.skipped(attachments),
            )
        return result


def _compile(bcc: ModuleType, text: str) -> Any:
    """Compile with our headers, which is quick; where this bcc wants others, with the kernel's."""
    ways: list[tuple[Callable[[], AbstractContextManager[None]], tuple[str, ...]]] = [
        (bccheaders.used, program.CFLAGS + program.QUICK_CFLAGS)
    ]
    if host.headers():
        ways.append((nullcontext, program.CFLAGS))
    for headers, flags in ways:
        with headers(), _captured_stderr() as said:
            try:
                return bcc.BPF(text=text, cflags=list(flags))
            except Exception as error:  # noqa: BLE001 - bcc raises nothing narrower
                output = said()
                failure = f"{error}"
    raise bccerrors.not_compiled(output, failure, bcc.__version__)


def _load(bcc: ModuleType, bpf: Any, name: str) -> int:
    """Have the kernel verify the program ``name``; return its file descriptor."""
    with _captured_stderr() as said:
        try:
            return int(bpf.load_func(name.encode(), bcc.BPF.KPROBE).fd)
        except Exception as error:  # noqa: BLE001 - bcc raises nothing narrower
            output = said()
            failure = f"{error}"
    raise bccerrors.not_loaded(name, output, failure)


def _load_for_fentry(bpf: Any, fentry: Fentry, probe: Probe) -> list[int]:
    """Have the kernel verify the programs for entry and return; return their descriptors."""
    descriptors: list[int] = []
    for number, name in enumerate(probe.fentry_programs):
        code = bpf.dump_func(name.encode())
        try:
            descriptors.append(fentry.load(name, code, probe, at_return=probe.sides[number]))
        except RefusedError:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
    return descriptors


@contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Send what clang writes to file descriptor 2 into a file; yield what reads it."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:

        def said() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(saved, 2)
            os.close(saved)
