# SPDX-License-Identifier: GPL-2.0-or-later
"""What people hit most when a trace does not start, and what it must tell them."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from genbindings.errors import Error
from mlxtrace import bccerrors, bccheaders, capture, host, layout
from mlxtrace.catalogue import PROBES

from .fake_host import OFFSETS, RELEASE, FakeHost

LAYOUTS = layout.Layouts("BTF of mlx5_vfio_pci", OFFSETS)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    return FakeHost(tmp_path, monkeypatch)


def refused() -> Error:
    """Return the error that making the program gives."""
    with pytest.raises(Error) as raised:
        capture.rehearse(PROBES, LAYOUTS)
    assert "\n" not in f"{raised.value}{raised.value.hint}"
    return raised.value


def lock_down(fake: FakeHost) -> None:
    fake.write("sys/kernel/security/lockdown", "none integrity [confidentiality]\n")


def test_a_well_host_takes_every_program(fake: FakeHost) -> None:
    del fake
    assert capture.rehearse(PROBES, LAYOUTS) == sum(len(probe.programs) for probe in PROBES)


def test_no_headers_names_package_paths_override_and_containers(fake: FakeHost) -> None:
    (fake.root / f"lib/modules/{RELEASE}/build/include").rmdir()
    for fail in (
        host.require_headers,
        lambda: capture.rehearse(PROBES, LAYOUTS),
    ):
        fake.bcc("chdir(/lib/modules/x/build): Unable to find kernel headers. ", "Failed")
        with pytest.raises(Error) as raised:
            fail()
        assert f"{fake.root}/lib/modules/{RELEASE}/build" in str(raised.value)
        assert "kheaders.tar.xz" in str(raised.value)
        hint = raised.value.hint
        assert f"linux-headers-{RELEASE}" in hint
        assert "BCC_KERNEL_SOURCE" in hint
        assert "in a container mount" in hint


def test_eperm_as_root_is_lockdown_not_super_user_privileges(fake: FakeHost) -> None:
    lock_down(fake)
    for stage in (
        {"failure": "Need super-user privileges to run"},
        {"load_failure": "Need super-user privileges to run"},
    ):
        fake.bcc(**stage)
        said = refused()
        assert "locked down (confidentiality)" in str(said)
        assert "for root too" in str(said)
        assert "super-user" not in str(said)
        assert "lockdown=integrity" in said.hint


def test_eperm_is_explained_in_order(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    lock_down(fake)
    fake.capabilities()
    assert "root does not have here" in host.why_refused()[0]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "uid 1000 does not have" in host.why_refused()[0]
    fake.capabilities(38, 39)
    assert "locked down" in host.why_refused()[0]
    fake.write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    fake.write("proc/sys/kernel/perf_event_paranoid", "3\n")
    reason, hint = host.why_refused()
    assert reason.startswith("permission denied")
    assert "perf_event_paranoid is 3" in hint


def test_a_probe_that_the_kernel_refuses(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    del fake

    class Refusing:
        def attach(self, *_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

    tracer = capture.Capture(PROBES, LAYOUTS)
    monkeypatch.setattr(tracer, "_attacher", Refusing())
    monkeypatch.setattr(tracer, "_bpf", capture.load_bcc().BPF("enter_set_state", ["-g"]))
    with pytest.raises(Error) as raised:
        tracer._attach(capture.load_bcc(), PROBES[0], frozenset())
    assert f"the kernel refuses a probe on {PROBES[0].symbols[0]}: permission denied" in str(
        raised.value
    )


@pytest.mark.parametrize(
    "said",
    [
        "include/linux/bpf.h:9:1: error: field has incomplete type 'struct bpf_wq'",
        "include/linux/bpf.h:9:1: error: unknown type name 'bpf_task_work'",
    ],
)
def test_bcc_older_than_the_kernel(fake: FakeHost, said: str) -> None:
    fake.bcc(f"In file included from x:\n{said}\n1 error generated.\n", "Failed to compile")
    assert f"bcc 0.26.0 is older than the kernel {RELEASE}" in str(refused())
    assert "update bcc" in refused().hint


def test_another_compiler_error_is_quoted(fake: FakeHost) -> None:
    fake.bcc("/virtual/main.c:3:1: error: expected ';'\n", "Failed to compile")
    assert str(refused()).endswith("/virtual/main.c:3:1: error: expected ';'")
    assert "--ebpf" in refused().hint


def test_a_bcc_that_refuses_our_headers_is_given_the_kernel_s(
    fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    class BPF:
        KPROBE = 2
        ring_buffer_poll = None

        def __init__(self, **_: object) -> None:
            taken.append(os.environ.get(bccheaders.SOURCE))
            if taken[-1]:
                assert (Path(taken[-1]) / "include/linux/types.h").is_file()
                os.write(2, b"fatal error: 'linux/other.h' file not found\n")
                raise Exception("Failed to compile")

        def load_func(self, name: bytes, kind: int) -> SimpleNamespace:
            return SimpleNamespace(fd=len(name) + kind)

    monkeypatch.setattr(sys.modules["bcc"], "BPF", BPF)
    assert capture.rehearse(PROBES, LAYOUTS)
    assert [bool(each) for each in taken] == [True, False]
    (fake.root / f"lib/modules/{RELEASE}/build/include").rmdir()
    with pytest.raises(Error, match="this bcc needs the headers of this kernel"):
        capture.rehearse(PROBES, LAYOUTS)


def test_what_the_verifier_said_is_quoted(fake: FakeHost) -> None:
    fake.bcc("0: R1=ctx\nR2 invalid mem access 'scalar'\n", load_failure="Failed to load BPF")
    assert "R2 invalid mem access" in str(refused())


@pytest.mark.parametrize(
    ("error", "said", "hint"),
    [
        (ModuleNotFoundError("", name="bcc"), "python3-bpfcc", "never install bcc from PyPI"),
        (ModuleNotFoundError("", name="six"), "lacks the module six", "reinstall"),
        (OSError("libLLVM-14.so.1: cannot open"), "libLLVM-14", "LLVM are not of one release"),
        (AttributeError("undefined symbol: bpf_x"), "bpf_x", "LLVM are not of one release"),
        (ImportError("libbcc.so.0"), "libbcc", "libbpfcc"),
    ],
)
def test_import_failures_name_the_packages(error: BaseException, said: str, hint: str) -> None:
    told = bccerrors.not_imported(error)
    assert said in str(told)
    assert hint in told.hint


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ((), "not in this build (inlined"),
        (("mlx5vf_save_read.isra.0",), "only as mlx5vf_save_read.isra.0"),
        (("mlx5vf_save_read.constprop.0",), "only as mlx5vf_save_read.constprop.0"),
        (("mlx5vf_save_read.cold",), "only as mlx5vf_save_read.cold"),
    ],
)
def test_a_symbol_that_cannot_be_probed(fake: FakeHost, names: tuple[str, ...], why: str) -> None:
    fake.rename("mlx5vf_save_read", *names)
    assert why in host.why_absent("mlx5vf_save_read", "mlx5_vfio_pci")


def test_a_blacklisted_symbol_and_one_of_no_module(fake: FakeHost) -> None:
    fake.write("sys/kernel/debug/kprobes/blacklist", "0x1-0x2\tmlx5vf_save_read\n")
    assert "blacklisted" in host.why_absent("mlx5vf_save_read", "mlx5_vfio_pci")
    fake.symbols({"schedule": "vmlinux"})
    assert "not loaded" in host.why_absent("mlx5_cmd_exec", "mlx5_core")
