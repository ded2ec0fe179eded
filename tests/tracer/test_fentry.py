# SPDX-License-Identifier: GPL-2.0-or-later
"""Which probes are put on by fentry, and what happens where the kernel does not take that."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest

from mlxtrace import btf, calls, capture, fentry, layout, probetable, program
from mlxtrace.catalogue import DRIVER, NUMBERS, PROBES
from mlxtrace.doctor import Verdict
from mlxtrace.doctor_driver import _attachable
from mlxtrace.fentry import Fentry, RefusedError
from mlxtrace.kprobe import Attachment
from mlxtrace.probetable import ATTACHED, ProbeState

from .fake_host import OFFSETS, FakeHost

if TYPE_CHECKING:
    from collections.abc import Iterator


BY_NAME = {probe.name: probe for probe in PROBES}
STREAMS = ("save-read", "resume-write")
WITH_FENTRY = {probe.name for probe in PROBES if probe.fentry}
LAYOUTS = layout.Layouts("BTF of mlx5_vfio_pci", OFFSETS)


class Types:
    """BTF that tells of all functions, or of some."""

    def __init__(self, *unknown: str) -> None:
        self._unknown = unknown

    def find(self, name: str, kind: int) -> int | None:
        assert kind == 12
        return None if name in self._unknown else 7


class Kernel:
    """libbpf, as far as it is asked: which sides of a function the kernel takes."""

    def __init__(self, *, loads: bool = True, attaches: tuple[int, ...] = (24, 25)) -> None:
        self.libbpf_major_version = lambda: 1
        self.loads = loads
        self.attaches = attaches
        self.links: list[int] = []

    def bpf_prog_load(self, kind: int, *arguments: Any) -> int:
        assert kind == 26
        options = arguments[4]._obj
        assert (options.attach_btf_id, options.attach_btf_obj_fd > 0) == (7, True)
        return os.open("/dev/null", os.O_RDONLY) if self.loads else -95

    def bpf_link_create(self, program: int, target: int, side: int, _: None) -> int:
        assert (program > 0, target) == (True, 0)
        if side not in self.attaches:
            return -95
        self.links.append(side)
        return os.open("/dev/null", os.O_RDONLY)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel that takes everything, and a module with BTF."""
    made = Kernel()
    monkeypatch.setattr(btf, "library", lambda: made)
    monkeypatch.setattr(btf.Btf, "of_module", lambda _: Types())
    monkeypatch.setattr(fentry, "_module_fd", lambda *_: os.open("/dev/null", os.O_RDONLY))
    return made


@pytest.fixture
def descriptors() -> Iterator[None]:
    """See that as many files are open afterwards as before."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_is_called_often_and_what_runs_in_interrupts_is_for_fentry() -> None:
    assert {*STREAMS, "save-callback"} == WITH_FENTRY
    assert BY_NAME["save-read"].fentry_programs == ("fentry_save_read", "fexit_save_read")
    assert BY_NAME["save-callback"].fentry_programs == ("fentry_save_callback",)


def test_a_module_with_btf(kernel: Kernel, descriptors: None) -> None:
    del kernel, descriptors
    found = Fentry()
    assert found.usable(PROBES) == WITH_FENTRY
    assert found.symbol(BY_NAME["save-read"]) == "mlx5vf_save_read"
    found.close()


def test_why_not(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    del kernel
    probe = BY_NAME["save-read"]
    monkeypatch.setattr(btf.Btf, "of_module", lambda _: Types("mlx5vf_save_read"))
    found = Fentry()
    assert found.why_not(probe) == "the BTF of mlx5_vfio_pci does not tell of mlx5vf_save_read"
    assert found.usable(PROBES) == WITH_FENTRY - {"save-read"}
    found.close()

    def refused(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(fentry, "_module_fd", refused)
    said = Fentry().why_not(probe)
    assert said == "no BTF of mlx5_vfio_pci from the kernel: Operation not permitted"
    monkeypatch.setattr(btf.Btf, "of_module", lambda _: None)
    assert Fentry().why_not(probe) == f"no BTF of {DRIVER}"
    assert Fentry().usable(PROBES) == frozenset()


def test_a_program_that_is_for_fentry_has_no_handlers_for_kprobes() -> None:
    text = program.render(PROBES, LAYOUTS, by_fentry=WITH_FENTRY)
    for probe in PROBES:
        here, there = probe.programs, probe.fentry_programs
        if probe.name in WITH_FENTRY:
            here, there = there, here
        assert all(f"int {name}(" in text for name in here)
        assert not any(f"int {name}(" in text for name in there)
    some = [probe for probe in PROBES if probe.name != "save-read"]
    assert "save_read" not in program.render(some, LAYOUTS, by_fentry=WITH_FENTRY)
    assert "TYPED" not in program.render(PROBES, LAYOUTS)


class Program:
    """A program of bcc: what its text was, and what was loaded of it for kprobes."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.loaded: list[str] = []
        self._tables: dict[str, MagicMock] = {}

    def __getitem__(self, name: str) -> MagicMock:
        return self._tables.setdefault(name, MagicMock())

    def dump_func(self, name: bytes) -> bytes:
        assert f"int {name.decode()}(" in self.text
        return bytes(16)

    def load_func(self, name: bytes, _: int) -> SimpleNamespace:
        assert f"int {name.decode()}(" in self.text
        self.loaded.append(name.decode())
        return SimpleNamespace(fd=-1)


class Kprobes:
    """Attaches whatever it is told to, and notes where."""

    def attach(self, program: int, symbol: str, *, at_return: bool) -> Attachment:
        del symbol, at_return
        return Attachment(program, -2, -2)

    def detach(self, attachment: Attachment) -> None:
        if attachment.by_fentry and attachment.link >= 0:
            os.close(attachment.link)
            os.close(attachment.program)


@pytest.fixture
def programs(kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """What was compiled, on a host that is well."""
    del kernel
    made: list[Program] = []

    def compiled(_: object, text: str) -> Program:
        made.append(Program(text))
        return made[-1]

    FakeHost(tmp_path, monkeypatch)
    monkeypatch.setattr(capture, "_compile", compiled)
    monkeypatch.setattr(capture, "Attacher", Kprobes)
    return made


def test_a_trace_by_fentry(programs: list[Program], kernel: Kernel, descriptors: None) -> None:
    del descriptors
    tracer = capture.Capture(PROBES, LAYOUTS)
    states = tracer.start()
    (compiled,) = programs
    assert {state.probe.name for state in states if state.how == "fentry"} == WITH_FENTRY
    assert all(state.state == ATTACHED and not state.reason for state in states)
    assert kernel.links == [24, 25, 24, 25, 24]
    others = [p for p in PROBES if not p.fentry]
    assert compiled.loaded == [name for probe in others for name in probe.programs]
    tracer._detach()


@pytest.mark.parametrize("attaches", [(), (24,)])
def test_a_kernel_that_refuses_fentry_gets_kprobes(
    programs: list[Program], kernel: Kernel, attaches: tuple[int, ...], descriptors: None
) -> None:
    del descriptors
    kernel.attaches = attaches
    states = capture.Capture(PROBES, LAYOUTS).start()
    assert "int fentry_save_read(" in programs[0].text
    assert "fentry_" not in programs[1].text
    assert len(programs) == 2
    for state in states:
        assert (state.state, state.how) == (ATTACHED, "kprobe")
        refused = "the kernel does not attach f" if state.probe.fentry else ""
        assert state.reason.startswith(refused)
        assert bool(state.reason) == state.probe.fentry
    kernel.loads = False
    assert capture.rehearse(PROBES, LAYOUTS) == sum(len(probe.programs) for probe in PROBES)


def test_a_program_is_never_loaded_through_an_old_libbpf(
    programs: list[Program], kernel: Kernel, descriptors: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bpf_prog_load takes a path first, and crashes on a number."""
    del descriptors
    del kernel.libbpf_major_version
    monkeypatch.setattr(kernel, "bpf_prog_load", None)
    tracer = capture.Capture(PROBES, LAYOUTS)
    for state in tracer.start():
        assert state.how == "kprobe"
        assert state.reason == ("libbpf is older than 0.6" if state.probe.fentry else "")
    assert len(programs) == 1
    assert capture.rehearse(PROBES, LAYOUTS) == sum(len(probe.programs) for probe in PROBES)


def test_minus_one_is_no_errno(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """libbpf 0.6 to 0.8 return -1 for all errors, and leave the errno where C does."""

    def refuse(*_: object) -> int:
        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    monkeypatch.setattr(kernel, "bpf_prog_load", refuse)
    monkeypatch.setattr(kernel, "bpf_link_create", refuse)
    found = Fentry()
    with pytest.raises(RefusedError, match="Operation not supported"):
        found.load("a_program", bytes(16), BY_NAME["save-read"], at_return=False)
    with pytest.raises(RefusedError, match="Operation not supported"):
        found.attach(3, "a_program", at_return=False)
    found.close()


def test_a_rehearsal_has_the_kernel_verify_all(
    programs: list[Program], kernel: Kernel, descriptors: None
) -> None:
    del descriptors
    assert capture.rehearse(PROBES, LAYOUTS) == sum(len(probe.programs) for probe in PROBES)
    assert len(programs) == 1
    assert kernel.links == []


def test_the_table_says_how_and_why_not_otherwise() -> None:
    state = ProbeState(BY_NAME["save-read"], ATTACHED, symbol="f", how="fentry")
    other = ProbeState(BY_NAME["save-read"], ATTACHED, symbol="f", how="kprobe", reason="no BTF")
    first, second = probetable.lines([state.to_json(), other.to_json()])
    assert first.endswith("attached  fentry on f")
    assert second.endswith("attached  kprobe on f (no BTF)")


def test_the_doctor_says_what_a_kprobe_costs(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    del kernel
    probe = BY_NAME["save-read"]
    found = Fentry()
    said = _attachable(probe, "a topic", probe.symbols[0], found)
    assert (said.verdict, said.said) == (Verdict.OK, "attachable by fentry: mlx5vf_save_read")
    found.close()
    monkeypatch.setattr(btf.Btf, "of_module", lambda _: None)
    said = _attachable(probe, "a topic", probe.symbols[0], Fentry())
    assert said.verdict is Verdict.OK
    assert said.said.endswith("costs each call more (no BTF of mlx5_vfio_pci)")


def call(key: int, start_ns: int = 0, entries: int = 0, returns: int = 0) -> SimpleNamespace:
    return SimpleNamespace(key=key, start_ns=start_ns, entries=entries, returns=returns)


class OldTable(dict[int, Any]):
    """A map of a bcc that cannot read it as a whole."""

    def items(self) -> Iterator[Any]:  # type: ignore[override]
        for key, value in list(super().items()):
            yield ctypes.c_uint64(key), value

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(key.value)


class Table(OldTable):
    """A map of bcc."""

    def items_lookup_batch(self) -> Iterator[Any]:
        return self.items()


@pytest.mark.parametrize("streams", [Table, OldTable])
def test_calls_are_counted_where_their_threads_are(streams: type[OldTable]) -> None:
    here, gone = os.getpid(), 1 << 30
    read, write, state = (NUMBERS[name] for name in (*STREAMS, "set-state"))
    mine, others = here << 8 | read, gone << 8 | read
    tables = {
        "calls": Table({here << 8 | state: call(0, 9), gone << 8 | state: call(0, 9)}),
        "stream_calls": streams({0: call(0), 1: call(mine, 9, 5, 4), 2: call(here << 8 | write)}),
        "crowded_calls": Table({others: call(others, 0, 3, 3), mine: call(mine, 1, 2, 1)}),
    }
    found = calls.Calls(tables)
    expected = {
        read: calls.CallCounts(entries=10, returns=8, open=1),
        write: calls.CallCounts(),
        state: calls.CallCounts(open=1),
    }
    assert found.counts(since_ns=5) == expected
    found.forget_threads()
    assert list(dict.keys(tables["crowded_calls"])) == [mine]
    assert found.counts(since_ns=5) == expected
