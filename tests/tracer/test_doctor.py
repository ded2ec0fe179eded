# SPDX-License-Identifier: GPL-2.0-or-later
"""The doctor says of each thing that can be wrong what it is and what to do, and never crashes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from genbindings.errors import Error
from mlxtrace import btf, devices, doctor, doctor_driver, host, layout, vfio_open
from mlxtrace.catalogue import GENERIC, PROBES
from mlxtrace.cli import group
from mlxtrace.doctor import Finding, Verdict

from .fake_host import OFFSETS, RELEASE, FakeHost
from .fake_kernel import BDF, OTHER_BDF, FakeKernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """A host that is well until the test makes it sick."""
    return FakeHost(tmp_path, monkeypatch)


def findings() -> list[Finding]:
    return list(doctor.examine())


def one(topic: str) -> Finding:
    found = [finding for finding in findings() if finding.topic == topic]
    assert len(found) == 1, topic
    return found[0]


def status(*arguments: str) -> int:
    done = CliRunner().invoke(group, ["doctor", *arguments], standalone_mode=False)
    assert done.exception is None
    return int(done.return_value)


def test_a_host_that_is_well(sick: FakeHost) -> None:
    del sick
    assert {f.topic for f in findings() if f.verdict is Verdict.MISSING} == set()
    assert one("privileges").said == "root with CAP_SYS_ADMIN"
    assert one("module").said == "mlx5_vfio_pci is loaded (srcversion ABCDEF)"
    assert f"{len(OFFSETS)} offsets from the BTF of mlx5_vfio_pci" in one("layouts").said
    assert one("program").verdict is Verdict.OK
    assert all(one(f"probe {p.name}").said.startswith("attachable") for p in PROBES)
    assert status() == 0


def test_no_headers_are_no_obstacle(sick: FakeHost) -> None:
    (sick.root / f"lib/modules/{RELEASE}/build/include").rmdir()
    found = one("headers")
    assert found.verdict is Verdict.OK
    assert "none are needed" in found.said
    assert status() == 0


def test_json_says_the_same(sick: FakeHost) -> None:
    del sick
    done = CliRunner().invoke(group, ["doctor", "--json"])
    lines = [json.loads(line) for line in done.output.splitlines()]
    assert lines[:-1] == [finding.to_json() for finding in findings()]
    assert lines[-1]["traceable"] is True
    assert lines[-1]["missing"] == []


def test_usage_is_2(sick: FakeHost) -> None:
    del sick
    assert CliRunner().invoke(group, ["doctor", "--no-such-option"]).exit_code == 2


def remove_the_module(sick: FakeHost) -> None:
    shutil.rmtree(sick.root / "sys/module/mlx5_vfio_pci")
    sick.symbols({})


def break_layouts(sick: FakeHost) -> None:
    def fail() -> layout.Layouts:
        raise Error("the layout is unknown", "install the debug package")

    sick._monkeypatch.setattr(layout, "of_running_module", fail)


def hide_libbpf(sick: FakeHost) -> None:
    def fail() -> None:
        raise Error("libbpf is not installed", "apt install libbpf1")

    sick._monkeypatch.setattr(btf, "library", fail)


@pytest.mark.parametrize(
    ("make", "topic", "said", "remedy"),
    [
        (lambda s: s.capabilities(), "privileges", "does not have here: a container?", "outside"),
        (lambda s: s.capabilities(39), "privileges", "needs CAP_PERFMON (", "outside"),
        (
            lambda s: s.write("sys/kernel/security/lockdown", "none integrity [confidentiality]"),
            "lockdown",
            "for root too",
            "lockdown=integrity",
        ),
        (
            lambda s: s.write("proc/sys/kernel/ftrace_enabled", "0\n"),
            "sysctls",
            "no probe fires",
            "sysctl kernel.ftrace_enabled=1",
        ),
        (
            lambda s: s.write("sys/kernel/debug/kprobes/enabled", "0\n"),
            "sysctls",
            "no kprobe fires",
            "echo 1 >",
        ),
        (hide_libbpf, "libbpf", "not installed", "libbpf1"),
        (
            lambda s: s._monkeypatch.setitem(sys.modules, "bcc", None),
            "bcc",
            "is not there",
            "--system-site-packages",
        ),
        (remove_the_module, "module", "not loaded", "modprobe mlx5_vfio_pci"),
        (break_layouts, "layouts", "unknown", "debug package"),
        (
            lambda s: s.bcc("bpf.h:1:2: error: incomplete type 'struct bpf_wq'", "Failed"),
            "program",
            f"bcc 0.26.0 is older than the kernel {RELEASE}",
            "update bcc",
        ),
        (
            lambda s: s.rename("mlx5_cmd_exec_cb"),
            "probe cmd-exec-cb",
            "not in this",
            "report",
        ),
    ],
)
def test_what_makes_a_trace_impossible(
    sick: FakeHost, make: object, topic: str, said: str, remedy: str
) -> None:
    assert callable(make)
    make(sick)
    found = next(f for f in findings() if f.topic == topic)
    assert found.verdict is Verdict.MISSING
    assert said in found.said
    assert remedy in found.remedy
    assert status() == 1
    assert status("--json") == 1


@pytest.mark.parametrize(
    ("make", "topic", "said"),
    [
        (lambda s: s.capabilities(38, 39), "privileges", "without CAP_SYS_ADMIN"),
        (
            lambda s: s.write("proc/sys/net/core/bpf_jit_enable", "0\n"),
            "sysctls",
            "interpreted",
        ),
        (
            lambda s: s.layouts({k: v for k, v in OFFSETS.items() if "INFO" not in k}),
            "pre-copy",
            "no PRE_COPY",
        ),
        (lambda s: s.rename("mlx5vf_save_read"), "probe save-read", "inlined"),
        (
            lambda s: s.rename("mlx5vf_save_read", "mlx5vf_save_read.isra.0"),
            "probe save-read",
            "only as mlx5vf_save_read.isra.0",
        ),
        (
            lambda s: s.rename("mlx5vf_save_read", "mlx5vf_save_read.cold"),
            "probe save-read",
            "only as mlx5vf_save_read.cold",
        ),
        (
            lambda s: s.write("sys/kernel/debug/kprobes/blacklist", "0x1-0x2\tmlx5vf_save_read\n"),
            "probe save-read",
            "blacklisted",
        ),
        (lambda _: None, "probe save-callback", "by kprobe only"),
        (lambda _: None, "vfs", "no mlx5 VF yet"),
    ],
)
def test_what_makes_a_trace_show_less(sick: FakeHost, make: object, topic: str, said: str) -> None:
    assert callable(make)
    make(sick)
    found = one(topic)
    assert found.verdict is Verdict.DEGRADED
    assert said in found.said
    assert found.remedy or topic == "pre-copy"
    assert status() == 0


def test_bcc_that_does_not_fit_its_libraries(
    sick: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del sick
    monkeypatch.delitem(sys.modules, "bcc")
    package = tmp_path / "broken"
    package.mkdir()
    monkeypatch.syspath_prepend(package)
    for failure in (
        'raise OSError("libLLVM-14.so.1: cannot open shared object file")',
        'raise AttributeError("libbcc.so.0: undefined symbol: bcc_func_load")',
    ):
        (package / "bcc.py").write_text(failure + "\n")
        found = one("bcc")
        assert found.verdict is Verdict.MISSING
        assert "LLVM are not of one release" in found.remedy
        assert "python3-bpfcc" in found.remedy


def test_nothing_at_all_is_no_crash(
    sick: FakeHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.rmtree(sick.root / "proc")
    shutil.rmtree(sick.root / "sys")
    host._symbols.cache_clear()
    monkeypatch.setitem(sys.modules, "bcc", None)
    monkeypatch.undo()
    nowhere = tmp_path / "nowhere"
    for name in sick.places:
        monkeypatch.setattr(host, name, nowhere / name)
    monkeypatch.setattr(devices, "SYSFS", nowhere)
    monkeypatch.setattr(btf, "SYSFS", nowhere)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    host._symbols.cache_clear()
    assert one("privileges").said.endswith("which uid 1000 does not have")
    assert "could not be examined" not in " ".join(f.said for f in findings())
    assert status() == 1
    host._symbols.cache_clear()


def test_a_check_that_fails_in_an_unforeseen_way_is_a_finding() -> None:
    def check() -> Iterator[Finding]:
        yield Finding("a", Verdict.OK, "fine")
        raise KeyError("unforeseen")

    for required, verdict in ((False, Verdict.DEGRADED), (True, Verdict.MISSING)):
        first, second = doctor.guarded("a", check, required=required)
        assert first.verdict is Verdict.OK
        assert second.verdict is verdict
        assert "KeyError" in second.said


@pytest.mark.parametrize("topic", ["module", "layouts", "program", "probes"])
def test_a_trace_does_not_work_where_the_doctor_stumbles(
    sick: FakeHost, monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    del sick

    def stumble(_: object) -> Iterator[Finding]:
        raise FileNotFoundError("modinfo")

    monkeypatch.setattr(doctor_driver.Driver, topic, stumble)
    assert one(topic).verdict is Verdict.MISSING
    assert status() == 1


def test_every_line_is_short(sick: FakeHost, tmp_path: Path) -> None:
    remove_the_module(sick)
    # On a real host the paths begin at the root.
    text = CliRunner().invoke(group, ["doctor"]).output.replace(str(tmp_path), "")
    assert max(map(len, text.splitlines())) < 100
    assert text.splitlines()[-1].strip()
    for probe in PROBES:
        assert f"probe {probe.name}: " in text


class TestVfs:
    """VFs, with the model of VFIO below."""

    @pytest.fixture
    def kernel(self, sick: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
        del sick
        return FakeKernel(tmp_path, monkeypatch)

    def test_an_idle_vf_is_asked_and_closed(self, kernel: FakeKernel) -> None:
        assert one(f"vf {BDF}").said == (
            "driver mlx5_vfio_pci, IOMMU group 7; migration STOP_COPY P2P PRE_COPY"
        )
        assert not vfio_open._groups
        kernel.migration_flags = 3
        assert "without PRE_COPY" in one(f"vf {BDF}").said
        kernel.migration_flags = 0
        assert "offers no migration" in one(f"vf {BDF}").said

    def test_a_vf_in_use_is_not_opened(self, kernel: FakeKernel) -> None:
        process = kernel.root / "proc/8123"
        (process / "fd").mkdir(parents=True)
        (process / "fd/9").symlink_to(kernel.dev / "vfio/7")
        (process / "comm").write_text("qemu-kvm\n")
        found = one(f"vf {BDF}")
        assert found.verdict is Verdict.OK
        assert found.said.endswith("in use by qemu-kvm (8123), so it was not opened")
        assert not any(path == "dev/vfio/7" for path, _ in kernel.requests)
        assert "migration" in one(f"vf {OTHER_BDF}").said

    def test_none_is_opened_with_no_open(self, kernel: FakeKernel) -> None:
        list(doctor.examine(open_vfs=False))
        assert kernel.requests == []

    def test_vfs_that_cannot_migrate_as_they_are(self, kernel: FakeKernel) -> None:
        kernel.add(BDF, 7, "mlx5_core", None)
        kernel.add(OTHER_BDF, None, "mlx5_vfio_pci", "vfio1")
        assert "driver mlx5_core, IOMMU group 7" in one(f"vf {BDF}").said
        assert "no IOMMU group" in one(f"vf {OTHER_BDF}").said
        assert "intel_iommu=on" in one(f"vf {OTHER_BDF}").remedy
        kernel.add(OTHER_BDF, 8, "mlx5_vfio_pci", "vfio1")
        kernel.viable = False
        assert "it does not open" in one(f"vf {OTHER_BDF}").said


class TestAnyDriver:
    """What a trace of any driver of VFIO migration needs."""

    @pytest.fixture
    def core(self, sick: FakeHost, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
        """A host on which it works, with a driver of its own and none of mlx5's."""
        shutil.rmtree(sick.root / "sys/module/mlx5_vfio_pci")
        sick.write("sys/module/vfio/srcversion", "FEDCBA\n")
        sick.write("sys/module/vfio/holders/acme_vfio/refcnt", "0\n")
        symbols = {probe.symbols[0]: probe.module for probe in GENERIC}
        sick.symbols({**symbols, "acme_save_read": "acme_vfio", "acme_resume_write": "acme_vfio"})
        found = layout.Layouts("BTF of vfio", {"OFF": 8}, generic=True)
        monkeypatch.setattr(layout, "of_running_core", lambda: found)
        return sick

    def of_core(self) -> dict[str, Finding]:
        return {finding.topic: finding for finding in doctor.examine(generic=True)}

    def test_it_needs_no_mlx5(self, core: FakeHost) -> None:
        found = self.of_core()
        assert not [f for f in found.values() if f.verdict is Verdict.MISSING]
        assert found["module"].said == "vfio is loaded (srcversion FEDCBA)"
        assert found["layouts"].said == "1 offsets from the BTF of vfio"
        assert found["probe save-read"].said == "attachable: acme_save_read"
        assert "so there are no ioctl rows" in found["probe precopy-ioctl"].said
        assert {f"probe {probe.name}" for probe in GENERIC} <= set(found)
        assert status("--driver", "any") == 0
        assert status() == 1, "mlx5's driver is not there"
        core.symbols({})
        assert self.of_core()["probe device-ioctl"].verdict is Verdict.MISSING

    def test_devices_of_all_drivers_are_listed(
        self, core: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert core
        assert "no driver of VFIO has a PCI device" in self.of_core()["devices"].said
        kernel = FakeKernel(tmp_path, monkeypatch)
        kernel.add(BDF, 7, "acme_vfio", "vfio0")
        kernel.add("0000:01:00.3", 9, "acme", None)
        found = self.of_core()
        assert found[f"vf {BDF}"].said == (
            "driver acme_vfio, IOMMU group 7; migration STOP_COPY P2P PRE_COPY"
        )
        assert "vf 0000:01:00.3" not in found
        kernel.migration_flags = 3
        assert "made in STOP_COPY" in self.of_core()[f"vf {BDF}"].remedy
