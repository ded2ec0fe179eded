# SPDX-License-Identifier: GPL-2.0-or-later
"""A libbpf or a bcc that is older than what mlxtrace was written for: used as it is, or named."""

from __future__ import annotations

import ctypes
import errno
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error
from mlxtrace import btf, capture, doctor_driver, doctor_host, fentry
from mlxtrace.catalogue import PROBES
from mlxtrace.doctor import Verdict
from mlxtrace.fentry import Fentry

from .fake_host import FakeHost

if TYPE_CHECKING:
    from pathlib import Path

OLD = "libbpf is older than 0.6"
LOAD = btf.library.__wrapped__


class Library:
    """libbpf.so.0, which has all functions but ``lacks``."""

    _name = "libbpf.so.0"

    def __init__(self, lacks: str) -> None:
        self._lacks = lacks

    def __getattr__(self, name: str) -> MagicFunction:
        if name == self._lacks:
            raise AttributeError(f"/lib/libbpf.so.0: undefined symbol: {name}")
        return MagicFunction()


class MagicFunction:
    """A function that can be declared and called."""

    def __call__(self, *_: object) -> None:
        """Do nothing."""


def loaded(monkeypatch: pytest.MonkeyPatch, lacks: str) -> None:
    """Let that be the libbpf of this host."""

    def load(name: str, *, use_errno: bool) -> Library:
        assert use_errno
        if name != "libbpf.so.0":
            raise OSError(name)
        return Library(lacks)

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(btf, "library", LOAD)


def test_a_libbpf_that_lacks_what_reads_btf_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded(monkeypatch, "btf__load_vmlinux_btf")
    with pytest.raises(Error, match=r"libbpf.so.0 is older than libbpf 0.5") as raised:
        btf.library()
    assert "update libbpf" in raised.value.hint


def test_the_doctor_tells_what_an_old_libbpf_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded(monkeypatch, "libbpf_major_version")
    (found,) = doctor_host.libbpf()
    assert found.verdict is Verdict.DEGRADED
    assert f"libbpf.so.0: {OLD}" in found.said
    monkeypatch.setattr(btf.Btf, "of_module", lambda _: "types")
    probe = next(probe for probe in PROBES if probe.interrupt)
    found = doctor_driver._attachable(probe, "a topic", probe.symbols[0], Fentry())
    assert found.verdict is Verdict.DEGRADED
    assert found.remedy == "update libbpf"
    loaded(monkeypatch, "nothing")
    (found,) = doctor_host.libbpf()
    assert found.verdict is Verdict.OK


def test_minus_one_is_no_errno_of_a_module_s_btf() -> None:
    def refuse(_: int) -> int:
        ctypes.set_errno(errno.EACCES)
        return -1

    ids = iter([0, -1])
    library = SimpleNamespace(bpf_btf_get_next_id=lambda *_: next(ids), bpf_btf_get_fd_by_id=refuse)
    with pytest.raises(PermissionError) as raised:
        fentry._module_fd(library, "mlx5_vfio_pci")  # type: ignore[arg-type]
    assert raised.value.errno == errno.EACCES


def test_a_bcc_without_ring_buffers_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeHost(tmp_path, monkeypatch)
    capture.load_bcc()
    bcc = sys.modules["bcc"]
    monkeypatch.delattr(bcc.BPF, "ring_buffer_poll")
    monkeypatch.setattr(bcc, "__version__", "0.12.0")
    with pytest.raises(Error, match=r"bcc 0.12.0 is too old") as raised:
        capture.load_bcc()
    assert "update bcc" in raised.value.hint
